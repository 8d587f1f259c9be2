"""One softmax over projected slots and the rows near each query.

Transformer-LS (Zhu et al. 2021, arXiv 2107.02192) combines a sliding window
with a low-rank projection; here the projection is Linformer's.
"""

import jax
import jax.numpy as jnp

from linformer_jax.attention import masks

_LEAST_BLOCK = 16  # smallest block of queries


def _blocks(x, block):
  """[B, N, ...] -> [B, T, block, ...], padded with zeros (False)."""
  short = -x.shape[1] % block
  x = jnp.pad(x, [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2))
  return x.reshape(x.shape[0], -1, block, *x.shape[2:])


def _with_neighbours(x, window):
  """Extends blocks [B, T, b, ...] by `window` rows on either side."""
  beside = [(0, 0)] * x.ndim
  beside[1] = (1, 1)
  padded = jnp.pad(x, beside)
  before = padded[:, :-2, x.shape[2] - window :]
  return jnp.concatenate([before, x, padded[:, 2:, :window]], axis=2)


def attend(q, k, v, slots, near, window: int, dropout=None):
  """Applies softmax over [q k^T, q near_k^T for |i - j| <= window] to values.

  Time and memory are O(N (K + window)).

  Args:
    q: queries [B, N, H, D], scaled.
    k, v: projected keys and values [B, H, K, D].
    slots: [B, K] or None, as `masks.check` takes it.
    near: (keys, values [B, N, H, D], mask [B, N] or None) of the unprojected
      rows.
    window: rows on either side that a query attends to, besides its own.
    dropout: None, or a function on the weights [B, H, T, b, K + b + 2 window]
      of T blocks of b queries.

  Returns:
    [B, N, H, D] in v's dtype; scores and softmax are float32.
  """
  rows_k, rows_v, real = near
  length, count = q.shape[1], k.shape[2]
  real = masks.check(real, q.shape[:2])
  slots = masks.check(slots, (len(k), count))
  block = max(window, _LEAST_BLOCK)
  if real is None:
    real = jnp.ones(q.shape[:2], bool)
  if slots is None:
    slots = jnp.ones((len(k), count), bool)
  q = _blocks(q, block)
  rows_k, rows_v, real = (
    _with_neighbours(_blocks(x, block), window) for x in (rows_k, rows_v, real)
  )
  # Row j of an extended block lies j - window rows from the block's start.
  distance = jnp.arange(block + 2 * window) - jnp.arange(block)[:, None]
  in_window = (distance >= 0) & (distance <= 2 * window)
  float32 = dict(preferred_element_type=jnp.float32)
  scores = jnp.concatenate(
    [
      jnp.einsum("btqhd,bhkd->bhtqk", q, k, **float32),
      jnp.einsum("btqhd,btkhd->bhtqk", q, rows_k, **float32),
    ],
    axis=-1,
  )
  allowed = jnp.concatenate(
    [
      jnp.broadcast_to(slots[:, None, None], (*real.shape[:2], block, count)),
      real[:, :, None] & in_window,
    ],
    axis=-1,
  )[:, None]
  scores = jnp.where(allowed, scores, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1)
  weights = jnp.where(allowed, weights, 0)  # zero if nothing is allowed
  if dropout is not None:
    weights = dropout(weights)
  weights = weights.astype(v.dtype)
  out = jnp.einsum("bhtqk,bhkd->btqhd", weights[..., :count], v)
  out += jnp.einsum("bhtqk,btkhd->btqhd", weights[..., count:], rows_v)
  return out.reshape(len(out), -1, *out.shape[3:])[:, :length]
