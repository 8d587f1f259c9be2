"""Batches of rows of like length, padded to a few lengths and not to N.

An epoch is a shuffle of all rows, sorted by the length that they are padded to;
rows of one length keep their random order. It is cut into batches, which take
the length of their longest row and come in random order. The last batch of an
epoch is completed by rows of weight 0, so that no batch spans two epochs. All
of it depends on the seed, the epoch and the rows alone.
"""

import functools
from collections.abc import Callable, Mapping

import grain
import numpy as np

SHORTEST = 8  # tokens


def lengths(longest: int, number: int) -> list[int]:
  """Returns lengths, ascending: N alone, or `number`, N and its halves.

  Raises:
    ValueError: if the shortest has less than `SHORTEST` tokens.
  """
  found = [-(-longest // 2**i) for i in reversed(range(max(1, number)))]
  if found[0] < min(SHORTEST, longest):
    raise ValueError(
      f"data.length_buckets {number} halves data.sequence_length {longest} down"
      f" to {found[0]}: at least {SHORTEST} tokens must be left"
    )
  return found


def in_buckets(
  sizes: np.ndarray, batch_size: int, longest: int, number: int
) -> Callable[..., list[tuple[int, np.ndarray]]]:
  """Returns a function that divides rows into batches of like length.

  Args:
    sizes: int [rows], tokens of each row, specials included; more than N for a
      row that is truncated.
    batch_size: rows of a batch.
    longest: N.
    number: of lengths; see `lengths`.

  Returns:
    (rng or None) -> [(length, rows int [batch_size])], where row -1 fills up.
    Without an rng, rows and batches are in order.
  """
  padded = np.array(lengths(longest, number))
  bucket = np.searchsorted(padded, np.minimum(sizes, longest))

  def divide(rng: np.random.Generator | None = None):
    order = np.arange(len(sizes))
    if rng is not None:
      rng.shuffle(order)
    order = order[np.argsort(bucket[order], kind="stable")]
    fill = np.full(-len(order) % batch_size, -1)
    rows = np.concatenate([order, fill]).reshape(-1, batch_size)
    last = np.minimum(np.arange(1, len(rows) + 1) * batch_size, len(order)) - 1
    longest_of = padded[bucket[order[last]]]  # the last one, as they are sorted
    batches = list(zip(longest_of.tolist(), rows, strict=True))
    if rng is not None:
      batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches

  return divide


def shortened(
  examples: list[Mapping[str, np.ndarray]], fields, length: int
) -> dict[str, np.ndarray]:
  """Returns a batch of rows, cut to `length` along the sequence.

  Args:
    examples: rows of length N, of which the tail is padding.
    fields: the `tasks.Field` of each array to take.
    length: tokens to keep.
  """

  def cut(name):
    index = tuple(
      slice(length if axis == "sequence" else None)
      for axis in fields[name].axes
    )
    return np.stack([example[name][index] for example in examples])

  return {name: cut(name) for name in fields}


def train_dataset(
  divide: Callable[..., list[tuple[int, np.ndarray]]],
  rng_of: Callable[[int], np.random.Generator],
  batch_of: Callable[[int, int, np.ndarray], dict[str, np.ndarray]],
  most: int,
) -> grain.MapDataset:
  """Returns the endless batches of training; element b is global batch b.

  Args:
    divide: as `in_buckets` returns.
    rng_of: (epoch) -> the generator of its order.
    batch_of: (epoch, length, rows) -> the batch.
    most: the number of rows in "endless" training.
  """
  per_epoch = len(divide())
  plan = functools.lru_cache(2)(lambda epoch: divide(rng_of(epoch)))

  def batch(index: int) -> dict[str, np.ndarray]:
    epoch, place = divmod(int(index), per_epoch)
    return batch_of(epoch, *plan(epoch)[place])

  return grain.MapDataset.range(most).map(batch)
