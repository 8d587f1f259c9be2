"""Exact attention that keeps no scores for its backward pass.

The backward pass makes them again from queries, keys and the logarithm of the
softmax's denominator (Dao et al. 2022, arXiv 2205.14135). Keys are taken in
blocks, so that memory is linear in their number; Linformer's K projected ones
are one block.
"""

import functools

import jax
import jax.numpy as jnp

from linformer_jax.attention import masks

KEY_BLOCK = 2048  # keys at a time, where there are more
_LEAST = jnp.finfo(jnp.float32).min

# q: queries, k: keys, d: head_dim; in front [B, H], or nothing for one head.
_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _one_by_one(function, rows, slots):
  """`_together` for one head of one sequence after the other."""
  rows, slots = jax.tree.map(jnp.asarray, (rows, slots))
  b, n, h, _ = rows[0].shape

  def head(x, i):  # rows lie [B, N, H, D], slots [B, H, K, ...]
    at, size = (i // h, 0, i % h, 0), (1, n, 1, x.shape[-1])
    return jax.lax.dynamic_slice(x, at, size).reshape(n, -1)

  def step(of_rows, i):
    part, of_slots = function(
      *(head(x, i) for x in rows),
      *jax.tree.map(lambda x: x[i // h, i % h], slots),
    )
    of_rows = jax.tree.map(
      lambda whole, x: jax.lax.dynamic_update_slice(
        whole, x[None, :, None], (i // h, 0, i % h, 0)
      ),
      of_rows,
      part,
    )
    return of_rows, of_slots

  one = jax.eval_shape(
    function,
    *(jax.ShapeDtypeStruct((n, x.shape[-1]), x.dtype) for x in rows),
    *jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), slots),
  )
  empty = jax.tree.map(
    lambda x: jnp.zeros((b, n, h, x.shape[-1]), x.dtype), one[0]
  )
  of_rows, of_slots = jax.lax.scan(step, empty, jnp.arange(b * h), unroll=4)
  return of_rows, jax.tree.map(
    lambda x: x.reshape(b, h, *x.shape[1:]), of_slots
  )


def _together(function, rows, slots):
  """function(*rows, *slots) -> (of rows, of slots), for all heads at once.

  Args:
    function: on arrays [..., N, D] and [..., K, D].
    rows: arrays [B, N, H, D].
    slots: arrays [B, H, K, D], the mask [B, H, K], or None.
  """
  rows = (x.swapaxes(1, 2) for x in rows)
  of_rows, of_slots = function(*rows, *slots)
  return jax.tree.map(lambda x: x.swapaxes(1, 2), of_rows), of_slots


def _by_head(function, rows, slots):
  """On a CPU one head at a time: its scores then stay in the cache."""
  return jax.lax.platform_dependent(
    rows,
    slots,
    cpu=functools.partial(_one_by_one, function),
    default=functools.partial(_together, function),
  )


def _over_keys(function, start, k, v, mask):
  """Carries `function(carry, k, v, mask) -> carry, out` over blocks of keys.

  Returns:
    The last carry, and the outs [..., D, K] joined along the keys.
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
  """Attended values, and the log of the sum of the weights, both float32."""

  def add(carry, k, v, mask):
    scores = _scores(q, k, mask)
    top = jnp.max(scores, axis=-1, keepdims=True)
    if carry is not None:
      top = jnp.maximum(top, carry[1])
    weights = _exp(scores, top, mask)
    out = _einsum("...qk,...kd->...qd", weights.astype(v.dtype), v)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if carry is not None:
      shrink = jnp.exp(carry[1] - top)
      out, total = out + shrink * carry[0], total + shrink * carry[2]
    return (out, top, total), None

  start = None  # the first block needs none, and is mostly the only one
  if k.shape[-2] > KEY_BLOCK:
    row = jnp.zeros((*q.shape[:-1], 1), jnp.float32)
    start = jnp.zeros(q.shape, jnp.float32), row + _LEAST, row
  (out, top, total), _ = _over_keys(add, start, k, v, mask)
  total = jnp.where(total == 0, 1, total)  # a row with no slot gives zero
  return ((out / total).astype(v.dtype), top + jnp.log(total)), None


def _backward(q, out, log_total, toward, k, v, mask):
  """Gradients: of q, and of k and v transposed, [..., D, K], float32."""
  # sum_k P_k dP_k, the mean that the softmax's gradient takes off.
  mean = jnp.sum(
    toward.astype(jnp.float32) * out.astype(jnp.float32), -1, keepdims=True
  )

  def add(of_q, k, v, mask):
    weights = _exp(_scores(q, k, mask), log_total, mask)
    of_v = _einsum("...qd,...qk->...dk", toward, weights.astype(v.dtype))
    of_weights = _einsum("...qd,...kd->...qk", toward, v)
    of_scores = (weights * (of_weights - mean)).astype(q.dtype)
    of_k = _einsum("...qd,...qk->...dk", q, of_scores)
    part = _einsum("...qk,...kd->...qd", of_scores, k)
    return part if of_q is None else of_q + part, (of_k, of_v)

  start = None
  if k.shape[-2] > KEY_BLOCK:
    start = jnp.zeros(q.shape, jnp.float32)
  return _over_keys(add, start, k, v, mask)


@jax.custom_vjp
def _attend(q, k, v, mask):
  return _by_head(_forward, (q,), (k, v, mask))[0][0]


def _attend_forward(q, k, v, mask):
  (out, log_total), _ = _by_head(_forward, (q,), (k, v, mask))
  return out, (q, k, v, mask, out, log_total)


def _attend_backward(saved, toward):
  q, k, v, mask, out, log_total = saved
  of_q, (of_k, of_v) = _by_head(
    _backward, (q, out, log_total, toward), (k, v, mask)
  )
  of_k, of_v = of_k.swapaxes(-1, -2), of_v.swapaxes(-1, -2)
  return of_q.astype(q.dtype), of_k.astype(k.dtype), of_v.astype(v.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def attend(q, k, v, mask=None):
  """softmax(q k^T) v, without the scale 1 / sqrt(D).

  Args:
    q: queries [B, N, H, D].
    k, v: keys and values [B, H, K, D].
    mask: as `masks.check` takes it, [B, K] or None.

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
  return _attend(q, k, v, mask)
