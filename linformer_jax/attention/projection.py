"""Projections along the sequence: N rows of keys or values become K.

One pure function, `project_sequence`, over one table of kinds. Every kind
obeys the same rules for padding: a pad weighs nothing (0 in a sum or a mean,
-inf in a maximum), a slot that saw no real row says so in the returned mask,
and a short input gives what the same input padded and masked gives.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from linformer_jax.attention import masks

DENSE = ("linear", "random")  # 'random' is never trained
POOLING = ("mean_pool", "max_pool")  # no weights
KINDS = (*DENSE, "convolution", *POOLING)
# Kinds for which E (X W) = (E X) W, so that the order of contraction is free.
COMMUTING = ("linear", "random", "mean_pool")


@flax.struct.dataclass
class Projection:
  """How a sequence of at most `max_length` rows becomes `projected_length`.

  Attributes:
    kind: one of `KINDS`.
    max_length: N, the longest input.
    projected_length: K.
    weights: of a dense kind E [K, N], or [H, K, N] when each head has its own;
      of a convolution [W, D, D] or [H, W, D, D], in and out channels last; None
      for pooling.
  """

  kind: str = flax.struct.field(pytree_node=False)
  max_length: int = flax.struct.field(pytree_node=False)
  projected_length: int = flax.struct.field(pytree_node=False)
  weights: Any = None

  @property
  def window(self) -> int:
    """W = N / K rows that a slot of a windowed kind sees."""
    return self.max_length // self.projected_length


def weights_shape(
  kind: str, max_length: int, projected_length: int, head_dim: int
) -> tuple[int, ...] | None:
  """Shape of one head's weights; None where a kind has none.

  Raises:
    ValueError: for an unknown kind, K > N, or a window that does not divide.
  """
  if kind not in KINDS:
    raise ValueError(f"projection {kind!r} is not one of {', '.join(KINDS)}")
  if not 1 <= projected_length <= max_length:
    raise ValueError(
      f"projected_length {projected_length} must lie between 1 and the "
      f"max_length {max_length}"
    )
  if kind in DENSE:
    return (projected_length, max_length)
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
  """By the first N columns of E; pads are zero by now and weigh nothing."""
  del mask
  matrix = projection.weights[..., : x.shape[1]].astype(x.dtype)
  if matrix.ndim == 2 and x.ndim == 3:
    # A CPU's products are fast along the last axes, and the compiler would
    # move the axes of x; elsewhere E repeated for each sequence is a waste.
    return jax.lax.platform_dependent(
      x,
      matrix,
      cpu=lambda x, e: jnp.broadcast_to(e, (len(x), *e.shape)) @ x,
      default=lambda x, e: jnp.einsum("bnm,kn->bkm", x, e),
    )
  if matrix.ndim == 2:
    rows = "bnhd,kn->bkhd"
  else:
    rows = "bnm,hkn->bkhm" if x.ndim == 3 else "bnhd,hkn->bkhd"
  return jnp.einsum(rows, x, matrix)


def _windows(x, window):
  """[B, N, ...] to [B, ceil(N / window), window, ...], filled up with zeros."""
  short = -x.shape[1] % window
  if short:
    x = jnp.pad(x, [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2))
  return x.reshape(x.shape[0], -1, window, *x.shape[2:])


def _mask_or_ones(x, mask, window):
  """Real rows by window [B, slots, window, 1, ...], fit to broadcast on x."""
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
  # A slot without a real row is emptied before the maximum, not after it, so
  # that no infinity takes part in the gradient.
  seen = jnp.any(real, axis=2, keepdims=True)
  return jnp.max(jnp.where(real, rows, jnp.where(seen, -jnp.inf, 0)), axis=2)


def _convolution(x, mask, projection):
  del mask
  if x.ndim != 4:
    raise ValueError(
      "projection 'convolution' acts on rows split into heads [B, N, H, D], "
      f"not on an array of {x.ndim} axes"
    )
  kernel = projection.weights.astype(x.dtype)
  # Head by head, also where all have the same kernel: without that axis a
  # compiler folds slots and heads into one, and gathers slots on many devices.
  kernel = jnp.broadcast_to(kernel, (x.shape[2], *kernel.shape[-3:]))
  windows = _windows(x, projection.window)
  return jnp.einsum("bkwhd,hwde->bkhe", windows, kernel)


_PROJECT = {
  "linear": _dense,
  "random": _dense,
  "convolution": _convolution,
  "mean_pool": _mean_pool,
  "max_pool": _max_pool,
}


def slot_mask(
  projection: Projection, mask: jax.Array | None
) -> jax.Array | None:
  """The slots that see a real row: bool [B, K] for a mask [B, N].

  Every slot of a dense E sees the whole sequence. None stands for all.
  """
  if mask is None:
    return None
  mask = masks.check(mask, np.shape(mask)[:2])
  if projection.kind in DENSE:
    slots = (mask.shape[0], projection.projected_length)
    return jnp.broadcast_to(jnp.any(mask, axis=1, keepdims=True), slots)
  return jnp.any(_windows(mask, projection.window), axis=2)


def project_sequence(
  x: jax.Array, projection: Projection, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array | None]:
  """Projects the rows of a sequence (E X of arXiv 2006.04768, equation 7).

  Args:
    x: [B, N, M], or [B, N, H, D] when it is split into heads. N may be less
      than `projection.max_length`: E is then used up to column N.
    projection: what to apply.
    mask: bool or integers 0 and 1 [B, N], True at real rows, or None when all
      are; see `masks.check`. Rows that are not real are selected away first, so
      that not even NaN gets through.

  Returns:
    The projected rows [B, K, M] or [B, K, H, D] ([B, K, H, M] for rows that
    are not split and an E for each head), and `slot_mask`: the slots that saw
    a real row, bool [B, K] or None. The windowed kinds give ceil(N / W) slots
    for a short input.

  Raises:
    ValueError: when x is longer than `max_length`, a convolution meets rows
      without heads, or the mask has another shape than the rows or another
      dtype (an additive one).
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
