"""Builds a cache entry: splits, trains the tokenizer, tokenizes.

The text is read three times (survey, tokenizer, tokens), or four times if the
split needs it, and never kept, as a corpus may be larger than memory.
Tokenizing dominates the time.
"""

import logging
import os
from collections.abc import Iterator

import numpy as np
import tokenizers

from linformer_jax.data import cache
from linformer_jax.data.text import holdout, packing, progress
from linformer_jax.data.text import source as source_lib
from linformer_jax.data.text import special as special_lib
from linformer_jax.data.text import tokenizer as tokenizer_lib

_log = logging.getLogger(__name__)

TRAIN = "train.bin"
VALIDATION = "validation.bin"
COUNTS = "counts.bin"
TOKENIZER = "tokenizer.json"

# Bytes of text per call of the tokenizer, which takes up to 200 bytes of memory
# for each.
_BYTES_AT_ONCE = 2**20


def token_dtype(vocab_size: int) -> np.dtype:
  """Little-endian uint16, or uint32 if ids do not fit."""
  return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def tokenizer_json(directory: str) -> str:
  """Returns the tokenizer.json of a cache entry."""
  with open(os.path.join(directory, TOKENIZER), encoding="utf-8") as file:
    return file.read()


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
    writer: writes the entry.
    source: the documents.
    holdout_fraction: the fraction of bytes to hold out if the source has no
      validation split.
    vocab_size: the size of the embedding table.
    tokenizer: None trains one on the training documents.
    tokenizer_train_megabytes: the most text to train it on.

  Raises:
    ValueError: if a split has no documents.
  """
  _log.info("Reading %s", source.name)
  found = holdout.survey(source, holdout_fraction)
  if tokenizer is None:
    _log.info(
      "Training a tokenizer of %d ids on at most %g of %.1f MB",
      vocab_size,
      tokenizer_train_megabytes,
      found.train_size / 1e6,
    )
    with progress.heartbeat("Training a tokenizer"):
      tokenizer = tokenizer_lib.train(
        _sample(found, tokenizer_train_megabytes), vocab_size
      )
  with writer.file(TOKENIZER) as write:
    write(tokenizer.to_str().encode())
  dtype, special = token_dtype(vocab_size), special_lib.of(tokenizer)
  counts = np.zeros(vocab_size, dtype="<i8")
  report = progress.Progress(
    f"Tokenizing {source.name}", found.documents, found.size
  )
  sizes = [0, 0]
  with writer.file(TRAIN) as train, writer.file(VALIDATION) as validation:
    for batch in _batches(_labeled(found)):
      ids = tokenizer_lib.encode(tokenizer, [text for _, _, text in batch])
      streams = ([], [])
      for (held_out, size, _), tokens in zip(
        batch, packing.stream(ids, dtype, special), strict=True
      ):
        streams[held_out].append(tokens)
        sizes[held_out] += size
      kept, held = (np.concatenate([*s, np.zeros(0, dtype)]) for s in streams)
      train(kept.tobytes())
      validation(held.tobytes())
      counts += np.bincount(kept, minlength=vocab_size)
      report.add(len(batch), sum(size for _, size, _ in batch))
  report.report()
  holdout.warn_if_unequal(*sizes)
  with writer.file(COUNTS) as write:
    write(counts.tobytes())


def _labeled(found: holdout.Survey) -> Iterator[tuple[bool, int, str]]:
  """Yields (held out, bytes, text) for every document of both splits."""
  for text in holdout.nonempty(found.source.train()):
    data = text.encode()
    yield found.holds_out(data), len(data), text
  if found.source.validation is not None:
    for text in holdout.nonempty(found.source.validation()):
      yield True, len(text.encode()), text


def _sample(found: holdout.Survey, megabytes: float) -> Iterator[str]:
  """Yields every k-th training document, at most `megabytes` in total.

  Documents are often ordered by time or subject, so the first ones would be a
  poor sample.
  """
  left = int(megabytes * 1e6)
  step = -(-found.train_size // max(left, 1))
  position = 0
  for text in holdout.nonempty(found.source.train()):
    data = text.encode()
    if found.holds_out(data):
      continue
    if position % step == 0 and left > 0:
      piece = data[:left]
      left -= len(piece)
      yield piece.decode("utf-8", errors="ignore")
    position += 1


def _batches(
  documents: Iterator[tuple[bool, int, str]],
) -> Iterator[list[tuple[bool, int, str]]]:
  """Groups documents for the tokenizer's threads."""
  batch, size = [], 0
  for document in documents:
    batch.append(document)
    size += document[1]
    if size >= _BYTES_AT_ONCE:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch
