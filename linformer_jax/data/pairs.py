"""Reads labeled texts, or labeled pairs of texts, from JSON lines.

Each line is an object with `text` (or the field that the config names), an
optional `text_pair`, and `label`, an integer or a string. Labels are numbered
in sorted order.
"""

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

from linformer_jax.data import cache
from linformer_jax.data.config import DataConfig
from linformer_jax.data.text import (
  corpus,
  holdout,
  ingest,
  json_lines,
  progress,
  provenance,
  reading,
)
from linformer_jax.data.text import source as source_lib
from linformer_jax.data.text import tokenizer as tokenizer_lib

_log = logging.getLogger(__name__)

_LABELS = "labels.json"
# The tokens of all rows, and [rows, 3]: the number of tokens in each row's
# first text, the number in its second, and its label.
_TOKENS, _ROWS = "{}.bin", "{}_rows.bin"
_ROWS_AT_ONCE = 4096

# (text, text_pair, label)
Labeled = tuple[str, str, int | str]


class Rows:
  """Random access to labeled rows: `len(rows)`, `rows[i]`.

  A row is {'text': int32 [n], 'pair': int32 [m], 'label': int}, untruncated
  and without special tokens; m is 0 if there is one text.

  Attributes:
    labels: int64 [rows].
    sequence_length: N, the length the task builds its examples at.
  """

  def __init__(self, directory: str, split: str, config: DataConfig):
    dtype = ingest.token_dtype(config.vocab_size)
    rows = np.fromfile(os.path.join(directory, _ROWS.format(split)), "<i8")
    rows = rows.reshape(-1, 3)
    path = os.path.join(directory, _TOKENS.format(split))
    self._tokens = np.fromfile(path, dtype)
    self._ends = np.cumsum(rows[:, :2]).reshape(-1, 2)
    self._starts = self._ends - rows[:, :2]
    self.labels = rows[:, 2]
    self.sequence_length = config.sequence_length

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int) -> dict[str, Any]:
    text, pair = (
      self._tokens[start:end].astype(np.int32)
      for start, end in zip(self._starts[index], self._ends[index], strict=True)
    )
    return {"text": text, "pair": pair, "label": int(self.labels[index])}


@dataclasses.dataclass(frozen=True, eq=False)
class LabeledTexts:
  """Tokenized labeled texts, opened from the cache.

  Attributes:
    tokenizer: the tokenizer.
    train, validation: the rows.
    labels: the names of the labels, indexed by number.
    directory: the cache entry.
    record: identifies the data, for the run's folder.
  """

  tokenizer: tokenizers.Tokenizer
  train: Rows
  validation: Rows
  labels: tuple[int | str, ...]
  directory: str
  record: provenance.Record

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
    ValueError: as `corpus.prepare`; also for a line without a label, or a
      label that only the validation split has.
  """
  return corpus.open_cached(config, known, _source, _build, _open)


def _source(config: DataConfig) -> source_lib.Source:
  return source_lib.hashed_files(
    "labeled",
    config.files,
    config.validation_files,
    cache.root_directory(config.cache_dir),
    functools.partial(_read, text_feature=config.text_feature),
    {"text_feature": config.text_feature},
  )


def _read(path: str, text_feature: str) -> Iterator[Labeled]:
  for value, place in reading.json_values(path):
    text = json_lines.text_of(value, text_feature, place)
    pair = ""
    if value.get("text_pair") is not None:
      pair = json_lines.text_of(value, "text_pair", place)
    label = value.get("label")
    if not isinstance(label, (int, str)) or isinstance(label, bool):
      raise ValueError(
        f"{place}: label {label!r} is neither an integer nor a string"
      )
    yield text, pair, label


def _split(
  source: source_lib.Source, holdout_fraction: float
) -> Iterator[tuple[bool, Labeled]]:
  """Yields (held out, row) for the rows of both splits."""
  for row in source.train():
    held = False
    if source.validation is None:
      hashed = holdout.digest("\0".join(row[:2]).encode())
      held = hashed < holdout_fraction * 2**64
    yield held, row
  if source.validation is not None:
    for row in source.validation():
      yield True, row


def _build(
  writer: cache.Writer,
  source: source_lib.Source,
  config: DataConfig,
  tokenizer: tokenizers.Tokenizer | None,
) -> None:
  _log.info("Reading %s", source.description)
  seen: tuple[set, set] = (set(), set())
  count = size = 0
  for held, (text, pair, label) in _split(source, config.holdout_fraction):
    seen[held].add(label)
    count, size = count + 1, size + len(text) + len(pair)
  for labels, split in zip(seen, ("training", "validation"), strict=True):
    if not labels:
      raise ValueError(f"{source.description}: no row for {split}")
  if len({type(label) for label in seen[0]}) > 1:
    raise ValueError(f"{source.description}: some labels are strings, not all")
  if unknown := seen[True] - seen[False]:
    raise ValueError(
      f"{source.description}: label {min(unknown, key=str)!r} occurs "
      "only in the validation split"
    )
  labels = sorted(seen[False])
  number = {label: i for i, label in enumerate(labels)}
  if tokenizer is None:
    tokenizer = _trained(source, config)
  with writer.file(ingest.TOKENIZER) as write:
    write(tokenizer.to_str().encode())
  with writer.file(_LABELS) as write:
    write(json.dumps(labels).encode())
  dtype = ingest.token_dtype(config.vocab_size)
  report = progress.Progress("Tokenizing labeled texts", count, size)
  split = _split(source, config.holdout_fraction)
  with (
    writer.file(_TOKENS.format("train")) as train,
    writer.file(_TOKENS.format("validation")) as validation,
    writer.file(_ROWS.format("train")) as train_rows,
    writer.file(_ROWS.format("validation")) as validation_rows,
  ):
    while batch := list(itertools.islice(split, _ROWS_AT_ONCE)):
      texts = [text for _, row in batch for text in row[:2]]
      ids = iter(tokenizer_lib.encode(tokenizer, texts))
      for held, (_, _, label) in batch:
        text, pair = next(ids), next(ids)
        tokens, rows = (
          (validation, validation_rows) if held else (train, train_rows)
        )
        tokens(np.concatenate([text, pair]).astype(dtype).tobytes())
        row = np.array([len(text), len(pair), number[label]], "<i8")
        rows(row.tobytes())
      report.add(len(batch), sum(map(len, texts)))
  report.report()


def _trained(source, config) -> tokenizers.Tokenizer:
  """Trains a tokenizer on the training texts, up to the configured size."""
  left = config.tokenizer_train_megabytes * 1e6

  def texts() -> Iterator[str]:
    nonlocal left
    for held, row in _split(source, config.holdout_fraction):
      for text in row[:2]:
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
    train=Rows(directory, "train", config),
    validation=Rows(directory, "validation", config),
    labels=labels,
    directory=directory,
    record=dataclasses.replace(record, directory=directory),
  )
