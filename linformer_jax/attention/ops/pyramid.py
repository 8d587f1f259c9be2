"""A fixed number of slots for a past of any length: finer where it is near.

Blocks of a sequence have r slots each. Level 0 shows the newest blocks, level 1
those before them in groups of two, level 2 in groups of four, and so on. A
group of two has r slots, too: means of neighbors among the 2 r that it
replaces. What is older than the last level shows is one slot, its mean.
"""

import dataclasses

import jax
import jax.numpy as jnp

from linformer_jax.parallel import layout


@dataclasses.dataclass(frozen=True)
class Pyramid:
  """Which groups of blocks are shown.

  Attributes:
    levels: L, at least 1.
    kept: groups that a level shows at least, if there are as many; those below
      the last show one more at times, as groups of two have to be complete.
  """

  levels: int
  kept: int

  @property
  def groups(self) -> int:
    """G, the number of groups shown, at most."""
    return self.levels * (self.kept + 1) - 1

  @property
  def ring(self) -> int:
    """How many of its newest groups a level stores while it grows."""
    return 2 * self.kept + 4

  def spans(self, blocks):
    """Returns the groups that each level shows, and how many are older.

    Args:
      blocks: int [...], the number of blocks so far.

    Returns:
      For each level, indices int [..., kept or kept + 1] and which of them are
      shown, bool of that shape; and the number of groups of the last level that
      came before, int [...].
    """
    found, end = [], blocks
    for level in range(self.levels):
      first, last = jnp.maximum(end - self.kept, 0), level + 1 == self.levels
      if not last:
        first = first // 2 * 2
      at = first[..., None] + jnp.arange(self.kept + (not last))
      found.append((at, at < end[..., None]))
      end = first // 2
    return found, first

  def shown(self, k, v, ids, blocks):
    """Returns what is shown after some numbers of blocks.

    Args:
      k, v: [B, T, r, H, D], the slots of T blocks.
      ids: int [B, T, r], the document of a slot, or 0 if it saw no real row. A
        block has slots of one document, and documents are in order.
      blocks: int [S], numbers of blocks.

    Returns:
      k, v [B, S, G r + 1, H, D] and their ids [B, S, G r + 1]. Groups are of
      the last document in them, as no other one continues after them.
    """
    spans, older = self.spans(blocks)
    if not ids.shape[1]:  # nothing to take
      k, v, ids = (
        jnp.zeros((len(x), 1, *x.shape[2:]), x.dtype) for x in (k, v, ids)
      )
    weights, last = (ids > 0).astype(jnp.float32), ids.max(2)
    slots, parts = (k, v, weights, last), []
    for level, (at, seen) in enumerate(spans):
      if level:
        slots = _merged(*slots)
      *rows, weights, last = slots
      ids = jnp.where(weights > 0, last[..., None], 0)
      *rows, ids = (_take(x, at) for x in (*rows, ids))
      parts.append((*rows, ids * jnp.repeat(seen, weights.shape[2], axis=1)))
    parts.append(_means_before(*slots, older))
    return tuple(
      layout.constrain(jnp.concatenate(x, axis=2), "batch", "sequence")
      for x in zip(*parts, strict=True)
    )

  def empty(self, slots):
    """Returns the store of one sequence without blocks.

    Args:
      slots: tree of arrays [r, H, D] like the slots of a block.
    """

    def zeros(x):
      # Incomplete groups go to the last place, where nothing is read.
      return jnp.zeros((self.ring + 1, *x.shape), x.dtype)

    total = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], jnp.float32), slots)
    return [jax.tree.map(zeros, slots) for _ in range(self.levels)], total

  def push(self, store, slots, index, real):
    """Returns a store of one sequence with one more block, of real rows alone.

    Args:
      store: made by `empty`.
      slots: tree of arrays [r, H, D], of block `index`.
      index: the number of blocks before it.
      real: whether the block is complete; if not, it is written again later.
    """
    levels, total = store
    pushed = []
    for level, groups in enumerate(levels):
      size = 2**level
      at = (index + 1) // size - 1
      place = jnp.where((index + 1) % size == 0, at % self.ring, self.ring)
      if level:
        slots = jax.tree.map(self._pair(at), pushed[-1])
      pushed.append(
        jax.tree.map(lambda x, y, i=place: x.at[i].set(y), groups, slots)
      )
    before, after = (self.spans(i)[1] for i in (index, index + 1))
    leaves = real & (after > before)

    def add(total, x):
      mean = jnp.mean(x[before % self.ring], axis=0, dtype=jnp.float32)
      return total + jnp.where(leaves, mean, 0)

    return pushed, jax.tree.map(add, total, pushed[-1])

  def _pair(self, at):
    """Returns a function of a ring of groups: the group of two at `at`."""

    def merge(x):
      two = x[jnp.stack([2 * at, 2 * at + 1]) % self.ring]
      return two.reshape(-1, 2, *two.shape[2:]).mean(1)

    return merge

  def read(self, store, blocks):
    """Returns what a store shows after a number of blocks, as `shown` does.

    Returns:
      A tree of arrays [G r + 1, H, D], and bool [G r + 1].
    """
    levels, total = store
    spans, older = self.spans(blocks)
    r = jax.tree.leaves(levels)[0].shape[1]

    def join(total, *rings):
      parts = [
        x[at % self.ring].reshape(-1, *x.shape[2:])
        for x, (at, _) in zip(rings, spans, strict=True)
      ]
      mean = (total / jnp.maximum(older, 1)).astype(parts[0].dtype)
      return jnp.concatenate([*parts, mean[None]])

    seen = [jnp.repeat(seen, r) for _, seen in spans]
    seen = jnp.concatenate([*seen, older[None] > 0])
    return jax.tree.map(join, total, *levels), seen


