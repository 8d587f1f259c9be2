"""Attention as einsum and softmax, fused by XLA: the reference."""

import jax
import jax.numpy as jnp

from linformer_jax.attention import masks


def masked_softmax(scores, allowed=None):
  """Softmax over the last axis; a row with nothing allowed gets zeros.

  Args:
    scores: float32 [..., K].
    allowed: bool that broadcasts to scores, or None if all are.
  """
  if allowed is None:
    return jax.nn.softmax(scores, axis=-1)
  scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
  return jnp.where(allowed, jax.nn.softmax(scores, axis=-1), 0)


def drop(weights, dropout):
  """Applies dropout, (rate, key) or None, to attention weights."""
  if dropout is None:
    return weights
  rate, key = dropout
  kept = jax.random.bernoulli(key, 1 - rate, weights.shape)
  return jnp.where(kept, weights / (1 - rate), 0)


def attend_allowed(q, *parts):
  """Attends from the rows of one sequence to those that each may see.

  Args:
    q: [n, H, D], not scaled.
    *parts: (k, v, allowed), keys and values [H, K, D] and bool [n, K], all in
      one softmax. Several are not concatenated, which would copy them.

  Returns:
    [n, H, D] in v's dtype; scores and softmax are float32.
  """
  q = q * (q.shape[-1] ** -0.5)
  scores = [
    jnp.einsum("nhd,hkd->hnk", q, k, preferred_element_type=jnp.float32)
    for k, _, _ in parts
  ]
  allowed = jnp.concatenate([allowed for *_, allowed in parts], axis=-1)
  weights = masked_softmax(jnp.concatenate(scores, axis=-1), allowed)
  out, first = 0, 0
  for _, v, _ in parts:
    some = weights[..., first : first + v.shape[1]].astype(v.dtype)
    out += jnp.einsum("hnk,hkd->nhd", some, v)
    first += v.shape[1]
  return out


def attend(q, k, v, mask=None, *, causal=False, start=0, dropout=None):
  """softmax(q k^T) v with all scores in memory.

  Args:
    q: queries [B, N, H, D], scaled.
    k, v: keys and values [B, H, K, D].
    mask: bool [B, K], True at slots to attend to, or None; or `Documents`.
    causal: whether query i attends to keys 0 to start + i only.
    start: index of the first query among the keys.
    dropout: (rate, key) of dropout on the weights, or None.

  Returns:
    [B, N, H, D] in v's dtype; scores and softmax are float32.
  """
  scores = jnp.einsum(
    "bnhd,bhkd->bhnk", q, k, preferred_element_type=jnp.float32
  )
  allowed = masks.allowed(mask, start, q.shape[1])
  allowed = None if allowed is None else allowed[:, None]
  if causal:
    rows = start + jnp.arange(q.shape[1])
    past = jnp.arange(k.shape[2]) <= rows[:, None]
    allowed = past if allowed is None else past & allowed
  weights = drop(masked_softmax(scores, allowed), dropout)
  return jnp.einsum("bhnk,bhkd->bnhd", weights.astype(v.dtype), v)
