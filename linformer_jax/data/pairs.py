"""Tokenizes and opens labeled texts, or labeled pairs of texts.

`labeled` reads the rows and `labels` finds out what their labels are: classes,
or floats. Both come out the same from any format.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tokenizers

from linformer_jax.data import cache, labeled
from linformer_jax.data import labels as labels_lib
from linformer_jax.data.config import DataConfig
from linformer_jax.data.text import (
  corpus,
  holdout,
  ingest,
  progress,
  provenance,
)
from linformer_jax.data.text import source as source_lib
from linformer_jax.data.text import special as special_lib
from linformer_jax.data.text import tokenizer as tokenizer_lib

_log = logging.getLogger(__name__)

_LABELS = "labels.json"
# The tokens of all rows, and for each row the number of tokens in its first
# text, the number in its second, and its label: 3 times 8 bytes.
_TOKENS, _ROWS = "{}.bin", "{}_rows.bin"
_ROWS_AT_ONCE = 4096


def _row_dtype(names: tuple[int | str, ...]) -> np.dtype:
  """Labels are numbers of classes, or floats if there are no classes."""
  label = "<i8" if names else "<f8"
  return np.dtype([("lengths", "<i8", (2,)), ("label", label)])


class Rows:
  """Random access to labeled rows: `len(rows)`, `rows[i]`.

  A row is {'text': int32 [n], 'pair': int32 [m], 'label': int or float},
  untruncated and without special tokens; m is 0 if there is one text.

  Attributes:
    labels: int64 [rows], or float64 [rows] if there are no classes.
    lengths: int64 [rows, 2], n and m of each row.
    sequence_length: N, the length the task builds its examples at.
    separate: whether each text of a pair has N tokens of its own.
  """

  def __init__(
    self,
    directory: str,
    split: str,
    names: tuple[int | str, ...],
    config: DataConfig,
  ):
    path = os.path.join(directory, _ROWS.format(split))
    rows = np.fromfile(path, _row_dtype(names))
    path = os.path.join(directory, _TOKENS.format(split))
    self._tokens = np.fromfile(path, ingest.token_dtype(config.vocab_size))
    self.lengths = np.ascontiguousarray(rows["lengths"])
    self.labels = np.ascontiguousarray(rows["label"])
    self.sequence_length = config.sequence_length
    self.separate = config.separate_pairs
    self._ends = np.cumsum(self.lengths).reshape(-1, 2)
    self._starts = self._ends - self.lengths

  def __len__(self) -> int:
    return len(self.labels)

  def sizes(self, special: special_lib.Special) -> np.ndarray:
    """Returns int [rows], the tokens of each whole row with special ones.

    Of separate pairs, those of the longer text.
    """
    if self.separate:
      return self.lengths.max(1) - special.room(0, False)
    added = (-special.room(0, paired) for paired in (True, False))
    return self.lengths.sum(1) + np.where(self.lengths[:, 1] > 0, *added)

  def too_long(self, special: special_lib.Special) -> np.ndarray:
    """Returns bool [rows], True at rows that lose tokens in N."""
    return self.sizes(special) > self.sequence_length

  def __getitem__(self, index: int) -> dict[str, Any]:
    text, pair = (
      self._tokens[start:end].astype(np.int32)
      for start, end in zip(self._starts[index], self._ends[index], strict=True)
    )
    return {"text": text, "pair": pair, "label": self.labels[index].item()}


@dataclasses.dataclass(frozen=True, eq=False)
class LabeledTexts:
  """Tokenized labeled texts, opened from the cache.

  Attributes:
    tokenizer: the tokenizer.
    train, validation: the rows.
    labels: the names of the classes, by number; () if labels are floats.
    directory: the cache entry.
    record: identifies the data, for the run's folder.
  """

  tokenizer: tokenizers.Tokenizer
  train: Rows
  validation: Rows
  labels: tuple[int | str, ...]
  directory: str
  record: provenance.Record

  @functools.cached_property
  def special(self) -> special_lib.Special:
    """The tokenizer's special tokens."""
    return special_lib.of(self.tokenizer)

  @functools.cached_property
  def facts(self) -> dict[str, int]:
    """Counts of rows for result.json."""
    splits = {"train": self.train, "validation": self.validation}
    found = {
      f"{name}_truncated": int(rows.too_long(self.special).sum())
      for name, rows in splits.items()
    }
    return found | {"train_pairs": int((self.train.lengths[:, 1] > 0).sum())}

  @property
  def remark(self) -> str:
    """A line that tells how many texts are truncated, or ''."""
    train, held = (
      self.facts["train_truncated"],
      self.facts["validation_truncated"],
    )
    if not train + held:
      return ""
    return (
      f"{train:,} of {len(self.train):,} training and {held:,} of "
      f"{len(self.validation):,} validation texts are longer than "
      f"data.sequence_length {self.train.sequence_length} and are truncated"
    )

  @property
  def tokenizer_json(self) -> str:
    """The tokenizer.json whose hash is in the record."""
    return ingest.tokenizer_json(self.directory)