def _take(x, at):
  """[B, T, r, ...] at [S, G] -> [B, S, G r, ...]."""
  found = jnp.take(x, at, axis=1, mode="clip")
  return found.reshape(*found.shape[:2], -1, *x.shape[3:])


def _merged(k, v, weights, last):
  """Returns groups of two: slots [B, T / 2, r, ...], weights, and documents.

  A weight is the number of slots of blocks that saw a real row. Only those of
  the last document [B, T / 2] count.
  """
  b, t, r = weights.shape
  if t == 1:  # no group of two, but something to take
    return k, v, jnp.zeros_like(weights), last

  def pairs(x):  # [B, T, r, ...] -> [B, T / 2, r, 2, ...]
    return x[:, : t // 2 * 2].reshape(b, t // 2, r, 2, *x.shape[3:])

  two = last[:, : t // 2 * 2].reshape(b, t // 2, 2)
  last = two.max(2)
  counts = jnp.broadcast_to(
    (two == last[..., None])[..., None], (*two.shape, r)
  )
  by = pairs(weights) * counts.reshape(b, t // 2, r, 2)
  total = by.sum(3)
  shares = by / jnp.maximum(total, 1)[..., None]
  k, v = (
    jnp.einsum("btrp,btrphd->btrhd", shares.astype(x.dtype), pairs(x))
    for x in (k, v)
  )
  return k, v, total, last


def _means_before(k, v, weights, last, ends):
  """Returns the means of the groups of one document before each end.

  Args:
    k, v: [B, T, r, H, D].
    weights: [B, T, r].
    last: int [B, T], the document of each group.
    ends: int [S].

  Returns:
    k, v [B, S, 1, H, D], and the document int [B, S, 1], the last one that has
    a group before the end, or 0.
  """

  def add(left, right):
    """Sums of two parts, of which only the last document's count."""
    *_, one = left
    *_, other = right
    last = jnp.maximum(one, other)

    def sums(x, y):
      shape = *last.shape, *(1,) * (x.ndim - last.ndim)
      x = jnp.where((one == last).reshape(shape), x, 0)
      return x + jnp.where((other == last).reshape(shape), y, 0)

    return (*map(sums, left[:-1], right[:-1]), last)

  def before(x):
    x = jnp.pad(x, [(0, 0), (1, 0)] + [(0, 0)] * (x.ndim - 2))
    return jnp.take(x, ends, axis=1, mode="clip")

  sums = (
    jnp.einsum("btr,btrhd->bthd", weights, x.astype(jnp.float32))
    for x in (k, v)
  )
  parts = *sums, weights.sum(2), last
  *sums, total, last = map(before, jax.lax.associative_scan(add, parts, axis=1))
  means = (
    (x / jnp.maximum(total, 1)[..., None, None])[:, :, None].astype(k.dtype)
    for x in sums
  )
  return *means, jnp.where(total > 0, last, 0)[..., None]
