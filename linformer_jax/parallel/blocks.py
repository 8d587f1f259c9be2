"""Row-wise functions in blocks of rows, and rows of neighboring devices.

A layer after its keys and values acts on each row alone, so it can run on a
block of rows at a time and hold the activations of one block. With a mesh, each
device loops over the blocks of its own shard of x [B, N, M]:

                 sequence 0            sequence 1
    batch 0   | block | block ... |  | block | block ... |
    batch 1   | block | block ... |  | block | block ... |

with its own copy of what all rows read, such as keys and parameters, and sums
the gradients of the copies over devices once, after its loop. That needs a
shard_map: in a plain scan under jit, XLA all-reduces these gradients in every
block (measured with jax 0.10.2 for CPU and TPU).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from linformer_jax.parallel import layout


@flax.struct.dataclass
class Halo:
  """Rows of each shard of a sequence, with those of its neighbors.

  Attributes:
    rows: tree of arrays [B, S, N / S + 2 width, ...] for S shards; zero (False)
      beyond the ends of the sequence.
    first: int32 [B, S], the index in the sequence of a shard's first own row.
    width: rows of either neighbor.
  """

  rows: Any
  first: jax.Array
  width: int = flax.struct.field(pytree_node=False)

  def around(self, start, count: int):
    """Returns rows [start - width, start + count + width) of this shard.

    Args:
      start: index in the sequence of the first of the inner rows.
      count: inner rows.

    Returns:
      A tree of arrays [B, count + 2 width, ...].
    """
    at = start - self.first[0, 0]
    return jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(
        x[:, 0], at, count + 2 * self.width, axis=1
      ),
      self.rows,
    )


def with_halo(rows, width: int) -> Halo:
  """Extends rows by `width` of the rows before and after each shard.

  With a sharded sequence axis, only those are exchanged, between neighbors.

  Args:
    rows: tree of arrays [B, N, ...].
    width: at most N / S.
  """
  parts = layout.shards("sequence")

  def pad(x):
    return jnp.pad(x, [(0, 0), (width, width)] + [(0, 0)] * (x.ndim - 2))

  def exchange(axis, rows):
    def extend(x):
      right = [(i, i + 1) for i in range(parts - 1)]  # the first gets zeros
      left = [(j, i) for i, j in right]
      before = jax.lax.ppermute(x[:, x.shape[1] - width :], axis, right)
      after = jax.lax.ppermute(x[:, :width], axis, left)
      return jnp.concatenate([before, x, after], axis=1)[:, None]

    return jax.tree.map(extend, rows)

  batch, length = jax.tree.leaves(rows)[0].shape[:2]
  if parts == 1:
    rows = jax.tree.map(lambda x: pad(x)[:, None], rows)
  else:
    exchange = functools.partial(exchange, layout.axes("sequence"))
    axes = (None, "sequence")
    rows = layout.per_device(exchange, (axes,), axes, ("sequence",))(rows)
  first = jnp.arange(parts, dtype=jnp.int32) * (length // parts)
  return Halo(rows, jnp.broadcast_to(first, (batch, parts)), width)


def is_longer(x: jax.Array, block: int) -> bool:
  """Whether a device holds more than `block` rows of x [B, N, ...]."""
  return 0 < block < x.shape[1] // layout.shards("sequence")


def _is_halo(node):
  return isinstance(node, Halo)


def is_whole(x: jax.Array, block: int, summary) -> bool:
  """Whether `in_blocks` would just apply its function to all rows."""
  if is_longer(x, block):
    return False
  nodes = jax.tree.leaves(summary, is_leaf=_is_halo)
  return layout.shards("sequence") == 1 or not any(map(_is_halo, nodes))


def in_blocks(
  function: Callable,
  x: jax.Array,
  block: int,
  summary=(),
  variables=(),
  key: jax.Array | None = None,
) -> jax.Array:
  """Applies a row-wise function to blocks of x in a sequential loop.

  A step takes whole sequences if at least one fits in `block * B` rows: matrix
  products are longer and no axes are transposed.

  Args:
    function: (x [b, n, ...], start, summary, variables, key) -> [b, n, ...],
      for the rows of x that begin at `start`; acts on each row independently.
    x: [B, N, ...]. The last block may be shorter.
    block: rows per block; 0 applies the function once to all rows.
    summary: tree of arrays [B, ...], such as keys, or of `Halo`.
    variables: tree of arrays that all sequences use, such as parameters.
    key: a random key, split into one key per block, or None.
  """

  def loop(x, first, summary, variables, key):
    if key is not None:
      key = key.reshape(())
    return _loop(function, block, x, first[0], summary, variables, key)

  parts, ways = layout.shards("sequence"), layout.shards("batch")
  if is_whole(x, block, summary):
    return function(x, 0, summary, variables, key)
  if parts * ways == 1:
    return _loop(function, block, x, 0, summary, variables, key)
  rows = ("batch", "sequence")
  first = jnp.arange(parts, dtype=jnp.int32) * (x.shape[1] // parts)
  summary_axes = jax.tree.map(
    lambda node: rows if _is_halo(node) else ("batch",),
    summary,
    is_leaf=_is_halo,
  )
  keys = None if key is None else jax.random.split(key, (ways, parts))
  mapped = layout.per_device(
    loop, (rows, ("sequence",), summary_axes, (), rows), rows, rows
  )
  return mapped(x, first, summary, variables, keys)


def _loop(function, block, x, first, summary, variables, key):
  """Does what `in_blocks` does, on one device."""
  batch, length = x.shape[:2]
  if not 0 < block < length:
    return function(x, first, summary, variables, key)
  fits = block * batch // length
  group = max((g for g in range(1, fits + 1) if batch % g == 0), default=0)
  if group:
    groups = jax.tree.map(
      lambda x: x.reshape(-1, group, *x.shape[1:]), (x, summary)
    )
    keys = None if key is None else jax.random.split(key, batch // group)
    out = jax.lax.map(
      lambda step: function(step[0][0], first, step[0][1], variables, step[1]),
      (groups, keys),
    )
    return out.reshape(-1, *out.shape[2:])
  return _positions(function, block, x, first, summary, variables, key)


def _positions(function, block, x, first, summary, variables, key):
  """Loops over blocks of positions, with all sequences in each step."""
  batch, length, *rest = x.shape
  count, left = divmod(length, block)
  last, keys = None, None
  if key is not None:
    last, *keys = jax.random.split(key, count + 1)
    keys = jnp.stack(keys)

  blocks = x[:, : length - left].reshape(batch, count, block, *rest)
  starts = first + block * jnp.arange(count, dtype=jnp.int32)
  alone = batch == 1  # even to transpose an axis of size one costs a copy

  def step(at):
    rows, start, key = at
    rows = rows[None] if alone else rows
    out = function(rows, start, summary, variables, key)
    return out[0] if alone else out

  blocks = blocks[0] if alone else jnp.swapaxes(blocks, 0, 1)
  out = jax.lax.map(step, (blocks, starts, keys))
  out = out[None] if alone else jnp.swapaxes(out, 0, 1)
  out = out.reshape(batch, length - left, *out.shape[3:])
  if not left:
    return out
  start = first + (length - left)
  end = function(x[:, length - left :], start, summary, variables, last)
  return jnp.concatenate([out, end], axis=1)
