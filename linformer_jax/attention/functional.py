"""Scaled dot-product attention of N queries onto K slots, in query blocks."""

import functools

import jax
import jax.numpy as jnp

from linformer_jax.attention import local, masks
from linformer_jax.attention.ops import flash
from linformer_jax.parallel import layout


def _plain(q, k, v, mask=None, dropout=None, causal=False):
  """softmax(q k^T) v with all scores at once; see `projected_attention`."""
  scores = jnp.einsum(
    "bnhd,bhkd->bhnk", q, k, preferred_element_type=jnp.float32
  )
  allowed = None if mask is None else mask[:, None, None]
  if causal:
    past = jnp.tri(q.shape[1], k.shape[2], dtype=bool)
    allowed = past if allowed is None else past & allowed
  if allowed is not None:
    scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
  weights = jax.nn.softmax(scores, axis=-1)
  if allowed is not None:  # a row with no slot at all attends to nothing
    weights = jnp.where(allowed, weights, 0)
  if dropout is not None:
    weights = dropout(weights)
  return jnp.einsum("bhnk,bhkd->bnhd", weights.astype(v.dtype), v)


def _cudnn(q, k, v, mask=None):
  """The fused kernel of NVIDIA's library; bfloat16 or float16, GPU only."""
  if mask is not None:  # bool [B, H or 1, N, K]
    shape = (q.shape[0], 1, q.shape[1], k.shape[1])
    mask = jnp.broadcast_to(mask[:, None, None], shape)
  k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
  return jax.nn.dot_product_attention(
    q, k, v, mask=mask, scale=1.0, implementation="cudnn"
  )


_ATTEND = {"xla": _plain, "flash": flash.attend, "cudnn": _cudnn}
IMPLEMENTATIONS = tuple(_ATTEND)


def in_query_blocks(function, x, block: int, own=(), whole=(), key=None):
  """function(x, own, whole, key), `block` positions at a time; 0 for all.

  On a CPU a step takes whole sequences where as many rows hold some: products
  are longer, and there are no axes to move.

  Args:
    function: [B, n, ...] -> [B, n, ...], position by position.
    x: [B, N, ...], what it is applied to. The last block may be shorter.
    block: positions.
    own: tree of arrays [B, ...] that belong to the sequences, keys for example.
    whole: tree of arrays that belong to all, parameters for example.
    key: a random key, of which each block gets another one, or None.
  """
  if not is_longer(x, block):
    return function(x, own, whole, key)

  def loop(x, own, whole, key):
    batch, length = x.shape[:2]
    of_all = functools.partial(_blocks_of_all, function, block)
    group = block * batch // length  # whole sequences that have as many rows
    if batch == 1 or not group:
      return of_all(x, own, whole, key)
    while batch % group:
      group -= 1
    return jax.lax.platform_dependent(
      x,
      own,
      whole,
      key,
      cpu=functools.partial(_whole_sequences, function, group),
      default=of_all,
    )

  return layout.apart(loop, x, own, whole, key)


def _blocks_of_all(function, block, x, own, whole, key):
  """`block` positions of all sequences at a time."""
  batch, length, *rest = x.shape
  count, left = divmod(length, block)
  keys = None
  if key is not None:
    key, *keys = jax.random.split(key, count + 1)
    keys = jnp.stack(keys)
  blocks = x[:, : length - left].reshape(batch, count, block, *rest)
  if batch == 1:  # no axes to move: an axis of one would cost a copy
    out = jax.lax.map(
      lambda one: function(one[0][None], own, whole, one[1])[0],
      (blocks[0], keys),
    )
    out = out[None]
  else:
    out = jax.lax.map(
      lambda one: function(one[0], own, whole, one[1]),
      (jnp.moveaxis(blocks, 1, 0), keys),
    )
    out = jnp.moveaxis(out, 0, 1)
  out = out.reshape(batch, length - left, *out.shape[3:])
  if not left:
    return out
  last = function(x[:, length - left :], own, whole, key)
  return jnp.concatenate([out, last], axis=1)


def _whole_sequences(function, group, x, own, whole, key):
  """`group` sequences at a time, a divisor of all."""
  x, own = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[1:]), (x, own))
  keys = None if key is None else jax.random.split(key, len(x))
  out = jax.lax.map(
    lambda one: function(one[0], one[1], whole, one[2]), (x, own, keys)
  )
  return out.reshape(-1, *out.shape[2:])


