"""Tokenizes and opens a corpus.

`prepare` tokenizes the text once, into a cache. Every host does so on its own
and gets the same ids, as the split and the tokenizer depend on the text alone.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import tokenizers

from linformer_jax.data import cache
from linformer_jax.data.config import DataConfig
from linformer_jax.data.text import (
  ingest,
  masking,
  packing,
  provenance,
  tfds_source,
)
from linformer_jax.data.text import source as source_lib
from linformer_jax.data.text import special as special_lib
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.run import paths

_log = logging.getLogger(__name__)

_SOURCES: dict[str, Callable[[DataConfig], source_lib.Source]] = {
  "sotu": lambda config: source_lib.sotu(),
  "synthetic": lambda config: source_lib.synthetic(),
  "files": lambda config: source_lib.files(
    config.files,
    config.text_feature,
    config.validation_files,
    cache.root_directory(config.cache_dir),
  ),
  "tfds": lambda config: tfds_source.tfds(
    config.tfds_name,
    config.tfds_train_split,
    config.tfds_validation_split,
    config.tfds_data_dir,
    config.text_feature,
  ),
}

SOURCES = tuple(_SOURCES)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
  """A tokenized corpus, opened from the cache.

  Attributes:
    tokenizer: the tokenizer.
    vocab_size: V, as configured; the tokenizer may have fewer ids.
    train: the training blocks; `train[i]` is {'tokens': int32 [N], 'mask':
      bool [N]}, without padding.
    validation: the held-out blocks, the last one padded.
    token_counts: int64 [V], the occurrences of each id in training.
    directory: the cache entry.
    vocabulary: special ids and replacements, for masking.
    record: identifies the data, for the run's folder.
    labels: none.
  """

  labels: ClassVar[tuple[()]] = ()

  tokenizer: tokenizers.Tokenizer
  vocab_size: int
  train: packing.BlockSource
  validation: packing.BlockSource
  token_counts: np.ndarray
  directory: str
  vocabulary: masking.Vocabulary
  record: provenance.Record

  @property
  def special(self) -> special_lib.Special:
    """The tokenizer's special tokens."""
    return self.train.special

  @property
  def tokenizer_json(self) -> str:
    """The tokenizer.json whose hash is in the record."""
    return ingest.tokenizer_json(self.directory)


def prepare(
  config: DataConfig, known: provenance.Record | None = None
) -> Corpus:
  """Opens the corpus, tokenizing it first if it is not cached.

  Args:
    config: the `data` group.
    known: the record of a run to resume, or None for a new run. Its tokens are
      looked up in its own and in the configured cache, so the text may be
      missing; if it is present, it must be the same.

  Raises:
    ValueError: in one line, for input that cannot be used: no such file,
      dataset, field or tokenizer, no text, or less than a block of it; or for
      text that differs from the known one, naming what has changed.
  """
  return open_cached(config, known, _SOURCES[config.source], _ingest, _open)


def open_cached(
  config: DataConfig,
  known: provenance.Record | None,
  source_of: Callable[[DataConfig], source_lib.Source],
  build: Callable[..., None],
  open_entry: Callable[..., Any],
) -> Any:
  """Like `prepare`, for records of any kind.

  Args:
    config: the `data` group.
    known: the record of a run to resume, or None for a new run.
    source_of: (config) returns the source.
    build: (writer, source, config, tokenizer or None) writes a cache entry.
    open_entry: (directory, config, description, record) opens an entry.

  Raises:
    ValueError: as `prepare`.
  """
  root = cache.root_directory(config.cache_dir)
  try:
    source = source_of(config)
    tokenizer = _given_tokenizer(config)
  except source_lib.MissingText as error:
    if known is None:
      raise
    return _without_text(root, config, known, error, open_entry)
  text = _identity(config, source, tokenizer)
  inputs = [list(file) for file in source.inputs + source.validation_inputs]
  directory = None
  if known is not None:
    if changed := provenance.changes(known, text, inputs):
      raise ValueError(
        f"the text is not what this run was trained on: {changed}. Put it back "
        "as it was, or start a new run in another --workdir"
      )
    directory = cache.find(_candidate_folders(root, known), known.tokens)
  version = importlib.metadata.version("tokenizers")
  if directory is None:
    settings = text | {"format": cache.FORMAT, "tokenizers": version}
    directory = cache.open_or_build(
      root,
      source.name,
      settings,
      lambda writer: build(writer, source, config, tokenizer),
    )
  tokens = cache.files_of(directory)
  if known is not None and tokens != known.tokens:
    different = [name for name in tokens if tokens[name] != known.tokens[name]]
    raise ValueError(
      "the same text gives other tokens than this run was trained on "
      f"({', '.join(different)}; tokenizers {version} here, {known.tokenizers} "
      "there): restore its cache or that version, or start a new run in "
      "another --workdir"
    )
  record = provenance.Record(text, inputs, tokens, directory, version)
  return open_entry(directory, config, source.description, record)


