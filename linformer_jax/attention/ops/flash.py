"""Exact attention that stores no scores (Dao et al. 2022, arXiv 2205.14135).

The backward pass recomputes the scores from queries, keys and the log-sum-exp
(lse) of each row. Keys are processed in blocks, so memory is linear in their
number; Linformer's K projected keys fit in one block.
"""

import functools

import jax
import jax.numpy as jnp

from linformer_jax.attention import masks
from linformer_jax.attention.ops import cpu

KEY_BLOCK = 2048  # keys processed at a time, if there are more
_LEAST = jnp.finfo(jnp.float32).min

# q: queries, k: keys, d: head_dim; the leading axes are [B, H], or none for a
# single head. do, dq, dk, dv, dp, ds: gradients; delta: sum of O dO over D.
_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def together(function, rows, slots):
  """Applies function(*rows, *slots) -> (row_out, slot_out) to all heads.

  Args:
    function: on arrays [..., N, D] and [..., K, D].
    rows: arrays [B, N, H, D].
    slots: arrays [B, H, K, D], the mask [B, H, K], or None.
  """
  rows = (x.swapaxes(1, 2) for x in rows)
  row_out, slot_out = function(*rows, *slots)
  return jax.tree.map(lambda x: x.swapaxes(1, 2), row_out), slot_out


def _by_platform(function, rows, slots):
  """Loops over heads on a CPU, where the scores of one head fit in cache."""
  return jax.lax.platform_dependent(
    rows,
    slots,
    cpu=functools.partial(cpu.one_by_one, function),
    default=functools.partial(together, function),
  )


def _over_keys(function, start, k, v, mask):
  """Scans `function(carry, k, v, mask) -> carry, out` over blocks of keys.

  Returns:
    The final carry, and the outputs [..., D, K] concatenated along the keys.
  """
  length = k.shape[-2]
  if length <= KEY_BLOCK:
    return function(start, k, v, mask)

  def step(carry, first):
    def block(x, axis):
      return jax.lax.dynamic_slice_in_dim(x, first, KEY_BLOCK, axis)

    part = None if mask is None else block(mask, -1)
    return function(carry, block(k, -2), block(v, -2), part)

  carry, outs = jax.lax.scan(step, start, jnp.arange(0, length, KEY_BLOCK))

  def join(x):
    return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], length)

  return carry, jax.tree.map(join, outs)


def _scores(q, k, mask):
  scores = _einsum("...qd,...kd->...qk", q, k)
  return (
    scores if mask is None else jnp.where(mask[..., None, :], scores, _LEAST)
  )


def _exp(scores, shift, mask):
  weights = jnp.exp(scores - shift)
  return weights if mask is None else jnp.where(mask[..., None, :], weights, 0)


def _forward(q, k, v, mask):
  """Returns the output [..., N, D] and its lse [..., N, 1], float32.

  The running maximum m, denominator and output are rescaled by alpha from one
  block of keys to the next.
  """

  def add(carry, k, v, mask):
    scores = _scores(q, k, mask)
    m = jnp.max(scores, axis=-1, keepdims=True)
    if carry is not None:
      m = jnp.maximum(m, carry[1])
    weights = _exp(scores, m, mask)
    out = _einsum("...qk,...kd->...qd", weights.astype(v.dtype), v)
    denom = jnp.sum(weights, axis=-1, keepdims=True)
    if carry is not None:
      alpha = jnp.exp(carry[1] - m)
      out, denom = out + alpha * carry[0], denom + alpha * carry[2]
    return (out, m, denom), None

  start = None  # a single block, the common case, has nothing to rescale
  if k.shape[-2] > KEY_BLOCK:
    row = jnp.zeros((*q.shape[:-1], 1), jnp.float32)
    start = jnp.zeros(q.shape, jnp.float32), row + _LEAST, row
  (out, m, denom), _ = _over_keys(add, start, k, v, mask)
  denom = jnp.where(denom == 0, 1, denom)  # a row that sees no slot is zero
  return ((out / denom).astype(v.dtype), m + jnp.log(denom)), None


def _backward(q, out, lse, do, k, v, mask):
  """Returns dQ [..., N, D], and dK and dV transposed, [..., D, K], float32."""
  delta = jnp.sum(
    do.astype(jnp.float32) * out.astype(jnp.float32), -1, keepdims=True
  )

  def add(dq, k, v, mask):
    weights = _exp(_scores(q, k, mask), lse, mask)
    dv = _einsum("...qd,...qk->...dk", do, weights.astype(v.dtype))
    dp = _einsum("...qd,...kd->...qk", do, v)
    ds = (weights * (dp - delta)).astype(q.dtype)
    dk = _einsum("...qd,...qk->...dk", q, ds)
    part = _einsum("...qk,...kd->...qd", ds, k)
    return part if dq is None else dq + part, (dk, dv)

  start = None
  if k.shape[-2] > KEY_BLOCK:
    start = jnp.zeros(q.shape, jnp.float32)
  return _over_keys(add, start, k, v, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(apply, q, k, v, mask):
  return apply(_forward, (q,), (k, v, mask))[0][0]


def _attend_forward(apply, q, k, v, mask):
  (out, lse), _ = apply(_forward, (q,), (k, v, mask))
  return out, (q, k, v, mask, out, lse)


def _attend_backward(apply, saved, do):
  q, k, v, mask, out, lse = saved
  dq, (dk, dv) = apply(_backward, (q, out, lse, do), (k, v, mask))
  dk, dv = dk.swapaxes(-1, -2), dv.swapaxes(-1, -2)
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def attend(q, k, v, mask=None, apply=_by_platform):
  """softmax(q k^T) v, without the scale 1 / sqrt(D).

  Args:
    q: queries [B, N, H, D].
    k, v: keys and values [B, H, K, D].
    mask: [B, K] or None, as `masks.check` takes it.
    apply: how to apply a function of one head to all, as `together` does; the
      default suits the platform.

  Returns:
    [B, N, H, D] in v's dtype; scores and softmax are float32.
  """
  mask = masks.check(mask, (k.shape[0], k.shape[2]))
  length = k.shape[2]
  short = -length % KEY_BLOCK if length > KEY_BLOCK else 0
  if short:
    if mask is None:
      mask = jnp.ones((k.shape[0], length), bool)
    mask = jnp.pad(mask, [(0, 0), (0, short)])
    k, v = (jnp.pad(x, [(0, 0), (0, 0), (0, short), (0, 0)]) for x in (k, v))
  if mask is not None:
    mask = jnp.broadcast_to(mask[:, None], k.shape[:3])
  return _attend(apply, q, k, v, mask)
