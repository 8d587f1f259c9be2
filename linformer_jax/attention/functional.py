"""Scaled dot-product attention of N queries onto K slots, in query blocks."""

import jax
import jax.numpy as jnp


def _attend(q, k, v, mask, dropout):
  """One block of queries; see `projected_attention`."""
  scores = jnp.einsum(
    "bnhd,bkhd->bhnk", q, k, preferred_element_type=jnp.float32
  )
  if mask is not None:
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(scores.dtype).min)
  weights = jax.nn.softmax(scores, axis=-1)
  if mask is not None:  # a row with no slot at all attends to nothing
    weights = jnp.where(mask[:, None, None], weights, 0)
  if dropout is not None:
    weights = dropout(weights)
  return jnp.einsum("bhnk,bkhd->bnhd", weights.astype(v.dtype), v)


def projected_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  mask: jax.Array | None = None,
  *,
  query_block: int = 0,
  dropout=None,
) -> jax.Array:
  """softmax(q k^T / sqrt(D)) v (arXiv 2006.04768, equation 7).

  With the projected keys and values of Linformer K << N; with K = N unprojected
  ones it is plain softmax attention.

  Args:
    q: queries [B, N, H, D].
    k: keys [B, K, H, D].
    v: values [B, K, H, D].
    mask: bool [B, K], True at slots that may be attended, or None. Where a row
      has no slot, the result is zero. Slots that may not be attended weigh
      zero, but k and v must be finite there: zero times NaN is NaN.
    query_block: queries handled at a time, 0 for all. In blocks the scores
      take B H query_block K floats and not B H N K, also in the backward pass,
      which computes them again.
    dropout: None, or a function on the attention weights [B, H, N, K].

  Returns:
    [B, N, H, D] in v's dtype; scores and softmax are float32.

  Raises:
    ValueError: for dropout in query blocks, which would repeat its mask.
  """
  q = q * (q.shape[-1] ** -0.5)
  length = q.shape[1]
  if not query_block or length <= query_block:
    return _attend(q, k, v, mask, dropout)
  if dropout is not None:
    raise ValueError(
      f"attention dropout cannot run in query blocks of {query_block}: set "
      "query_block=0 or attention_dropout_rate=0"
    )
  attend = jax.checkpoint(lambda block: _attend(block, k, v, mask, None))
  whole = length // query_block * query_block
  blocks = q[:, :whole].reshape(q.shape[0], -1, query_block, *q.shape[2:])
  out = jax.lax.map(attend, blocks.swapaxes(0, 1)).swapaxes(0, 1)
  out = out.reshape(q.shape[0], whole, *out.shape[3:])
  if whole == length:
    return out
  return jnp.concatenate([out, attend(q[:, whole:])], axis=1)
