"""Holds out a fraction of the text, by the hash of each document.

A document is held out if the hash of its text is below a boundary, so the split
depends on neither the order of documents nor the seed, and copies of a text
fall into the same split. The boundary is the fraction of the hash's range,
unless documents are few or unequal and the text below it is far from that
fraction; then it moves.
"""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Iterator

from linformer_jax.data.text import progress
from linformer_jax.data.text import source as source_lib

_log = logging.getLogger(__name__)

# Up to this many hashes are kept exactly; beyond it, their top 16 bits alone,
# as a corpus may have 10^8 documents.
_EXACT = 2**16


@dataclasses.dataclass(frozen=True)
class Survey:
  """The result of reading the whole text.

  Attributes:
    source: the source to read, with plain text divided if necessary.
    boundary: documents that hash below it are held out; 0 if the source has
      its own validation split.
    largest: documents of more bytes are never held out by their hash.
    documents: the number of documents in both splits.
    size: bytes of UTF-8 in both splits.
    train_size: bytes of UTF-8 in the training split, or in both if documents
      are held out by hash.
  """

  source: source_lib.Source
  boundary: int
  largest: int
  documents: int
  size: int
  train_size: int

  def holds_out(self, data: bytes) -> bool:
    """Returns whether a document of the source's `train` is held out."""
    return len(data) <= self.largest and digest(data) < self.boundary


def survey(source: source_lib.Source, holdout_fraction: float) -> Survey:
  """Reads all documents to count them and to place the boundary.

  A document larger than the whole held-out fraction is trained on, or divided
  if it is plain text. If all are that large, the smallest is held out.

  Args:
    source: the documents.
    holdout_fraction: the fraction of bytes to hold out, in (0, 1).

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
      " data.validation_files to smaller files, or"
      " data.holdout_fraction to a smaller share",
      held_out / 1e6,
      trained_on / 1e6,
    )


def nonempty(documents: Iterator[str]) -> Iterator[str]:
  """Yields the documents that are more than white space."""
  return (text for text in documents if text.strip())


def digest(data: bytes) -> int:
  """Returns a 64-bit hash."""
  found = hashlib.blake2b(data, digest_size=8).digest()
  return int.from_bytes(found, "big")


class _Sizes:
  """Sizes, in bytes of UTF-8, and hashes from one reading of the text.

  Attributes:
    documents: the number of documents.
    size: the total size.
    largest: the size of the largest document.
    lowest, highest: the extreme hashes.
    smallest: the smallest size, and the lowest hash of that size.
    natural: the size held out by the natural boundary, the fraction itself.
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
  """Reads again, dividing documents larger than the held-out fraction."""
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
  """Returns the boundary and the largest size that it holds out."""
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
