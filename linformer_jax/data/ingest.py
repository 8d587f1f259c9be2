"""From documents to a cache entry: split, train the tokenizer, tokenise.

The text is read three times (survey, tokenizer, tokens), never kept: a corpus
may be larger than memory. Tokenising dominates the time.
"""

import dataclasses
import hashlib
import logging
import time
from collections.abc import Iterator

import numpy as np
import tokenizers

from linformer_jax.data import cache, packing
from linformer_jax.data import source as source_lib
from linformer_jax.data import tokenizer as tokenizer_lib

_log = logging.getLogger(__name__)

TRAIN = "train.bin"
VALIDATION = "validation.bin"
UNIGRAM = "unigram.bin"
TOKENIZER = "tokenizer.json"

_CHARACTERS_AT_ONCE = 2**22
_SECONDS_BETWEEN_REPORTS = 5.0


@dataclasses.dataclass(frozen=True)
class Survey:
  """What one reading of the whole text found.

  Attributes:
    boundary: documents that hash below it are held out; 0 where the source
      has a validation split of its own.
    documents: the number of documents in both splits.
    size: bytes of UTF-8 in both splits.
    train_size: bytes of UTF-8 in the training split, or of both where the
      boundary was not yet known.
  """

  boundary: int
  documents: int
  size: int
  train_size: int


def token_dtype(vocab_size: int) -> np.dtype:
  """Little-endian uint16, or uint32 if ids do not fit."""
  return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def build(
  writer: cache.Writer,
  source: source_lib.Source,
  holdout_fraction: float,
  vocab_size: int,
  tokenizer: tokenizers.Tokenizer | None,
  tokenizer_train_megabytes: float,
) -> None:
  """Writes an entry's files.

  Args:
    writer: of the entry.
    source: the documents.
    holdout_fraction: of documents, if the source has no validation split.
    vocab_size: the size of the embedding table.
    tokenizer: ready, or None to train one on the training documents.
    tokenizer_train_megabytes: how much text to train it on, at most.

  Raises:
    ValueError: if a split has no documents.
  """
  _log.info("Reading %s", source.name)
  found = survey(source, holdout_fraction)
  if tokenizer is None:
    _log.info(
      "Training a tokenizer of %d ids on at most %g of %.1f MB",
      vocab_size,
      tokenizer_train_megabytes,
      found.train_size / 1e6,
    )
    tokenizer = tokenizer_lib.train(
      _sample(source, found, tokenizer_train_megabytes), vocab_size
    )
  with writer.file(TOKENIZER) as write:
    write(tokenizer.to_str().encode())
  dtype = token_dtype(vocab_size)
  counts = np.zeros(vocab_size, dtype="<i8")
  progress = _Progress(source.name, found)
  with writer.file(TRAIN) as train, writer.file(VALIDATION) as validation:
    for batch in _batches(_labelled(source, found.boundary)):
      ids = tokenizer_lib.encode(tokenizer, [text for _, text in batch])
      streams = ([], [])
      for (held_out, _), tokens in zip(
        batch, packing.stream(ids, dtype), strict=True
      ):
        streams[held_out].append(tokens)
      kept, held = (np.concatenate([*s, np.zeros(0, dtype)]) for s in streams)
      train(kept.tobytes())
      validation(held.tobytes())
      counts += np.bincount(kept, minlength=vocab_size)
      progress.add(len(batch), sum(_size(text) for _, text in batch))
  progress.report()
  with writer.file(UNIGRAM) as write:
    write(counts.tobytes())


def survey(source: source_lib.Source, holdout_fraction: float) -> Survey:
  """Reads all documents to count them and to place the boundary.

  A document is held out if the hash of its text is below a boundary, so the
  split depends on neither the order of documents nor on what else there is,
  and copies of one text fall on one side. The boundary moves only where a
  tiny corpus would leave a split empty.

  Args:
    source: the documents.
    holdout_fraction: in (0, 1).

  Returns:
    The counts and the boundary.

  Raises:
    ValueError: if there is no text, or only one distinct document to split.
  """
  documents, size = 0, 0
  low, high = 2**64, -1
  for text in _nonempty(source.train()):
    documents += 1
    size += _size(text)
    digest = _digest(text)
    low, high = min(low, digest), max(high, digest)
  if not documents:
    raise ValueError(
      f"{source.description} has no text to train on: 0 documents"
    )
  if source.validation is not None:
    held_out = [_size(text) for text in _nonempty(source.validation())]
    if not held_out:
      raise ValueError(
        f"the validation split of {source.description} has 0 documents"
      )
    return Survey(0, documents + len(held_out), size + sum(held_out), size)
  if low == high:
    raise ValueError(
      f"{source.description} has {documents} documents and 1 distinct text;"
      " holding out by document needs 2. A plain text file is one document:"
      " give more files, or JSON lines"
    )
  boundary = min(max(int(holdout_fraction * 2**64), low + 1), high)
  return Survey(boundary, documents, size, size)


def _labelled(
  source: source_lib.Source, boundary: int
) -> Iterator[tuple[bool, str]]:
  """Yields (held out, text) for every document of both splits."""
  for text in _nonempty(source.train()):
    yield _digest(text) < boundary, text
  if source.validation is not None:
    for text in _nonempty(source.validation()):
      yield True, text


def _sample(
  source: source_lib.Source, found: Survey, megabytes: float
) -> Iterator[str]:
  """Yields every k-th training document, `megabytes` in all at most.

  Documents are often in order of time or of subject, so the first ones would
  make a poor sample.
  """
  left = int(megabytes * 1e6)
  step = -(-found.train_size // max(left, 1))
  position = 0
  for text in _nonempty(source.train()):
    if _digest(text) < found.boundary:
      continue
    if position % step == 0 and left > 0:
      piece = text.encode()[:left].decode("utf-8", errors="ignore")
      left -= _size(piece)
      yield piece
    position += 1


def _batches(
  documents: Iterator[tuple[bool, str]],
) -> Iterator[list[tuple[bool, str]]]:
  """Groups documents for the tokenizer's threads, a few MB at once."""
  batch, characters = [], 0
  for held_out, text in documents:
    batch.append((held_out, text))
    characters += len(text)
    if characters >= _CHARACTERS_AT_ONCE:
      yield batch
      batch, characters = [], 0
  if batch:
    yield batch


def _nonempty(documents: Iterator[str]) -> Iterator[str]:
  return (text for text in documents if text.strip())


def _digest(text: str) -> int:
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  return int.from_bytes(digest, "big")


def _size(text: str) -> int:
  return len(text.encode())


class _Progress:
  """One line to the log every few seconds."""

  def __init__(self, name: str, found: Survey):
    self._name = name
    self._found = found
    self._start = self._last = time.monotonic()
    self._documents = 0
    self._size = 0

  def add(self, documents: int, size: int) -> None:
    self._documents += documents
    self._size += size
    now = time.monotonic()
    if now - self._last >= _SECONDS_BETWEEN_REPORTS:
      self._last = now
      self.report()

  def report(self) -> None:
    elapsed = max(time.monotonic() - self._start, 1e-9)
    left = elapsed * (self._found.size / max(self._size, 1) - 1)
    _log.info(
      "Tokenising %s: %d of %d documents, %.1f of %.1f MB, %.0f documents/s,"
      " %.1f MB/s, %d:%02d left",
      self._name,
      self._documents,
      self._found.documents,
      self._size / 1e6,
      self._found.size / 1e6,
      self._documents / elapsed,
      self._size / elapsed / 1e6,
      *divmod(round(left), 60),
    )
