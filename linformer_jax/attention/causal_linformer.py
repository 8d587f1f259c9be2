"""Causal Linformer: the past in projected blocks, and the present exactly.

A plain E mixes later rows into every slot. Here a sequence is cut into blocks
of b rows, and E [r, b] projects a block once all its rows are past:

  K'_t = E K_t,  V'_t = F V_t                 [B, T, r, H, D], T = N / b
  o_i  = softmax(q_i [K'_1 .. K'_s, K_s+1 .. k_i]^T / sqrt(D))
                     [V'_1 .. V'_s, V_s+1 .. v_i],  s = i / b, or i / b - 1

so a row sees slots of completed blocks, and rows of its own block (and of the
block before it) up to itself. That is N r / b slots at the end of a sequence;
with `levels`, older slots are pooled again, and their number does not depend on
N. Not in the paper, whose Linformer is an encoder.
"""

from typing import Any

import jax
import jax.numpy as jnp

from linformer_jax.attention import heads, linformer, masks
from linformer_jax.attention import projection as projection_lib
from linformer_jax.attention.ops import pyramid as pyramid_lib
from linformer_jax.attention.ops import xla
from linformer_jax.parallel import blocks, layout


class CausalLinformerSelfAttention(heads.MultiHeadAttention):
  """Attention to slots of completed blocks and to the rows since them.

  With a sharded sequence axis, devices exchange slots, and the rows of a block
  with their neighbors for `previous_block`.

  Attributes:
    num_heads: H; must divide the width M of the input.
    block_length: b, rows in a block.
    projected_length: r, slots of a block.
    previous_block: whether the block before a row's own is exact, too.
    levels: 0 shows all slots; L > 0 shows a number that does not grow, the
      older the coarser (see `ops.pyramid`).
    kept_blocks: groups of blocks that each of the levels shows.
    sharing, projection: as of `LinformerSelfAttention`, for E and F [r, b],
      which are the same for all blocks.
    projection_init: initializer of E and F, or None.
    dropout_rate: dropout on the attention weights.
  """

  num_heads: int
  block_length: int = 64
  projected_length: int = 4
  previous_block: bool = True
  levels: int = 0
  kept_blocks: int = 4
  sharing: str = "headwise"
  projection: str = "linear"
  dropout_rate: float = 0.0
  projection_init: Any = None
  causal: bool = True

  def setup(self):
    super().setup()
    self.e, self.f = linformer.projections(self, self.block_length, "slots")

  @property
  def _near(self):
    """Exact rows before a block."""
    return self.block_length * self.previous_block

  @property
  def _pyramid(self):
    return pyramid_lib.Pyramid(self.levels, self.kept_blocks)

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns (slots, their mask) and a halo of rows.

    Slots are k, v [B, H, T r, D] and ids [B, T r]; or, with `levels`, a halo of
    what each block sees: [B, T, S, H, D] and ids [B, T, S]. Ids are those of
    documents (1 if they are not kept apart), and 0 at slots of padding. A block
    projects the rows of its last document, as no other one continues after it.
    """
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    shape = memory.shape[:2]
    mask = masks.check(mask, shape, documents=True)
    ids = masks.ids(mask, shape)
    k, v = self.rotate(self.key(memory, head_dim)), self.value(memory, head_dim)
    e, f = self.step_weights(head_dim, shared)
    whole = self._whole(ids)
    last = jnp.max(whole, axis=2)  # [B, T]
    real = masks.same(last[..., None], whole)
    slots = self._slots(k, e, real), self._slots(v, f, real)
    seen = jnp.where(self._slots_mask(e, real), last[..., None], 0)
    parts = layout.shards("sequence")
    # Without a mesh a query block may begin anywhere, and so need more rows.
    width = self._near if parts > 1 else 2 * self.block_length
    rows = blocks.with_halo((k, v, ids), width)
    if self.levels:
      return self._states(slots, seen, shape[1], parts), rows

    def joined(x):  # [B, T, r, ...] -> [B, T r, ...]
      return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])

    k, v = map(joined, slots)
    seen = layout.constrain(joined(seen), "batch")
    return (*heads.by_head(k, v), seen), rows

  def _whole(self, x):
    """Returns the complete blocks of rows: [B, N, ...] -> [B, T, b, ...]."""
    count = x.shape[1] // self.block_length
    x = x[:, : count * self.block_length]
    return x.reshape(len(x), count, self.block_length, *x.shape[2:])

  def _slots(self, x, projection, real):
    """Projects complete blocks of x [B, N, H, D]: [B, T, r, H, D]."""

    def project(rows, real):
      return projection_lib.project_sequence(rows, projection, real)[0]

    x = jax.vmap(project, 1, 1)(self._whole(x), real)
    return layout.constrain(x, "batch", None, None, "heads")

  def _slots_mask(self, projection, real):
    """Returns bool [B, T, r], True at slots that saw a real row."""

    def of_block(real):
      return projection_lib.slot_mask(projection, real)

    return jax.vmap(of_block, 1, 1)(real)

  def _states(self, slots, seen, length, parts):
    """Returns what each block of queries sees, as a `blocks.Halo`."""
    count = -(-length // self.block_length)
    if parts == 1:
      count += 2  # for query blocks that do not begin with a block of rows
    done = jnp.maximum(jnp.arange(count) - self.previous_block, 0)
    shown = self._pyramid.shown(*slots, seen, done)

    def by_shard(x):  # [B, T, ...] -> [B, S, T / S, ...]
      x = x.reshape(len(x), parts, -1, *x.shape[2:])
      return layout.constrain(x, "batch", "sequence")

    first = jnp.arange(parts, dtype=jnp.int32) * (count // parts)
    first = jnp.broadcast_to(first, (len(seen), parts))
    return blocks.Halo(jax.tree.map(by_shard, shown), first, width=0)

  def _offset(self, start, rows):
    """Returns the rows of a block before a query block that begins in it."""
    if rows.width == self._near:  # see `check` of the config
      return 0
    return start % self.block_length

  def mix(self, q, summary, start, dropout):
    """Returns the softmax over slots and rows, times their values."""
    slots, rows = summary
    b, near, length = self.block_length, self._near, q.shape[1]
    offset = self._offset(start, rows)
    if isinstance(offset, int):
      count = -(-(length + offset) // b)
    else:
      count = -(-length // b) + 1
    q = q * (q.shape[-1] ** -0.5)
    whole = jnp.zeros((len(q), count * b, *q.shape[2:]), q.dtype)
    whole = jax.lax.dynamic_update_slice_in_dim(whole, q, offset, 1)
    whole = whole.reshape(len(q), count, b, *q.shape[2:])
    start = start - offset
    found = rows.around(
      start - near + rows.width, near + count * b - 2 * rows.width
    )
    k, v, ids = (self._with_previous(x) for x in found)
    own = ids[:, :, near:, None]
    at = jnp.arange(near + b) - near
    allowed = masks.same(own, ids[:, :, None]) & (at <= jnp.arange(b)[:, None])
    first = start // b  # of the blocks of queries
    if self.levels:
      *slots, seen = slots.around(first, count)
    else:
      *slots, seen = slots
      done = first + jnp.arange(count) - self.previous_block
      of = jnp.arange(seen.shape[1]) // self.projected_length
      seen = jnp.where(of < done[:, None], seen[:, None], 0)
    seen = masks.same(own, seen[:, :, None])
    out = _attend(whole, (k, v, allowed), (*slots, seen), dropout)
    out = out.reshape(len(out), -1, *out.shape[3:])
    return jax.lax.dynamic_slice_in_dim(out, offset, length, 1)

  def _with_previous(self, x):
    """Cuts rows into blocks, each with the exact rows before it."""
    x = x.reshape(len(x), -1, self.block_length, *x.shape[2:])
    if self.previous_block:
      x = jnp.concatenate([x[:, :-1], x[:, 1:]], axis=2)
    return x

  def step_weights(self, head_dim, shared):
    """Returns E and F."""
    return linformer.matrices(self, head_dim, shared)

  def step(self, weights, q, k, v, cache, start, count):
    """Attends to slots and to the exact rows, a ring of blocks.

    The cache has rows k, v [H, b or 2 b, D], and slots: k, v [H, T r, D], or
    the store of a pyramid. Slots of a block are written before it is complete,
    but not read.
    """
    rows, slots = cache
    b, previous = self.block_length, int(self.previous_block)
    index, offset = start // b, start % b  # of the block
    here = index % (1 + previous) * b
    rows = tuple(
      jax.lax.dynamic_update_slice_in_dim(
        x, new.swapaxes(0, 1), here + offset, 1
      )
      for x, new in zip(rows, (k, v), strict=True)
    )
    at = jnp.arange((1 + previous) * b) - here
    own = (at >= 0) & (at <= offset + jnp.arange(len(q))[:, None])
    before = ((at < 0) | (at >= b)) & (index > 0)
    done = jnp.maximum(index - previous, 0)
    if self.levels:
      seen, shown = self._pyramid.read(slots, done)
      seen = (x.swapaxes(0, 1) for x in seen)
    else:
      seen, shown = (
        slots,
        jnp.arange(slots[0].shape[1]) < done * self.projected_length,
      )
    shown = jnp.broadcast_to(shown, (len(q), len(shown)))
    out = xla.attend_allowed(q, (*seen, shown), (*rows, own | before))
    # The block whose rows are no longer exact once this one is complete.
    first = (index - previous) % (1 + previous) * b
    new = tuple(
      projection_lib.project_sequence(
        jax.lax.dynamic_slice_in_dim(x, first, b, 1).swapaxes(0, 1)[None], e
      )[0][0]
      for x, e in zip(rows, weights, strict=True)
    )
    if self.levels:
      real = (offset + count == b) & (index >= previous)
      slots = self._pyramid.push(slots, new, done, real)
    else:
      slots = tuple(
        jax.lax.dynamic_update_slice_in_dim(
          x, y.swapaxes(0, 1), done * self.projected_length, 1
        )
        for x, y in zip(slots, new, strict=True)
      )
    return out, (rows, slots)


def _attend(q, rows, slots, dropout):
  """One softmax over slots and near rows, a block of queries at a time.

  Args:
    q: [B, T, b, H, D], scaled.
    rows: k, v [B, T, n, H, D] and which a query may see, bool [B, T, b, n].
    slots: k, v and which a query may see, bool [B, T, b, S]. The former are [B,
      H, S, D] for all blocks, or [B, T, S, H, D].
    dropout: see `xla.attend`.

  Returns:
    [B, T, b, H, D] in v's dtype; scores and softmax are float32.
  """
  rows_k, rows_v, allowed = rows
  k, v, seen = slots
  axes = "bhkd" if k.ndim == 4 else "btkhd"
  float32 = dict(preferred_element_type=jnp.float32)
  scores = jnp.concatenate(
    [
      jnp.einsum(f"btqhd,{axes}->bhtqk", q, k, **float32),
      jnp.einsum("btqhd,btkhd->bhtqk", q, rows_k, **float32),
    ],
    axis=-1,
  )
  count = seen.shape[-1]
  allowed = jnp.concatenate([seen, allowed], axis=-1)
  weights = xla.masked_softmax(scores, allowed[:, None])
  weights = xla.drop(weights, dropout).astype(v.dtype)
  out = jnp.einsum(f"bhtqk,{axes}->btqhd", weights[..., :count], v)
  return out + jnp.einsum("bhtqk,btkhd->btqhd", weights[..., count:], rows_v)
