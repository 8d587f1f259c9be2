"""Projections along the sequence, from N rows of keys or values to K.

All kinds treat padding alike: it contributes nothing (0 to a sum or a mean,
-inf to a maximum), the returned mask is False at slots that saw no real row,
and a short input gives the same result as that input padded and masked.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from linformer_jax.attention import base, masks
from linformer_jax.attention.ops import cpu
from linformer_jax.parallel import gradients

DENSE = ("linear", "random")  # 'random' is never trained
POOLING = ("mean_pool", "max_pool", "adaptive_pool")  # no weights
# Kinds in which a slot may see rows anywhere; K need not divide N.
WHOLE = (*DENSE, "adaptive_pool")
KINDS = (*DENSE, "convolution", *POOLING)
# Kinds for which E (X W) = (E X) W, so either order of contraction is valid.
COMMUTING = ("linear", "random", "mean_pool", "adaptive_pool")


@flax.struct.dataclass
class Projection:
  """Maps a sequence of at most `max_length` rows to `projected_length` slots.

  Attributes:
    kind: one of `KINDS`.
    max_length: N, the longest input.
    projected_length: K.
    weights: E [K, N] for a dense kind, [W, D, D] (in and out channels last)
      for a convolution, each with a leading axis H if heads do not share it;
      None for pooling.
  """

  kind: str = flax.struct.field(pytree_node=False)
  max_length: int = flax.struct.field(pytree_node=False)
  projected_length: int = flax.struct.field(pytree_node=False)
  weights: Any = None

  @property
  def window(self) -> int:
    """W = N / K, the rows that each slot of a windowed kind sees."""
    return self.max_length // self.projected_length


def weights_shape(
  kind: str, max_length: int, projected_length: int, head_dim: int
) -> tuple[int, ...] | None:
  """Returns the shape of one head's weights, or None for pooling.

  Raises:
    ValueError: for an unknown kind, K > N, or a windowed kind if K does not
      divide N.
  """
  base.require_choice("projection", kind, KINDS)
  base.require_slots(projected_length, max_length)
  if kind in WHOLE:
    return (projected_length, max_length) if kind in DENSE else None
  if max_length % projected_length:
    raise ValueError(
      f"projection {kind!r} needs a max_length that projected_length divides: "
      f"{max_length} = {max_length // projected_length} * {projected_length} "
      f"+ {max_length % projected_length}"
    )
  if kind == "convolution":
    return (max_length // projected_length, head_dim, head_dim)
  return None


def _dense(x, mask, projection):
  """Applies the first N columns of E; padding rows are already zero."""
  del mask
  matrix = gradients.cast(projection.weights[..., : x.shape[1]], x.dtype)
  if matrix.ndim == 2 and x.ndim == 3:
    if matrix.dtype == x.dtype:
      return cpu.project(matrix, x)
    rows = "bnm,kn->bkm"
  elif matrix.ndim == 2:
    rows = "bnhd,kn->bkhd"
  else:
    rows = "bnm,hkn->bkhm" if x.ndim == 3 else "bnhd,hkn->bkhd"
  return gradients.einsum(rows, x, matrix)


def _windows(x, window):
  """[B, N, ...] -> [B, ceil(N / window), window, ...], padded with zeros."""
  short = -x.shape[1] % window
  if short:
    x = jnp.pad(x, [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2))
  return x.reshape(x.shape[0], -1, window, *x.shape[2:])


def _mask_or_ones(x, mask, window):
  """Returns the mask as windows of x: bool [B, slots, window, 1, ...]."""
  if mask is None:
    mask = jnp.ones(x.shape[:2], bool)
  mask = _windows(mask, window)
  return mask.reshape(mask.shape + (1,) * (x.ndim - 2))


def _mean_pool(x, mask, projection):
  window = projection.window
  total = jnp.sum(_windows(x, window), axis=2)
  if mask is None and x.shape[1] % window == 0:
    return total / window
  count = jnp.sum(_mask_or_ones(x, mask, window), axis=2)
  return total / jnp.maximum(count, 1).astype(x.dtype)


def _max_pool(x, mask, projection):
  window = projection.window
  rows = _windows(x, window)
  if mask is None and x.shape[1] % window == 0:
    return jnp.max(rows, axis=2)
  real = _mask_or_ones(x, mask, window)
  # Zero a slot without real rows before the maximum, not after it, to keep
  # infinities out of the gradient.
  seen = jnp.any(real, axis=2, keepdims=True)
  return jnp.max(jnp.where(real, rows, jnp.where(seen, -jnp.inf, 0)), axis=2)


def _convolution(x, mask, projection):
  del mask
  if x.ndim != 4:
    raise ValueError(
      "projection 'convolution' acts on rows split into heads [B, N, H, D], "
      f"not on an array of {x.ndim} axes"
    )
  kernel = gradients.cast(projection.weights, x.dtype)
  # Keep the head axis even if heads share a kernel: without it XLA merges slots
  # and heads into one axis, and all-gathers slots across devices.
  kernel = jnp.broadcast_to(kernel, (x.shape[2], *kernel.shape[-3:]))
  windows = _windows(x, projection.window)
  return gradients.einsum("bkwhd,hwde->bkhe", windows, kernel)


def _slots(mask, slots):
  """Returns the slot [B, N] of each row; padding has slot `slots`."""
  rank, count = jnp.cumsum(mask, axis=1) - 1, mask.sum(1, keepdims=True)
  first = int(slots > 1)  # alone in its slot
  rank, count, rest = rank - first, count - first, slots - first
  short, longer = jnp.divmod(count, rest)
  bound = longer * (short + 1)  # the first row of a shorter window
  slot = jnp.where(
    rank < bound,
    rank // (short + 1),
    longer + (rank - bound) // jnp.maximum(short, 1),
  )
  return jnp.where(mask, slot + first, slots)


def _adaptive_pool(x, mask, projection):
  """Means of windows of the real rows that differ by at most one row.

  The first row, which draws much attention in any text, is a window of its own;
  so is every other one if they are at most K. Longer windows come next.
  """
  n, slots = x.shape[1], min(x.shape[1], projection.projected_length)
  if mask is None:
    first = int(slots > 1)
    short, longer = divmod(n - first, slots - first)
    bound = first + longer * (short + 1)
    windows = (0, first, 1), (first, bound, short + 1), (bound, n, short)
    means = [jnp.mean(_windows(x[:, i:j], w), axis=2) for i, j, w in windows]
    return jnp.concatenate(means, axis=1)
  # A product, and not a scatter, so devices that share the rows of a sequence
  # sum slots and do not gather rows.
  seen = _slots(mask, slots)[:, None] == jnp.arange(slots)[:, None]  # [B, K, N]
  count = jnp.maximum(jnp.sum(seen, axis=2), 1)
  count = count.reshape(*count.shape, *(1,) * (x.ndim - 2)).astype(x.dtype)
  return jnp.einsum("bkn,bn...->bk...", seen.astype(x.dtype), x) / count


_PROJECT = {
  "linear": _dense,
  "random": _dense,
  "convolution": _convolution,
  "mean_pool": _mean_pool,
  "max_pool": _max_pool,
  "adaptive_pool": _adaptive_pool,
}


def slot_mask(
  projection: Projection, mask: jax.Array | None
) -> jax.Array | None:
  """Returns bool [B, K], True at slots that see a real row of mask [B, N].

  Every slot of a dense E sees the whole sequence. None means all are real.
  """
  if mask is None:
    return None
  mask = masks.check(mask, np.shape(mask)[:2])
  if projection.kind in DENSE:
    slots = (mask.shape[0], projection.projected_length)
    return jnp.broadcast_to(jnp.any(mask, axis=1, keepdims=True), slots)
  if projection.kind == "adaptive_pool":
    slots = min(mask.shape[1], projection.projected_length)
    return jnp.arange(slots) < jnp.sum(mask, axis=1, keepdims=True)
  return jnp.any(_windows(mask, projection.window), axis=2)


def project_sequence(
  x: jax.Array, projection: Projection, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array | None]:
  """Projects the rows of a sequence (E X of arXiv 2006.04768, equation 7).

  Args:
    x: [B, N, M], or [B, N, H, D] if split into heads. If N is less than
      `projection.max_length`, only the first N columns of E are used.
    projection: the projection to apply.
    mask: bool or integers 0 and 1 [B, N], True at real rows, or None if all
      are; see `masks.check`. Padding rows are set to zero first, even if they
      hold NaN.

  Returns:
    The projected rows [B, K, M] or [B, K, H, D] ([B, K, H, M] for unsplit rows
    and an E per head), and their `slot_mask`, bool [B, K] or None. A short
    input gives ceil(N / W) slots of windows, and min(N, K) of an adaptive pool.

  Raises:
    ValueError: if x is longer than `max_length`, x is not split into heads for
      a convolution, or the mask has the wrong shape or dtype (such as an
      additive mask).
  """
  if x.shape[1] > projection.max_length:
    raise ValueError(
      f"input of {x.shape[1]} tokens is longer than the max_length "
      f"{projection.max_length} that the projection was made for"
    )
  mask = masks.check(mask, x.shape[:2])
  if mask is not None:
    x = jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0)
  projected = _PROJECT[projection.kind](x, mask, projection)
  return projected, slot_mask(projection, mask)


class SequenceProjection(nn.Module):
  """Holds the weights of one `Projection` and returns it when called.

  Attributes:
    kind: one of `KINDS`.
    max_length: N.
    projected_length: K.
    num_heads: H for one projection per head, 0 for one that all heads share.
    weights_init: initializer of a learned E or of convolution kernels. None is
      N(0, 0.02²) for E, as in the authors' code, and fan-in variance scaling
      for kernels. A random E is drawn from N(0, 1 / K) (Johnson-Lindenstrauss
      lemma), stored in the collection 'constants' and never trained.
  """

  kind: str
  max_length: int
  projected_length: int
  num_heads: int = 0
  weights_init: Any = None

  @nn.compact
  def __call__(self, head_dim) -> Projection:
    """Returns the projection; head_dim D sets a convolution's channels."""
    shape = weights_shape(
      self.kind, self.max_length, self.projected_length, head_dim
    )
    weights = None
    if shape is not None:
      if self.num_heads:
        shape = (self.num_heads, *shape)
      if self.kind == "random":
        draw = nn.initializers.normal(self.projected_length**-0.5)
        weights = self.variable(
          "constants", "kernel", lambda: draw(self.make_rng("params"), shape)
        ).value
      elif self.kind == "convolution":
        fan_in = nn.initializers.variance_scaling(  # fan-in W * D
          1.0,
          "fan_in",
          "truncated_normal",
          batch_axis=tuple(range(len(shape) - 3)),
        )
        weights = self.param(
          "window_kernel", self.weights_init or fan_in, shape
        )
      else:
        normal = nn.initializers.normal(0.02)
        weights = self.param("kernel", self.weights_init or normal, shape)
    return Projection(
      self.kind, self.max_length, self.projected_length, weights
    )
