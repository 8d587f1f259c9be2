"""Scaled dot-product attention of N queries over K slots, in query blocks."""

import functools

import jax
import jax.numpy as jnp

from linformer_jax.attention import local, masks
from linformer_jax.attention.ops import flash
from linformer_jax.parallel import layout


def _plain(q, k, v, mask=None, dropout=None, causal=False):
  """softmax(q k^T) v with all scores in memory; see `projected_attention`."""
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
  if allowed is not None:  # a query with no allowed slot returns zero
    weights = jnp.where(allowed, weights, 0)
  if dropout is not None:
    weights = dropout(weights)
  return jnp.einsum("bhnk,bhkd->bnhd", weights.astype(v.dtype), v)


def _cudnn(q, k, v, mask=None):
  """Calls the fused cuDNN kernel; bfloat16 or float16, GPU only."""
  if mask is not None:  # bool [B, H or 1, N, K]
    shape = (q.shape[0], 1, q.shape[1], k.shape[1])
    mask = jnp.broadcast_to(mask[:, None, None], shape)
  k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
  return jax.nn.dot_product_attention(
    q, k, v, mask=mask, scale=1.0, implementation="cudnn"
  )


_ATTEND = {"xla": _plain, "flash": flash.attend, "cudnn": _cudnn}
IMPLEMENTATIONS = tuple(_ATTEND)


def in_query_blocks(
  function, x, block: int, per_sequence=(), common=(), key=None
):
  """Applies a position-wise function to blocks of x in a sequential loop.

  On a CPU, each step takes whole sequences if at least one fits in `block * B`
  rows: matrix products are longer and no axes are transposed.

  Args:
    function: (x [B, n, ...], per_sequence, common, key) -> [B, n, ...]; acts on
      each position independently.
    x: [B, N, ...]. The last block may be shorter.
    block: positions per block; 0 applies the function once to all of x.
    per_sequence: tree of arrays [B, ...], such as keys.
    common: tree of arrays that all sequences use, such as parameters.
    key: a random key, split into one key per block, or None.
  """
  if not is_longer(x, block):
    return function(x, per_sequence, common, key)

  def loop(x, per_sequence, common, key):
    batch, length = x.shape[:2]
    position_blocks = functools.partial(_position_blocks, function, block)
    group = block * batch // length  # whole sequences that fit in these rows
    if batch == 1 or not group:
      return position_blocks(x, per_sequence, common, key)
    while batch % group:
      group -= 1
    return jax.lax.platform_dependent(
      x,
      per_sequence,
      common,
      key,
      cpu=functools.partial(_whole_sequences, function, group),
      default=position_blocks,
    )

  return layout.apart(loop, x, per_sequence, common, key)


def _position_blocks(function, block, x, per_sequence, common, key):
  """Loops over blocks of positions, with all sequences in each step."""
  batch, length, *rest = x.shape
  count, left = divmod(length, block)
  keys = None
  if key is not None:
    key, *keys = jax.random.split(key, count + 1)
    keys = jnp.stack(keys)
  blocks = x[:, : length - left].reshape(batch, count, block, *rest)
  if batch == 1:  # transposing an axis of size one would cost a copy
    out = jax.lax.map(
      lambda step: function(step[0][None], per_sequence, common, step[1])[0],
      (blocks[0], keys),
    )
    out = out[None]
  else:
    out = jax.lax.map(
      lambda step: function(step[0], per_sequence, common, step[1]),
      (jnp.moveaxis(blocks, 1, 0), keys),
    )
    out = jnp.moveaxis(out, 0, 1)
  out = out.reshape(batch, length - left, *out.shape[3:])
  if not left:
    return out
  last = function(x[:, length - left :], per_sequence, common, key)
  return jnp.concatenate([out, last], axis=1)


def _whole_sequences(function, group, x, per_sequence, common, key):
  """Loops over groups of whole sequences; `group` must divide B."""
  x, per_sequence = jax.tree.map(
    lambda x: x.reshape(-1, group, *x.shape[1:]), (x, per_sequence)
  )
  keys = None if key is None else jax.random.split(key, len(x))
  out = jax.lax.map(
    lambda step: function(step[0], step[1], common, step[2]),
    (x, per_sequence, keys),
  )
  return out.reshape(-1, *out.shape[2:])


def is_longer(x: jax.Array, block: int) -> bool:
  """Whether a device holds more than `block` positions of x [B, N, ...]."""
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
  """Applies `projected_attention` to one block of queries, keys head-major.

  Args:
    q: [B, N, H, D].
    k, v: [B, H, K, D].
    mask, implementation, dropout: see `projected_attention`.
    near, window: rows to attend to besides the slots, or None; see
      `local.attend`.
    causal: whether query i attends to keys 0 to i only.
    recompute: recompute the scores in the backward pass.
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
  if implementation != "xla":  # XLA partitions 'xla' by itself
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

  For Linformer K << N; with K = N unprojected keys and values this is plain
  softmax attention.

  Args:
    q: queries [B, N, H, D].
    k: keys [B, K, H, D].
    v: values [B, K, H, D].
    mask: bool or integers 0 and 1 [B, K], True at slots to attend to, or None;
      see `masks.check`. A query with no such slot returns zero. Masked slots
      have weight zero, but k and v must be finite there: zero times NaN is NaN.
    query_block: process queries in blocks of this size; 0 is off. Scores then
      take B H query_block K floats, not B H N K, in the backward pass too,
      which recomputes them.
    implementation: 'xla', einsum and softmax as XLA fuses them; 'flash', which
      also blocks the keys, recomputes the scores in the backward pass and loops
      over heads on a CPU; 'cudnn', a fused GPU kernel that needs bfloat16 or
      float16.
    dropout: None, or a function on the attention weights [B, H, N, K].

  Returns:
    [B, N, H, D] in v's dtype; scores and softmax are float32.

  Raises:
    ValueError: for an unknown implementation; for dropout with query blocks,
      which would repeat its mask, or with an implementation other than 'xla',
      which has no weights to drop; for a mask of the wrong shape or dtype (such
      as an additive mask).
  """

  def attend_block(q, memory, common, key):
    del common, key
    return attend(
      q,
      *memory,
      recompute=bool(query_block),
      implementation=implementation,
      dropout=dropout,
    )

  mask = masks.check(mask, k.shape[:2])
  memory = (k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
  return in_query_blocks(attend_block, q, query_block, memory)