def _identity(
  config: DataConfig,
  source: source_lib.Source,
  tokenizer: tokenizers.Tokenizer | None,
) -> dict[str, Any]:
  """Returns `provenance.Record.text`, which determines the tokens."""
  trained_on = {"megabytes": config.tokenizer_train_megabytes}
  if tokenizer is not None:
    content = tokenizer.to_str().encode()
    trained_on = {"sha256": hashlib.sha256(content).hexdigest()}
  text = {
    "source": source.identity,
    "holdout_fraction": None if source.validation else config.holdout_fraction,
    "vocab_size": config.vocab_size,
    "tokenizer": trained_on,
  }
  return json.loads(json.dumps(text))


def _without_text(
  root: str,
  config: DataConfig,
  known: provenance.Record,
  error: ValueError,
  open_entry: Callable[..., Any],
) -> Any:
  """Opens the cached tokens of a run whose text is missing."""
  directory = cache.find(_candidate_folders(root, known), known.tokens)
  if directory is None:
    raise ValueError(
      f"{error}; and the tokens of this run are neither in {known.directory} "
      f"nor elsewhere in {root}"
    ) from error
  _log.info("%s; using the tokens in %s", error, directory)
  return open_entry(directory, config, config.source, known)


def _given_tokenizer(config: DataConfig) -> tokenizers.Tokenizer | None:
  """Returns the tokenizer that the config names, or None to train one."""
  if not config.tokenizer_path:
    return None
  path = paths.expand(config.tokenizer_path, "data.tokenizer_path")
  if not os.path.exists(path):
    raise source_lib.MissingText(f"data.tokenizer_path={path}: no such file")
  return tokenizer_lib.load(path, config.vocab_size)


def _candidate_folders(root: str, known: provenance.Record) -> Iterator[str]:
  """Yields folders that may hold a run's tokens, the recorded one first."""
  yield known.directory
  if os.path.isdir(root):
    for name in sorted(os.listdir(root)):
      yield os.path.join(root, name)


def _ingest(
  writer: cache.Writer,
  source: source_lib.Source,
  config: DataConfig,
  tokenizer: tokenizers.Tokenizer | None,
) -> None:
  ingest.build(
    writer,
    source,
    config.holdout_fraction,
    config.vocab_size,
    tokenizer,
    config.tokenizer_train_megabytes,
  )


def _open(
  directory: str,
  config: DataConfig,
  description: str,
  record: provenance.Record,
) -> Corpus:
  def tokens(file: str) -> np.ndarray:
    dtype = ingest.token_dtype(config.vocab_size)
    return np.memmap(os.path.join(directory, file), dtype=dtype, mode="r")

  path = os.path.join(directory, ingest.TOKENIZER)
  tokenizer = tokenizer_lib.load(path, config.vocab_size)
  special = special_lib.of(tokenizer)
  length = config.sequence_length
  train = packing.BlockSource(tokens(ingest.TRAIN), length, False, special)
  if not len(train):
    raise ValueError(
      f"{description} has {len(train.tokens)} tokens for training; one block of"
      f" sequence_length {length} takes {length - 1}"
    )
  return Corpus(
    tokenizer=tokenizer,
    vocab_size=config.vocab_size,
    train=train,
    validation=packing.BlockSource(
      tokens(ingest.VALIDATION), length, True, special
    ),
    token_counts=np.fromfile(
      os.path.join(directory, ingest.COUNTS), dtype="<i8"
    ),
    directory=directory,
    vocabulary=masking.vocabulary(
      tokenizer_lib.size(tokenizer),
      tokenizer_lib.special_ids(tokenizer),
      special.mask,
    ),
    record=dataclasses.replace(record, directory=directory),
  )