def is_longer(x: jax.Array, block: int) -> bool:
  """Whether a device has more than a block of positions of x [B, N, ...]."""
  return 0 < block < x.shape[1] // layout.shards("sequence")


def attend(
  q,
  k,
  v,
  mask=None,
  *,
  near=None,
  window=0,
  causal=False,
  recompute=False,
  implementation="xla",
  dropout=None,
):
  """`projected_attention` of one block of queries, keys laid out by head.

  Args:
    q: [B, N, H, D].
    k, v: [B, H, K, D].
    mask, implementation, dropout: as there.
    near, window: None, or rows beside the slots; see `local.attend`.
    causal: whether query i attends to keys 0 to i only.
    recompute: make the scores again in the backward pass.
  """
  if implementation not in _ATTEND:
    raise ValueError(
      f"implementation {implementation!r} is not one of "
      f"{', '.join(IMPLEMENTATIONS)}"
    )
  mask = masks.check(mask, (k.shape[0], k.shape[2]))
  q = q * (q.shape[-1] ** -0.5)
  if near is not None:
    if recompute or implementation != "xla":
      raise ValueError(
        f"local_window {window} goes neither with query blocks nor with "
        f"implementation {implementation!r}, but with 'xla' and query_block=0"
      )
    return local.attend(q, k, v, mask, near, window, dropout)
  if causal:
    if recompute or implementation != "xla":
      raise ValueError(
        "causal attention is not supported with query blocks or implementation "
        f"{implementation!r}: set query_block=0 and implementation 'xla'"
      )
    return _plain(q, k, v, mask, dropout, causal=True)
  if dropout is not None:
    if recompute or implementation != "xla":
      raise ValueError(
        "attention dropout goes neither with query blocks nor with "
        f"implementation {implementation!r}, but with 'xla' and query_block=0: "
        "set those, or attention_dropout_rate=0"
      )
    return _plain(q, k, v, mask, dropout)
  function = _ATTEND[implementation]
  if implementation != "xla":  # that one the compiler divides by itself
    rows, slots = ("batch", "sequence", "heads"), ("batch", "heads")
    function = layout.per_device(
      function, (rows, slots, slots, ("batch",)), rows
    )
  if recompute and implementation == "xla":
    function = jax.checkpoint(function)
  return function(q, k, v, mask)


def projected_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  mask: jax.Array | None = None,
  *,
  query_block: int = 0,
  implementation: str = "xla",
  dropout=None,
) -> jax.Array:
  """softmax(q k^T / sqrt(D)) v (arXiv 2006.04768, equation 7).

  With the projected keys and values of Linformer K << N; with K = N unprojected
  ones it is plain softmax attention.

  Args:
    q: queries [B, N, H, D].
    k: keys [B, K, H, D].
    v: values [B, K, H, D].
    mask: bool or integers 0 and 1 [B, K], True at slots that may be attended,
      or None; see `masks.check`. Where a row has no slot, the result is zero.
      Slots that may not be attended weigh zero, but k and v must be finite
      there: zero times NaN is NaN.
    query_block: queries handled at a time, 0 for all. In blocks the scores
      take B H query_block K floats and not B H N K, also in the backward pass,
      which computes them again.
    implementation: 'xla', einsum and softmax as the compiler fuses them;
      'flash', whose backward pass makes the scores again, and which takes keys
      in blocks too, and heads one at a time on a CPU; 'cudnn', the fused kernel
      of a GPU, which needs bfloat16 or float16.
    dropout: None, or a function on the attention weights [B, H, N, K].

  Returns:
    [B, N, H, D] in v's dtype; scores and softmax are float32.

  Raises:
    ValueError: for an unknown implementation; for dropout in query blocks,
      which would repeat its mask, or where there are no weights to drop; for a
      mask of another shape or dtype (an additive one).
  """

  def one(q, memory, whole, key):
    del whole, key
    return attend(
      q,
      *memory,
      recompute=bool(query_block),
      implementation=implementation,
      dropout=dropout,
    )

  mask = masks.check(mask, k.shape[:2])
  memory = (k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
  return in_query_blocks(one, q, query_block, memory)