def prepare(
  config: DataConfig, known: provenance.Record | None = None
) -> LabeledTexts:
  """Opens labeled texts, tokenizing them first if they are not cached.

  Without `validation_files`, rows are held out by a hash of their texts, so
  copies of a row fall into the same split.

  Raises:
    ValueError: as `corpus.prepare`; also for an empty text, as `labels.survey`,
      and for a text that would be truncated if `config.truncate` is False.
  """
  data = corpus.open_cached(config, known, labeled.source, _build, _open)
  if not config.truncate:
    _refuse_long(data, config)
  return data


def _refuse_long(data: LabeledTexts, config: DataConfig) -> None:
  """Raises a ValueError that names the first row that is too long."""
  for held, rows in ((False, data.train), (True, data.validation)):
    long = np.flatnonzero(rows.too_long(data.special))
    if not len(long):
      continue
    first, split = int(long[0]), "validation" if held else "training"
    place = f"{split} row {first}"
    with contextlib.suppress(source_lib.MissingText):  # the tokens are cached
      splits = _split(labeled.source(config), config.holdout_fraction)
      same = (row for is_held, row in splits if is_held == held)
      place = next(itertools.islice(same, first, None)).place
    raise ValueError(
      f"{place}: the row has {rows.sizes(data.special)[first]:,} tokens, more "
      f"than data.sequence_length {rows.sequence_length} ({len(long):,} such "
      f"{split} rows): shorten them, set a larger data.sequence_length, or "
      "leave data.truncate"
    )


def _split(
  source: labeled.Source, holdout_fraction: float
) -> Iterator[tuple[bool, labels_lib.Row]]:
  """Yields (held out, row) for the rows of both splits."""
  for row in source.train():
    held = False
    if source.validation is None:
      hashed = holdout.digest(f"{row.text}\0{row.pair}".encode())
      held = hashed < holdout_fraction * 2**64
    yield held, row
  if source.validation is not None:
    for row in source.validation():
      yield True, row


def _build(
  writer: cache.Writer,
  source: labeled.Source,
  config: DataConfig,
  tokenizer: tokenizers.Tokenizer | None,
) -> None:
  _log.info("Reading %s", source.description)
  labels = labels_lib.survey(
    lambda: _split(source, config.holdout_fraction),
    source.description,
    source.names,
  )
  if tokenizer is None:
    tokenizer = _trained(source, config)
  with writer.file(ingest.TOKENIZER) as write:
    write(tokenizer.to_str().encode())
  with writer.file(_LABELS) as write:
    write(json.dumps(labels.names).encode())
  report = progress.Progress(
    "Tokenizing labeled texts", labels.rows, labels.characters
  )
  _tokenize(writer, source, config, tokenizer, labels, report)
  report.report()


def _tokenize(
  writer: cache.Writer,
  source: labeled.Source,
  config: DataConfig,
  tokenizer: tokenizers.Tokenizer,
  labels: labels_lib.Labels,
  report: progress.Progress,
) -> None:
  """Writes the tokens and the rows of both splits."""
  dtype = ingest.token_dtype(config.vocab_size)
  row_dtype = _row_dtype(labels.names)
  split = _split(source, config.holdout_fraction)
  with (
    writer.file(_TOKENS.format("train")) as train,
    writer.file(_TOKENS.format("validation")) as validation,
    writer.file(_ROWS.format("train")) as train_rows,
    writer.file(_ROWS.format("validation")) as validation_rows,
  ):
    while batch := list(itertools.islice(split, _ROWS_AT_ONCE)):
      texts = [text for _, row in batch for text in (row.text, row.pair)]
      ids = iter(tokenizer_lib.encode(tokenizer, texts))
      for held, row in batch:
        text, pair = next(ids), next(ids)
        tokens, rows = (
          (validation, validation_rows) if held else (train, train_rows)
        )
        tokens(np.concatenate([text, pair]).astype(dtype).tobytes())
        lengths, label = (len(text), len(pair)), labels.encode(row.label)
        rows(np.array((lengths, label), row_dtype).tobytes())
      report.add(len(batch), sum(map(len, texts)))


def _trained(source, config) -> tokenizers.Tokenizer:
  """Trains a tokenizer on the training texts, up to the configured size."""
  left = config.tokenizer_train_megabytes * 1e6

  def texts() -> Iterator[str]:
    nonlocal left
    for held, row in _split(source, config.holdout_fraction):
      for text in (row.text, row.pair):
        if not held and left > 0:
          left -= len(text.encode())
          yield text

  _log.info("Training a tokenizer of %d ids", config.vocab_size)
  with progress.heartbeat("Training a tokenizer"):
    return tokenizer_lib.train(texts(), config.vocab_size)


def _open(
  directory: str,
  config: DataConfig,
  description: str,
  record: provenance.Record,
) -> LabeledTexts:
  del description
  path = os.path.join(directory, ingest.TOKENIZER)
  with open(os.path.join(directory, _LABELS), encoding="utf-8") as file:
    labels = tuple(json.load(file))
  return LabeledTexts(
    tokenizer=tokenizer_lib.load(path, config.vocab_size),
    train=Rows(directory, "train", labels, config),
    validation=Rows(directory, "validation", labels, config),
    labels=labels,
    directory=directory,
    record=dataclasses.replace(record, directory=directory),
  )
