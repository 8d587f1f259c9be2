"""One softmax over the rows near each query and, if there are any, slots.

Transformer-LS (Zhu et al. 2021, arXiv 2107.02192) combines a sliding window
with a low-rank projection; without slots this is a sliding window alone
(Longformer, Beltagy et al. 2020, arXiv 2004.05150).
"""

import jax.numpy as jnp

from linformer_jax.attention import masks
from linformer_jax.attention.ops import xla
from linformer_jax.parallel import blocks

_LEAST_BLOCK = 16  # smallest block of queries


def halo(k, v, mask, width: int) -> blocks.Halo:
  """Returns keys, values [B, N, H, D] and mask [B, N] with their neighbors.

  Args:
    k, v: keys and values of the rows.
    mask: as `masks.check` takes it, or `Documents`.
    width: rows on either side.

  Returns:
    A halo of k, v, and the mask, or the ids of its documents.
  """
  mask = masks.check(mask, k.shape[:2], documents=True)
  if mask is None:
    mask = jnp.ones(k.shape[:2], bool)
  elif isinstance(mask, masks.Documents):
    mask = mask.ids
  return blocks.with_halo((k, v, jnp.asarray(mask)), width)


def _overlapping(x, block, count):
  """[B, n, ...] -> [B, T, count, ...]: `count` rows from each block's start."""
  short = -x.shape[1] % block
  x = jnp.pad(x, [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2))
  x = x.reshape(x.shape[0], -1, block, *x.shape[2:])
  parts = -(-count // block)
  last = x.shape[1] - parts + 1
  joined = [x[:, i : i + last] for i in range(parts)]
  return jnp.concatenate(joined, axis=2)[:, :, :count]


def attend(q, near, slots=None, causal=False, dropout=None):
  """Applies softmax over [q k^T, q near_k^T for |i - j| <= width] to values.

  Time and memory are O(N (K + width)).

  Args:
    q: queries [B, N, H, D], scaled.
    near: (k, v [B, N + 2 width, H, D], bool [B, N + 2 width]) of the rows from
      `width` before the first query to `width` after the last. In place of bool
      int, ids of documents that are kept apart.
    slots: (k, v [B, H, K, D], bool [B, K] or None) of slots that all queries
      attend to, or None.
    causal: whether a query attends to no row after its own.
    dropout: see `xla.attend`.

  Returns:
    [B, N, H, D] in v's dtype, zero where there is nothing to attend to; scores
    and softmax are float32.
  """
  rows_k, rows_v, real = near
  length = q.shape[1]
  width = (rows_k.shape[1] - length) // 2
  block = max(width, _LEAST_BLOCK)
  reach = block + 2 * width
  short = -length % block
  pad = (0, 0), (0, short)
  q = jnp.pad(q, [*pad, (0, 0), (0, 0)])
  q = q.reshape(len(q), -1, block, *q.shape[2:])
  own = real[:, width : width + length]
  rows_k, rows_v, real = (
    _overlapping(jnp.pad(x, [*pad] + [(0, 0)] * (x.ndim - 2)), block, reach)
    for x in (rows_k, rows_v, real)
  )
  # Row j of an extended block lies j - width rows from the block's start.
  distance = jnp.arange(reach) - jnp.arange(block)[:, None] - width
  seen = (distance >= -width) & (distance <= (0 if causal else width))
  if real.dtype == bool:
    allowed = real[:, :, None] & seen
  else:
    own = jnp.pad(own, pad).reshape(q.shape[:3])
    allowed = masks.same(own[..., None], real[:, :, None]) & seen
  float32 = dict(preferred_element_type=jnp.float32)
  scores = jnp.einsum("btqhd,btkhd->bhtqk", q, rows_k, **float32)
  count = 0
  if slots is not None:
    k, v, open_slots = slots
    count = k.shape[2]
    open_slots = masks.check(open_slots, (len(k), count))
    scores = jnp.concatenate(
      [jnp.einsum("btqhd,bhkd->bhtqk", q, k, **float32), scores], axis=-1
    )
    if open_slots is None:
      open_slots = jnp.ones((len(k), count), bool)
    open_slots = jnp.broadcast_to(
      open_slots[:, None, None], (*allowed.shape[:3], count)
    )
    allowed = jnp.concatenate([open_slots, allowed], axis=-1)
  weights = xla.masked_softmax(scores, allowed[:, None])
  weights = xla.drop(weights, dropout).astype(rows_v.dtype)
  out = jnp.einsum("bhtqk,btkhd->btqhd", weights[..., count:], rows_v)
  if slots is not None:
    out += jnp.einsum("bhtqk,bhkd->btqhd", weights[..., :count], v)
  return out.reshape(len(out), -1, *out.shape[3:])[:, :length]
