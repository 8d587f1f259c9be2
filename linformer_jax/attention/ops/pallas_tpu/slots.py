"""Attention from N queries to K slots as one kernel for TPUs.

K' and V' of a head [K, D] stay in vector memory while queries stream by, a
block of rows at a time, so scores never leave it; `head` has the mathematics.
Rows and slots lie [B, N or K, H D], as the dense layers make them, and a
program has several heads, so that its columns are a multiple of 128, the lanes
of a register.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from linformer_jax.attention.ops.pallas_tpu import head


def _forward_kernel(q, k, v, *refs, dim):
  *mask, out = refs
  mask = mask[0][...] if mask else None
  for i in range(q.shape[1] // dim):
    at = head.columns(i, dim)
    out[:, at] = head.forward(q[:, at], k[:, at], v[:, at], mask).astype(
      out.dtype
    )


def _backward_kernel(q, do, k, v, *refs, dim, length):
  *mask, dq, dk, dv, sum_dk, sum_dv = refs
  mask = mask[0][...] if mask else None
  block, sums = pl.program_id(2), head.Sums((dk, dv), (sum_dk, sum_dv))
  sums.begin(block == 0)
  real = head.real_rows(block, q.shape[0], length)
  for i in range(q.shape[1] // dim):
    at = head.columns(i, dim)
    rows, grads = head.select(real, q[:, at]), head.select(real, do[:, at])
    found = head.backward(rows, k[:, at], v[:, at], mask, grads)
    dq[:, at] = found[1].astype(dq.dtype)
    sum_dk[:, at] += found[2]
    sum_dv[:, at] += found[3]
  sums.end(block == pl.num_programs(2) - 1)


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How an array is divided.

  Attributes:
    rows: of a block.
    heads: of a program, G.
    budget: bytes of vector memory for the compiler.
  """

  rows: int
  heads: int
  budget: int = head.DEFAULT_BUDGET


def heads_of(num_heads: int, dim: int) -> int:
  """Returns the fewest heads whose columns are whole registers, or all."""
  group = math.lcm(dim, head.LANES) // dim
  return group if num_heads % group == 0 else num_heads


def choose(length, num_heads, dim, slots, dtype, budget):
  """Returns the largest `Blocks` whose backward pass fits a budget, or None.

  A model of what the backward pass holds, with lanes padded to 128: two buffers
  of each block of q, dO, dQ, K', V', dK' and dV', two float32 sums of the
  latter, and four float32 arrays of scores.
  """
  heads, size = heads_of(num_heads, dim), jnp.dtype(dtype).itemsize
  width = head.padded(heads * dim)
  fixed = slots * width * (8 * size + 2 * 4)
  for rows in head.ROWS:
    blocks = 2 * 3 * rows * width * size + 4 * 4 * rows * head.padded(slots)
    if fixed + blocks <= budget:
      # A single block has all rows, of any number.
      return Blocks(min(rows, length), heads, budget)
  return None


def _call(kernel, name, blocks, dim, interpret, last, inputs, outputs, sums=0):
  """Calls a kernel on arrays [B, N or K, H D] and, at the end, a mask.

  Args:
    kernel, name: the kernel.
    blocks, interpret: see `kernel`.
    dim: D.
    last: whether blocks of rows are independent: 'parallel' or 'arbitrary'.
    inputs: rows, then k and v, then a mask [B, 1, K] or None.
    outputs: shapes like those of some inputs.
    sums: how many of the last outputs are sums over blocks of rows.
  """
  *arrays, mask = inputs
  (b, n, width), slots = arrays[0].shape, arrays[-1].shape[1]
  rows = pl.BlockSpec(
    (None, blocks.rows, blocks.heads * dim), lambda b, h, i: (b, i, h)
  )
  slot = pl.BlockSpec(
    (None, slots, blocks.heads * dim), lambda b, h, i: (b, 0, h)
  )
  specs = [rows] * (len(arrays) - 2) + [slot] * 2
  if mask is not None:
    arrays.append(mask)
    specs.append(pl.BlockSpec((None, 1, slots), lambda b, h, i: (b, 0, 0)))
  scores = b * n * (width // dim) * slots
  products = 5 if sums else 2
  found = pl.pallas_call(
    kernel,
    name=name,
    grid=(b, width // (blocks.heads * dim), pl.cdiv(n, blocks.rows)),
    in_specs=specs,
    out_specs=[rows] * (len(outputs) - sums) + [slot] * sums,
    out_shape=outputs,
    scratch_shapes=[pltpu.VMEM((slots, blocks.heads * dim), jnp.float32)]
    * sums,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", last),
      vmem_limit_bytes=blocks.budget,
    ),
    cost_estimate=head.cost(
      (*arrays, *outputs), products * 2 * scores * dim, scores
    ),
    interpret=interpret,
  )
  return found(*arrays)


def _forward(plan, q, k, v, mask):
  blocks, dim, interpret = plan
  kernel = functools.partial(_forward_kernel, dim=dim)
  name = "projected_attention_forward"
  inputs, outputs = (q, k, v, mask), [head.like(q)]
  return _call(
    kernel, name, blocks, dim, interpret, "parallel", inputs, outputs
  )[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan, q, k, v, mask):
  return _forward(plan, q, k, v, mask)


def _attend_forward(plan, q, k, v, mask):
  return _forward(plan, q, k, v, mask), (q, k, v, mask)


def _attend_backward(plan, saved, do):
  blocks, dim, interpret = plan
  q, k, v, mask = saved
  kernel = functools.partial(_backward_kernel, dim=dim, length=q.shape[1])
  name = "projected_attention_backward"
  inputs, outputs = (
    (q, do, k, v, mask),
    [head.like(q), head.like(k), head.like(v)],
  )
  found = _call(
    kernel, name, blocks, dim, interpret, "arbitrary", inputs, outputs, sums=2
  )
  return *found, None


_attend.defvjp(_attend_forward, _attend_backward)


def kernel(q, k, v, mask=None, blocks=None, interpret=False):
  """Returns softmax(q k^T) v by the kernel, whatever the platform.

  Args:
    q: queries [B, N, H, D], scaled.
    k, v: keys and values [B, H, K, D].
    mask: bool [B, K], True at slots to attend to, or None.
    blocks: see `Blocks`; None to `choose` them.
    interpret: whether to run it without a compiler, on any platform.

  Returns:
    [B, N, H, D] in v's dtype.
  """
  _, n, h, d = q.shape
  blocks = blocks or choose(n, h, d, k.shape[2], q.dtype, head.budget())
  if mask is not None:
    mask = mask.astype(jnp.float32)[:, None]
  k, v = (head.by_rows(x.swapaxes(1, 2)) for x in (k, v))
  found = _attend((blocks, d, interpret), head.by_rows(q), k, v, mask)
  return found.reshape(q.shape)
