"""What kernels for TPUs have in common: the mathematics of one head, and sums.

Forward, for a block of rows, with q scaled:

  S = Q K'^T,  P = softmax(S),  O = P V'

Backward, which recomputes P, so that a kernel saves nothing but its inputs:

  dV' = sum P^T dO,  dP = dO V'^T,  dS = P * (dP - rowsum(P * dP)),
  dQ = dS K',  dK' = sum dS^T Q

with sums over blocks of rows in float32.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from linformer_jax.parallel import layout

LANES = 128
# Bytes of vector memory that blocks may take; the compiler is told so. It takes
# the default for v5e, v5p and v6e; a v4 has 16 MiB.
BUDGETS = {"TPU v4": 14 << 20}
DEFAULT_BUDGET = 96 << 20
ROWS = (512, 256, 128, 64, 32, 16, 8)  # of a block, the most first

_LEAST = jnp.finfo(jnp.float32).min
_dot = functools.partial(
  jax.lax.dot_general, preferred_element_type=jnp.float32
)


def budget() -> int:
  """Returns the budget of the devices that a function is traced for."""
  return BUDGETS.get(layout.device_kind(), DEFAULT_BUDGET)


def matmul(x, y):
  """x y, in float32."""
  return _dot(x, y, (((1,), (0,)), ((), ())))


def matmul_nt(x, y):
  """x y^T, in float32."""
  return _dot(x, y, (((1,), (1,)), ((), ())))


def matmul_tn(x, y):
  """x^T y, in float32."""
  return _dot(x, y, (((0,), (0,)), ((), ())))


def exponentials(q, k, mask):
  """Returns exp(S - max S) [n, K] of one head, and 1 / their sums [n, 1].

  Args:
    q: [n, D], scaled.
    k: [K, D].
    mask: float32 [1, K], 0 at slots that are not there, or None.
  """
  scores = matmul_nt(q, k)
  if mask is not None:
    scores = jnp.where(mask > 0, scores, _LEAST)
  found = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
  if mask is None:
    return found, 1 / jnp.sum(found, axis=1, keepdims=True)
  found = jnp.where(mask > 0, found, 0)
  total = jnp.sum(found, axis=1, keepdims=True)
  return found, 1 / jnp.where(total > 0, total, 1)


def forward(q, k, v, mask):
  """Returns O [n, D] of one head, float32."""
  weights, scale = exponentials(q, k, mask)
  return matmul(weights.astype(v.dtype), v) * scale


def backward(q, k, v, mask, do):
  """Returns O, dQ [n, D], dK' and dV' [K, D] of one head, float32.

  What is not used is not computed.
  """
  weights, scale = exponentials(q, k, mask)
  out = matmul(weights.astype(v.dtype), v) * scale
  weights *= scale
  dv = matmul_tn(weights.astype(do.dtype), do)
  dp = matmul_nt(do, v)
  ds = weights * (dp - jnp.sum(weights * dp, axis=1, keepdims=True))
  ds = ds.astype(q.dtype)
  return out, matmul(ds, k), matmul_tn(ds, q), dv


def columns(i: int, dim: int) -> slice:
  """Returns the columns of head i."""
  return slice(i * dim, (i + 1) * dim)


def real_rows(block, rows: int, length: int):
  """Returns bool [rows, 1], True at those of a block that exist, or None."""
  if length % rows == 0:
    return None
  at = block * rows + jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0)
  return at < length


def select(real, x):
  """Sets rows beyond the last one, which hold anything, to zero."""
  return x if real is None else jnp.where(real, x, jnp.zeros_like(x))


@dataclasses.dataclass(frozen=True)
class Sums:
  """Float32 sums over programs, and where they go.

  Attributes:
    outputs: references to blocks of outputs.
    scratch: references to float32 arrays of their shapes.
  """

  outputs: tuple
  scratch: tuple

  def begin(self, first):
    """Sets the sums to zero in the first program."""

    @pl.when(first)
    def _():
      for x in self.scratch:
        x[...] = jnp.zeros_like(x)

  def end(self, last):
    """Writes the sums in the last program."""

    @pl.when(last)
    def _():
      for to, x in zip(self.outputs, self.scratch, strict=True):
        to[...] = x[...].astype(to.dtype)


def padded(columns: int) -> int:
  """Returns columns as registers hold them."""
  return -(-columns // LANES) * LANES


def cost(arrays, flops: int, exponentials: int) -> pl.CostEstimate:
  """Returns what a call costs that reads or writes each array once."""
  size = sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in arrays)
  return pl.CostEstimate(
    flops=flops, bytes_accessed=size, transcendentals=exponentials
  )


def like(x) -> jax.ShapeDtypeStruct:
  """Returns the shape and dtype of an array."""
  return jax.ShapeDtypeStruct(x.shape, x.dtype)


def by_rows(x):
  """[B, N, H, D] -> [B, N, H D]."""
  return x.reshape(*x.shape[:2], -1)
