"""E X and F X as one kernel for TPUs that reads X once.

With W = [E; F] [R, N] it computes W X, summed over blocks of rows in float32.
Backward, in one kernel that reads X once, too, and all sequences for a block of
rows in turn:

  dX = W^T dY,  dW = sum over sequences of dY X^T
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from linformer_jax.attention.ops.pallas_tpu import head
from linformer_jax.attention.ops.pallas_tpu.head import (
  matmul,
  matmul_nt,
  matmul_tn,
  padded,
  select,
)

# Rows of a block, the most first. They are columns of W, so whole registers.
ROWS = (1_024, 512, 256, 128)


def _columns(block, w, length):
  """Sets columns of a block of W beyond the last row to zero."""
  rows = w.shape[1]
  if length % rows == 0:
    return w
  at = block * rows + jax.lax.broadcasted_iota(jnp.int32, (1, rows), 1)
  return jnp.where(at < length, w, jnp.zeros_like(w))


def _forward_kernel(w, x, y, total, *, length):
  block = pl.program_id(1)
  sums = head.Sums((y,), (total,))
  sums.begin(block == 0)
  real = head.real_rows(block, x.shape[0], length)
  total[...] += matmul(_columns(block, w[...], length), select(real, x[...]))
  sums.end(block == pl.num_programs(1) - 1)


def _backward_kernel(w, x, dy, dx, dw, total, *, length):
  sequence = pl.program_id(1)
  sums = head.Sums((dw,), (total,))
  sums.begin(sequence == 0)
  real = head.real_rows(pl.program_id(0), x.shape[0], length)
  dx[...] = matmul_tn(w[...], dy[...]).astype(dx.dtype)
  total[...] += matmul_nt(dy[...], select(real, x[...]))
  sums.end(sequence == pl.num_programs(1) - 1)


def _call(kernel, name, plan, w, x, outputs, specs, axes, sums, arrays, moved):
  """Calls a kernel.

  Args:
    kernel, name, plan: the kernel.
    w, x, arrays: W and X, and all inputs.
    outputs: shapes, or one.
    specs: of inputs and outputs.
    axes: the grid.
    sums: shape of its float32 sums.
    moved: arrays as often as they are read or written.
  """
  _, budget, interpret = plan
  returned = outputs if isinstance(outputs, list) else [outputs]
  flops = 2 * w.shape[0] * x.size * len(returned)
  return pl.pallas_call(
    functools.partial(kernel, length=x.shape[1]),
    name=name,
    grid=axes,
    in_specs=specs[0],
    out_specs=specs[1],
    out_shape=outputs,
    scratch_shapes=[pltpu.VMEM(sums, jnp.float32)],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=budget
    ),
    cost_estimate=head.cost(moved, flops, 0),
    interpret=interpret,
  )(*arrays)


def _forward(plan, w, x):
  rows, (b, n, m), r = plan[0], x.shape, w.shape[0]
  w, y = w.astype(x.dtype), jax.ShapeDtypeStruct((b, r, m), x.dtype)
  return _call(
    _forward_kernel,
    "projection_forward",
    plan,
    w,
    x,
    y,
    (
      [
        pl.BlockSpec((r, rows), lambda b, i: (0, i)),
        pl.BlockSpec((None, rows, m), lambda b, i: (b, i, 0)),
      ],
      pl.BlockSpec((None, r, m), lambda b, i: (b, 0, 0)),
    ),
    (b, pl.cdiv(n, rows)),
    (r, m),
    (w, x),
    (*[w] * b, x, y),  # W for each sequence
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _project(plan, w, x):
  return _forward(plan, w, x)


def _project_forward(plan, w, x):
  return _forward(plan, w, x), (w, x)


def _project_backward(plan, saved, dy):
  w, x = saved
  rows, (b, n, m), r = plan[0], x.shape, w.shape[0]
  columns = pl.BlockSpec((r, rows), lambda i, b: (0, i))
  block = pl.BlockSpec((None, rows, m), lambda i, b: (b, i, 0))
  count, sums = pl.cdiv(n, rows), jax.ShapeDtypeStruct(w.shape, jnp.float32)
  cast = w.astype(x.dtype)
  dx, dw = _call(
    _backward_kernel,
    "projection_backward",
    plan,
    w,
    x,
    [head.like(x), sums],
    (
      [columns, block, pl.BlockSpec((None, r, m), lambda i, b: (b, 0, 0))],
      [block, columns],
    ),
    (count, b),
    (r, rows),
    (cast, x, dy),
    (cast, x, x, sums, *[dy] * count),  # dY for each block of rows
  )
  return dw.astype(w.dtype), dx


_project.defvjp(_project_forward, _project_backward)


def choose(length, width, slots, dtype, budget) -> int | None:
  """Returns the most rows of a block that fit a budget, or None.

  Two buffers of each block of W, X, dX and dY, and of dW in float32, its sum
  and a product; forward there is less.

  Args:
    length, width: N and M.
    slots: R, the rows of E and F together.
    dtype: of X.
    budget: bytes of vector memory.
  """
  size, m = jnp.dtype(dtype).itemsize, padded(width)
  for rows in ROWS:
    blocks = 2 * size * (slots * rows + 2 * rows * m + slots * m)
    if blocks + 4 * (4 * slots * rows + 2 * slots * m) <= budget:
      return rows if rows < length else length
  return None


def kernel(w, x, *, rows=None, budget=None, interpret=False):
  """Returns W X [B, R, M] by the kernel, whatever the platform.

  Args:
    w: [R, N], in any dtype; the product casts it to the dtype of x.
    x: [B, N, M], zero at padding.
    rows: of a block, or None for as many as fit: all, or a multiple of 128.
    budget: bytes of vector memory.
    interpret: whether to run it without a compiler, on any platform.
  """
  budget = budget or head.budget()
  rows = rows or choose(x.shape[1], x.shape[2], len(w), x.dtype, budget)
  return _project((rows, budget, interpret), w, x)


def reference(w, x):
  """Computes the same with einsum."""
  return jnp.einsum("rn,bnm->brm", w.astype(x.dtype), x)
