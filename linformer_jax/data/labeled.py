"""Sources of labeled texts, or pairs of texts: the user's files, and TFDS.

A file has JSON lines, or is CSV or TSV by its name. A row has a text, perhaps a
second one, and `label`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from linformer_jax.data import cache
from linformer_jax.data import labels as labels_lib
from linformer_jax.data.config import DataConfig
from linformer_jax.data.text import formats, json_lines, reading, tfds_reader
from linformer_jax.data.text import source as source_lib

_LABEL = "label"
_PAIR = "text_pair"  # in files, unless the config names another field
# The version of the rows, and of what the cache stores of them. Part of the
# identity, as entries of another version cannot be read.
_READING = 2


@dataclasses.dataclass(frozen=True)
class Source(source_lib.Source):
  """Labeled rows, and what identifies them.

  Attributes:
    names: of the classes in order, if the data set declares them.
  """

  names: tuple[str, ...] = ()


def source(config: DataConfig) -> Source:
  """Returns the labeled texts that a config names, whose documents are rows.

  Raises:
    ValueError: in one line, for files or a dataset that cannot be used.
  """
  identity = {
    "reading": _READING,
    "text_feature": config.text_feature,
    "pair_feature": config.pair_feature,
  }
  return (_tfds if config.tfds_name else _files)(config, identity)


def _files(config: DataConfig, identity: dict[str, Any]) -> Source:
  found = source_lib.hashed_files(
    "labeled",
    config.files,
    config.validation_files,
    cache.root_directory(config.cache_dir),
    functools.partial(_read, config.text_feature, config.pair_feature),
    identity,
  )
  return Source(**vars(found))


def values(path: str, columns: list[str]) -> Iterator[tuple[Any, str]]:
  """Yields the value of each row of a file, and its place for messages.

  Args:
    path: JSON lines, or CSV or TSV by its name.
    columns: those that the header of CSV or TSV must have.
  """
  if formats.extension(path) in formats.DELIMITERS:
    return reading.cells(path, columns)
  return reading.json_values(path)


def check_text(text: str, place: str) -> None:
  """Raises a ValueError for a text of white space alone."""
  if not text.strip():
    raise ValueError(
      f"{place}: text is empty: a row needs one; fill it in or remove the row"
    )


def _read(
  text_feature: str, pair_feature: str, path: str
) -> Iterator[labels_lib.Row]:
  """Yields the rows of a file; without a `pair_feature`, pairs are optional."""
  cells = formats.extension(path) in formats.DELIMITERS
  named = [pair_feature] if pair_feature else []
  second = pair_feature or _PAIR
  for value, place in values(path, [text_feature, *named, _LABEL]):
    text = json_lines.text_of(value, text_feature, place)
    pair = ""
    # A null is no pair; a field that the config names must be there.
    if value.get(second, pair_feature or None) is not None:
      pair = json_lines.text_of(value, second, place)
    label = labels_lib.Cell(value[_LABEL]) if cells else value.get(_LABEL)
    yield _row(text, pair, label, place)


def _row(
  text: str, pair: str, label: labels_lib.Label, place: str
) -> labels_lib.Row:
  check_text(text, place)
  if not isinstance(label, (int, float, str)) or isinstance(label, bool):
    raise ValueError(
      f"{place}: label {label!r} is neither an integer nor a string nor a float"
    )
  if isinstance(label, str) and not label.strip():
    raise ValueError(
      f"{place}: label is empty: a row needs one; fill it in or remove the row"
    )
  return labels_lib.Row(text, pair if pair.strip() else "", label, place)


def _tfds(config: DataConfig, identity: dict[str, Any]) -> Source:
  texts = {"data.text_feature": config.text_feature}
  if config.pair_feature:
    texts["data.pair_feature"] = config.pair_feature
  train, held = config.tfds_train_split, config.tfds_validation_split
  reader = tfds_reader.open_dataset(
    config.tfds_name, train, held, config.tfds_data_dir, texts, [_LABEL]
  )
  names, label_of = _label_feature(reader)

  def rows(split: str) -> Iterator[labels_lib.Row]:
    for i, example in enumerate(reader.examples(split)):
      place = f"{reader.full_name} {split}, row {i}"
      text, *pair = (
        json_lines.clean(tfds_reader.text_of(example[feature]))
        for feature in texts.values()
      )
      label = label_of(example[_LABEL], place)
      yield _row(text, "".join(pair), label, place)

  return Source(
    name=reader.full_name,
    description=f"TFDS {reader.full_name}",
    identity={
      "source": "labeled_tfds",
      "name": reader.full_name,
      "splits": [train, held],
      **identity,
    },
    train=functools.partial(rows, train),
    validation=functools.partial(rows, held) if held else None,
    names=names,
  )


def _label_feature(
  reader: tfds_reader.Reader,
) -> tuple[tuple[str, ...], Callable[[Any, str], labels_lib.Label]]:
  """Returns declared names, and (value, place) -> label."""
  import tensorflow_datasets

  feature = reader.feature(_LABEL)
  if isinstance(feature, tensorflow_datasets.features.ClassLabel):
    names = tuple(feature.names)

    def name_of(number: Any, place: str) -> str:
      if not 0 <= number < len(names):
        raise ValueError(
          f"{place}: label {number} is none of the {len(names)} classes: choose"
          " a split whose labels are published"
        )
      return names[number]

    return names, name_of
  kinds = {"i": int, "u": int, "f": float, "O": tfds_reader.text_of}
  dtype = np.dtype(feature.np_dtype) if feature.shape == () else None
  if dtype is None or dtype.kind not in kinds:
    of = "" if dtype is None else f" of {dtype}"
    raise ValueError(
      f"feature {_LABEL!r} of {reader.full_name} is {type(feature).__name__}"
      f"{of}, not a class, a number or a text"
    )
  convert = kinds[dtype.kind]
  return (), lambda value, place: convert(value)
