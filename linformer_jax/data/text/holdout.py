"""Which documents are held out: a share of the text, by hash.

A document is held out if the hash of its text is below a boundary, so the split
depends on neither the order of documents nor on the seed, and copies of one
text fall on one side. The boundary is the share itself for as long as the text
below it is about that share. It moves where documents are few or unequal.
"""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Iterator

from linformer_jax.data.text import progress
from linformer_jax.data.text import source as source_lib

_log = logging.getLogger(__name__)

# Hashes are told apart up to this number, and by their top 16 bits above it: a
# corpus may have 10^8 documents.
_EXACT = 2**16


@dataclasses.dataclass(frozen=True)
class Survey:
  """What readings of the whole text found.

  Attributes:
    source: to read from, with plain text divided where that was needed.
    boundary: documents that hash below it are held out; 0 where the source
      has a validation split of its own.
    largest: documents of more bytes are never held out by their hash.
    documents: the number of documents in both splits.
    size: bytes of UTF-8 in both splits.
    train_size: bytes of UTF-8 in the training split, or in both where
      documents are held out by hash.
  """

  source: source_lib.Source
  boundary: int
  largest: int
  documents: int
  size: int
  train_size: int

  def holds_out(self, data: bytes) -> bool:
    """Whether a document of the training split, as UTF-8, is held out."""
    return len(data) <= self.largest and digest(data) < self.boundary


def survey(source: source_lib.Source, holdout_fraction: float) -> Survey:
  """Reads all documents to count them and to place the boundary.

  Documents of more bytes than the whole share are trained on, or divided if
  they are plain text. If all are, the smallest document is held out.

  Args:
    source: the documents.
    holdout_fraction: of bytes, in (0, 1).

  Returns:
    The counts and the boundary.

  Raises:
    ValueError: if there is no text, or only one distinct document to split.
  """
  label = f"Reading {source.name}"
  natural = int(holdout_fraction * 2**64)
  found = _read(source.train(), natural, None, label)
  if not found.documents:
    raise ValueError(
      f"{source.description} has no text to train on: 0 documents"
    )
  if source.validation is not None:
    held = _read(source.validation(), natural, None, label)
    if not held.documents:
      raise ValueError(
        f"the validation split of {source.description} has 0 documents"
      )
    return Survey(
      source,
      boundary=0,
      largest=0,
      documents=found.documents + held.documents,
      size=found.size + held.size,
      train_size=found.size,
    )
  budget = int(holdout_fraction * found.size)
  if found.largest > budget:
    source, found = _divided(source, found, natural, budget, label)
  if found.lowest == found.highest:
    raise ValueError(
      f"{source.description} has {found.documents} documents and 1 distinct"
      f" text, {found.size} bytes in all; holding out by document needs 2: give"
      " more text, or name other files in data.validation_files"
    )
  boundary, largest = _boundary(found, natural, holdout_fraction, budget)
  return Survey(
    source, boundary, largest, found.documents, found.size, found.size
  )


def warn_if_unequal(trained_on: int, held_out: int) -> None:
  """Warns if more bytes are held out than trained on."""
  if held_out > trained_on:
    _log.warning(
      "More text is held out (%.3f MB) than trained on (%.3f MB): set"
      " data.validation_files to files that are smaller, or"
      " data.holdout_fraction to a smaller share",
      held_out / 1e6,
      trained_on / 1e6,
    )


def nonempty(documents: Iterator[str]) -> Iterator[str]:
  """Documents that are more than white space."""
  return (text for text in documents if text.strip())


def digest(data: bytes) -> int:
  """A hash of 64 bits."""
  found = hashlib.blake2b(data, digest_size=8).digest()
  return int.from_bytes(found, "big")


class _Sizes:
  """What a reading found; sizes are bytes of UTF-8.

  Attributes:
    documents: their number.
    size: of all.
    largest: the largest size.
    lowest, highest: hashes.
    smallest: the smallest size, and the lowest hash of that size.
    natural: the size of what the natural boundary holds out.
    by_hash: the size of documents that may be held out, by hash >> `shift`.
  """

  def __init__(self):
    self.documents = self.size = self.largest = self.natural = 0
    self.lowest, self.highest = 2**64, -1
    self.smallest = (2**64, 0)
    self.by_hash: dict[int, int] = {}
    self.shift = 0

  def add(self, hashed: int, size: int) -> None:
    self.documents += 1
    self.size += size
    self.largest = max(self.largest, size)
    self.lowest = min(self.lowest, hashed)
    self.highest = max(self.highest, hashed)
    self.smallest = min(self.smallest, (size, hashed))

  def add_candidate(self, hashed: int, size: int) -> None:
    key = hashed >> self.shift
    self.by_hash[key] = self.by_hash.get(key, 0) + size
    if not self.shift and len(self.by_hash) > _EXACT:
      exact, self.by_hash, self.shift = self.by_hash, {}, 48
      for key, size in exact.items():
        key >>= self.shift
        self.by_hash[key] = self.by_hash.get(key, 0) + size


def _read(
  documents: Iterator[str], natural: int, budget: int | None, label: str
) -> _Sizes:
  found = _Sizes()
  report = progress.Progress(label)
  for text in nonempty(documents):
    data = text.encode()
    hashed, size = digest(data), len(data)
    found.add(hashed, size)
    if budget is None or size <= budget:
      found.add_candidate(hashed, size)
      if hashed < natural:
        found.natural += size
    report.add(1, size)
  return found


def _divided(
  source: source_lib.Source,
  found: _Sizes,
  natural: int,
  budget: int,
  label: str,
) -> tuple[source_lib.Source, _Sizes]:
  """Reads again, where a document is larger than all that is held out."""
  if source.divided is not None:
    source = dataclasses.replace(
      source, train=functools.partial(source.divided, budget)
    )
  again = _read(source.train(), natural, budget, label)
  if again.documents > found.documents:
    _log.info(
      "%s: plain text of more than the %.4g kB to hold out is cut into pieces"
      " of a quarter of that: %d documents become %d",
      label,
      budget / 1e3,
      found.documents,
      again.documents,
    )
  return source, again


def _boundary(
  found: _Sizes, natural: int, fraction: float, budget: int
) -> tuple[int, int]:
  """The boundary, and the largest document that it holds out."""
  if not found.by_hash:
    size, hashed = found.smallest
    return hashed + 1, size
  wanted = fraction * found.size
  if wanted / 2 <= found.natural <= min(2 * wanted, found.size - 1):
    return natural, budget
  held, best, boundary = 0, float("inf"), 0
  for key in sorted(found.by_hash):
    held += found.by_hash[key]
    if held < found.size and abs(held - wanted) < best:
      best, boundary = abs(held - wanted), (key + 1) << found.shift
  return boundary, budget
