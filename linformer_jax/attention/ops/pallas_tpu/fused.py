"""The sublayer after its projection as one kernel for TPUs.

For a block of rows of X it computes, with K' and V' of all heads and W_Q and
W_O in vector memory,

  Q = (X W_Q + b_Q) / sqrt(D),  O_h = softmax(Q_h K'_h^T) V'_h,  Y = O W_O + b_O

so X is read once and Y is written once. The backward pass recomputes Q and O
from X, and saves nothing but its inputs:

  dO = dY W_O^T,  dW_O = sum O^T dY,  db_O = sum dY,
  dQ, dK', dV' of each head as in `head`,
  dX = dQ W_Q^T / sqrt(D),  dW_Q = sum X^T dQ / sqrt(D),  db_Q likewise

Sums over rows are float32.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from linformer_jax.attention.ops import flash
from linformer_jax.attention.ops.pallas_tpu import head
from linformer_jax.attention.ops.pallas_tpu.head import (
  columns,
  matmul,
  matmul_nt,
  matmul_tn,
  padded,
)


@flax.struct.dataclass
class Weights:
  """Parameters of a sublayer; products cast them to the dtype of x.

  Attributes:
    query, query_bias: W_Q [M, H D] and b_Q [H D].
    out, out_bias: W_O [H D, M] and b_O [M].
  """

  query: jax.Array
  query_bias: jax.Array
  out: jax.Array
  out_bias: jax.Array

  def arrays(self, dtype) -> tuple[jax.Array, ...]:
    """Returns matrices in a dtype, biases as rows."""
    biases = self.query_bias, self.out_bias
    row, last = (x.astype(dtype)[None] for x in biases)
    return self.query.astype(dtype), row, self.out.astype(dtype), last


def _queries(x, query, bias, dim):
  """Returns scaled Q [n, H D] of rows x, in their dtype."""
  q = matmul(x, query[...]).astype(x.dtype) + bias[...]
  return (q * dim**-0.5).astype(x.dtype)


def _forward_kernel(x, k, v, query, query_bias, out, out_bias, *refs, dim):
  *mask, y, rows = refs
  mask = mask[0][...] if mask else None
  q = _queries(x[...], query, query_bias, dim)
  for i in range(q.shape[1] // dim):
    at = columns(i, dim)
    found = head.forward(q[:, at], k[:, at], v[:, at], mask)
    rows[:, at] = found.astype(rows.dtype)
  y[...] = matmul(rows[...], out[...]).astype(y.dtype) + out_bias[...]


def _backward_kernel(x, dy, k, v, query, bias, out, *refs, dim, length):
  *mask, dx, dk, dv, dquery, dbias, dout, dout_bias = refs[:-4]
  rows, dq, *sums = refs[-4:]
  mask = mask[0][...] if mask else None
  sequence, block = pl.program_id(0), pl.program_id(1)

  @pl.when((sequence == 0) & (block == 0))
  def _():
    for total in (dquery, dbias, dout, dout_bias):
      total[...] = jnp.zeros_like(total)

  sums = head.Sums((dk, dv), tuple(sums))
  sums.begin(block == 0)
  real = head.real_rows(block, x.shape[0], length)
  inputs, grads = (head.select(real, a[...]) for a in (x, dy))
  q = _queries(inputs, query, bias, dim)
  do = matmul_nt(grads, out[...]).astype(grads.dtype)
  for i in range(q.shape[1] // dim):
    at = columns(i, dim)
    found = head.backward(q[:, at], k[:, at], v[:, at], mask, do[:, at])
    rows[:, at] = found[0].astype(rows.dtype)
    dq[:, at] = (found[1] * dim**-0.5).astype(dq.dtype)
    for total, x_i in zip(sums.scratch, found[2:], strict=True):
      total[:, at] += x_i
  dx[...] = matmul_nt(dq[...], query[...]).astype(dx.dtype)
  dquery[...] += matmul_tn(inputs, dq[...])
  dout[...] += matmul_tn(rows[...], grads)
  for total, rows_of in ((dbias, dq[...]), (dout_bias, grads)):
    total[...] += jnp.sum(rows_of.astype(jnp.float32), 0, keepdims=True)
  sums.end(block == pl.num_programs(1) - 1)


def _call(kernel, name, plan, inputs, outputs, scratch, semantics, flops):
  """Calls a kernel on blocks of rows.

  Args:
    kernel, name: the kernel.
    plan: (rows of a block, D, budget, interpret).
    inputs: rows, then k and v [B, K, H D], then weights, then a mask or None;
      as three tuples and the mask.
    outputs: shapes of rows, slots, and sums over all programs, as tuples.
    scratch: shapes of arrays that stay in vector memory.
    semantics: of both axes of the grid.
    flops: of all programs.
  """
  count, _, budget, interpret = plan
  *groups, mask = inputs
  (b, n, m), (_, slots, width) = groups[0][0].shape, groups[1][0].shape
  rows = pl.BlockSpec((None, count, m), lambda b, i: (b, i, 0))
  slot = pl.BlockSpec((None, slots, width), lambda b, i: (b, 0, 0))

  def whole(x):
    return pl.BlockSpec(x.shape, lambda b, i: (0, 0))

  def specs(of_rows, of_slots, rest):
    found = [rows] * len(of_rows) + [slot] * len(of_slots)
    return found + [whole(x) for x in rest]

  given, in_specs = sum(groups, ()), specs(*groups)
  if mask is not None:
    given += (mask,)
    in_specs.append(pl.BlockSpec((None, 1, slots), lambda b, i: (b, 0, 0)))
  returned = sum(outputs, ())
  exponentials = b * n * slots * (width // plan[1])
  call = pl.pallas_call(
    kernel,
    name=name,
    grid=(b, pl.cdiv(n, count)),
    in_specs=in_specs,
    out_specs=specs(*outputs),
    out_shape=list(returned),
    scratch_shapes=[pltpu.VMEM(*x) for x in scratch],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=semantics, vmem_limit_bytes=budget
    ),
    cost_estimate=head.cost((*given, *returned), flops, exponentials),
    interpret=interpret,
  )
  return call(*given)


def _flops(x, k, dense: int, scores: int) -> int:
  """Returns FLOPs of products with weights, and of those with slots."""
  b, n, m = x.shape
  _, slots, width = k.shape
  return 2 * b * n * width * (dense * m + scores * slots)


def _forward(plan, x, weights, k, v, mask):
  (y,) = _call(
    functools.partial(_forward_kernel, dim=plan[1]),
    "sublayer_forward",
    plan,
    ((x,), (k, v), weights.arrays(x.dtype), mask),
    ((head.like(x),), (), ()),
    [((plan[0], k.shape[2]), x.dtype)],
    ("parallel", "parallel"),
    _flops(x, k, 2, 2),
  )
  return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(plan, x, weights, k, v, mask):
  return _forward(plan, x, weights, k, v, mask)


def _apply_forward(plan, x, weights, k, v, mask):
  return _forward(plan, x, weights, k, v, mask), (x, weights, k, v, mask)


def _apply_backward(plan, saved, dy):
  x, weights, k, v, mask = saved
  arrays, width = weights.arrays(x.dtype), k.shape[2]
  sums = tuple(jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in arrays)
  rows = (plan[0], width), x.dtype
  slots = k.shape[1:], jnp.float32
  dx, dk, dv, *found = _call(
    functools.partial(_backward_kernel, dim=plan[1], length=x.shape[1]),
    "sublayer_backward",
    plan,
    ((x, dy), (k, v), arrays[:3], mask),
    ((head.like(x),), (head.like(k), head.like(v)), sums),
    [rows, rows, slots, slots],
    ("arbitrary", "arbitrary"),
    _flops(x, k, 5, 6),
  )
  leaves, tree = jax.tree.flatten(weights)
  found = [
    a.reshape(b.shape).astype(b.dtype)
    for a, b in zip(found, leaves, strict=True)
  ]
  return dx, jax.tree.unflatten(tree, found), dk, dv, None


_apply.defvjp(_apply_forward, _apply_backward)


def needed(rows, embed_dim, width, slots, dtype) -> int:
  """Returns the bytes of vector memory that the backward pass holds, a model.

  Lanes are padded to 128. Two buffers of each block: of x, dY and dX; of W_Q
  and W_O, and of the float32 sums of their gradients; of K', V', dK' and dV'.
  Once: float32 sums of the latter; O, dQ, Q and dO; and in float32 the results
  of two products with weights, and four arrays of scores of one head.
  """
  size, m, hd = jnp.dtype(dtype).itemsize, padded(embed_dim), padded(width)
  weights = 2 * 2 * m * hd * (size + 4)
  slot = slots * hd * (8 * size + 2 * 4)
  blocks = rows * (2 * 3 * m * size + 4 * hd * size + 4 * (m + hd))
  return weights + slot + blocks + 4 * 4 * rows * padded(slots)


def choose(x_shape, k_shape, dtype, budget) -> int | None:
  """Returns the most rows of a block that fit a budget, or None.

  Args:
    x_shape, k_shape: of x [B, N, M] and K' [B, H, K, D].
    dtype: of x.
    budget: bytes of vector memory.
  """
  (_, length, m), (_, h, slots, dim) = x_shape, k_shape
  for rows in head.ROWS:
    if needed(rows, m, h * dim, slots, dtype) <= budget:
      return min(rows, length)
  return None


def kernel(
  x, weights, k, v, mask=None, *, rows=None, budget=None, interpret=False
):
  """Returns Y [B, N, M] by the kernel, whatever the platform.

  Args:
    x: rows [B, N, M].
    weights: see `Weights`.
    k, v: K' and V' [B, H, K, D].
    mask: bool [B, K], True at slots to attend to, or None.
    rows: of a block, or None for as many as fit.
    budget: bytes of vector memory.
    interpret: whether to run it without a compiler, on any platform.

  Raises:
    ValueError: if not even the fewest rows fit.
  """
  budget = budget or head.budget()
  slots, dim = k.shape[2:]
  rows = rows or choose(x.shape, k.shape, x.dtype, budget)
  if rows is None:
    raise ValueError(
      f"the sublayer of width {x.shape[2]} with {slots} slots does not fit "
      f"{budget >> 20} MiB of vector memory: use implementation 'pallas_tpu'"
    )
  if mask is not None:
    mask = mask.astype(jnp.float32)[:, None]
  k, v = (head.by_rows(a.swapaxes(1, 2)) for a in (k, v))
  return _apply((rows, dim, budget, interpret), x, weights, k, v, mask)


def reference(x, weights, k, v, mask=None, attend=flash.attend):
  """Computes the same with einsum and `attend`, as the dense layers do."""
  query, query_bias, out, out_bias = weights.arrays(x.dtype)
  _, h, _, dim = k.shape
  q = jnp.einsum("bnm,mf->bnf", x, query) + query_bias
  q = (q * dim**-0.5).astype(x.dtype).reshape(*x.shape[:2], h, dim)
  rows = head.by_rows(attend(q, k, v, mask))
  return jnp.einsum("bnf,fm->bnm", rows, out) + out_bias
