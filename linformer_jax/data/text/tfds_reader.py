"""Opens and reads TensorFlow Datasets by name: any features of any split.

A dataset stored in a format with random access (ArrayRecord) is read by TFDS's
data source, without TensorFlow. Otherwise TensorFlow reads it; it is imported
only then, and kept off the accelerators, which belong to JAX.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from linformer_jax.data.text import source
from linformer_jax.run import paths

_READ_AT_ONCE = 256
# Excludes namespaces, as in huggingface:x, which TFDS would look up on the
# network.
_NAME = re.compile(
  r"(?P<set>[A-Za-z]\w*)(/(?P<config>[\w.+-]+))?"
  r"(:(\d+|\*)(\.(\d+|\*)){2})?"
)
_NAMED_AT_ONCE = 8
_PREPARED = "gs://tfds-data/datasets"  # TFDS's own copies of some datasets


def open_dataset(
  name: str,
  train_split: str,
  validation_split: str,
  data_dir: str,
  texts: dict[str, str],
  others: Sequence[str] = (),
) -> "Reader":
  """Returns a reader of a dataset, which it prepares when it first reads.

  Args:
    name: `name[/config][:version]`.
    train_split: for example `train` or `train[:10%]`.
    validation_split: for example `validation`; '' for none.
    data_dir: the folder of the datasets, local or gs://; '' is TFDS's default.
    texts: config field to the feature that it names, which must hold text.
    others: further features to read.

  Raises:
    ValueError: if there is no such dataset, config, version or feature, or if a
      split is malformed or missing. Splits of a dataset that is not prepared
      yet are looked up when it is read.
    source.MissingText: if `data_dir` cannot be read.
  """
  builder = _builder(name, _checked_folder(data_dir))
  for field, feature in texts.items():
    _check_text(builder, field, feature)
  splits = {"data.tfds_train_split": train_split}
  if validation_split:
    splits["data.tfds_validation_split"] = validation_split
  reader = Reader(builder, splits, [*texts.values(), *others])
  for feature in others:
    reader.feature(feature)
  reader.check_splits()
  return reader


def text_of(value: bytes) -> str:
  """Returns the text of a feature."""
  # One broken character should not end hours of tokenizing.
  return value.decode("utf-8", errors="replace")


def _checked_folder(data_dir: str) -> str:
  field = "data.tfds_data_dir"
  data_dir = paths.expand(data_dir, field, bucket=True)
  if not data_dir or paths.in_bucket(data_dir):
    return data_dir
  if not os.path.exists(data_dir):
    raise source.MissingText(
      f"{field}={data_dir} does not exist: name the folder that holds prepared"
      " datasets, or make one for this to be prepared in"
    )
  if not os.path.isdir(data_dir):
    raise ValueError(f"{field}={data_dir} is a file, not a folder")
  if not os.access(data_dir, os.R_OK | os.X_OK):
    raise source.MissingText(f"{field}={data_dir} cannot be read by this user")
  return data_dir


def _builder(name: str, data_dir: str) -> Any:
  # Slow to import, and not needed for any other source.
  import tensorflow_datasets

  match = _NAME.fullmatch(name)
  if not match:
    raise ValueError(
      f"data.tfds_name={name!r} is not name[/config][:version], such as"
      " wiki40b/en or lm1b:1.1.0; a dataset of a hub (huggingface:NAME,"
      " kaggle:NAME) is read from JSON lines, with data.source=files"
    )
  folder = data_dir or tensorflow_datasets.core.constants.DATA_DIR
  try:
    return tensorflow_datasets.builder(name, data_dir=data_dir or None)
  except tensorflow_datasets.core.DatasetNotFoundError as error:
    # The original message lists every dataset.
    raise ValueError(
      f"data.tfds_name: TFDS has no dataset {name!r}, and none is prepared in"
      f" {folder}; see https://www.tensorflow.org/datasets/catalog"
    ) from error
  except (AssertionError, ValueError) as error:
    problem = _line(error)
    if match["config"] and "BuilderConfig" in problem:
      known = tensorflow_datasets.builder_cls(match["set"]).builder_configs
      problem = f"no config {match['config']!r}; there is {_listed(known)}"
    raise ValueError(f"data.tfds_name={name}: {problem}") from error
  except _failures() as error:
    raise source.MissingText(
      f"{name} cannot be read from data.tfds_data_dir={folder}: {_line(error)}"
    ) from error


def _check_text(builder: Any, field: str, name: str) -> None:
  import tensorflow_datasets

  features = dict(builder.info.features or {})
  text = [
    key
    for key, feature in features.items()
    if isinstance(feature, tensorflow_datasets.features.Tensor)
    and feature.shape == ()
    and np.dtype(feature.np_dtype).kind == "O"
  ]
  if name not in text:
    full_name = builder.info.full_name
    problem = f"{full_name} has no feature {name!r}"
    if name in features:
      kind = type(features[name]).__name__
      problem = f"feature {name!r} of {full_name} is {kind}, not text"
    raise ValueError(f"{field}: {problem}; there is {_listed(text)}")


def _listed(names: Iterable[str]) -> str:
  names = sorted(names)
  more = len(names) - _NAMED_AT_ONCE
  listed = ", ".join(names[:_NAMED_AT_ONCE]) or "none"
  return f"{listed} and {more} more" if more > 0 else listed


def _line(error: Exception) -> str:
  """Returns the message of a TFDS error, on one line and without its prefix."""
  text = " ".join(str(error).split()).rpartition('}": ')[2]
  return (text or type(error).__name__)[:300].rstrip(".")


def _failures() -> tuple[type[Exception], ...]:
  """Returns what TFDS raises if it cannot read or prepare a dataset."""
  from google.protobuf import json_format
  from tensorflow_datasets.core import download

  found = (
    *(AssertionError, ImportError, OSError, RuntimeError, ValueError),
    json_format.ParseError,
    download.DownloadError,
    download.download_manager.NonMatchingChecksumError,
    download.extractor.ExtractError,
  )
  tensorflow = sys.modules.get("tensorflow")  # Imported only to read gs://.
  return (*found, tensorflow.errors.OpError) if tensorflow else found


class Reader:
  """Reads the splits of one dataset, which it prepares first if necessary.

  Args:
    builder: of TFDS.
    splits: config field to the split that it names.
    features: those to read.
  """

  def __init__(
    self, builder: Any, splits: dict[str, str], features: Sequence[str]
  ):
    self._builder = builder
    self._splits = splits
    self._features = list(features)
    self.name: str = builder.name
    self.full_name: str = builder.info.full_name

  def feature(self, name: str) -> Any:
    """Returns TFDS's description of a feature.

    Raises:
      ValueError: if there is none, naming those there are.
    """
    features = dict(self._builder.info.features or {})
    if name not in features:
      raise ValueError(
        f"{self.full_name} has no feature {name!r}; there is"
        f" {_listed(features)}"
      )
    return features[name]

  def examples(self, split: str) -> Iterator[dict[str, Any]]:
    """Yields the features of each example, in the same order at each call."""
    if not self._builder.is_prepared():
      self._prepare()
      self.check_splits()
    try:
      yield from self._examples(split)
    except _failures() as error:
      raise source.MissingText(
        f"{self._builder.data_path} cannot be read: {_line(error)}"
      ) from error

  def check_splits(self) -> None:
    """Raises a ValueError for a split that is malformed, missing or empty."""
    import tensorflow_datasets

    info = self._builder.info
    for field, split in self._splits.items():
      try:
        tensorflow_datasets.core.ReadInstruction.from_spec(split)
        # Splits are unknown until a dataset is prepared.
        if info.splits and info.splits[split].num_examples <= 0:
          raise ValueError("It holds no examples.")
      except (NotImplementedError, ValueError) as error:
        problem = str(error).splitlines()[-1]
        raise ValueError(
          f"{field}={split!r} cannot be read from {info.full_name}: {problem}"
        ) from error

  def _prepare(self) -> None:
    import tensorflow_datasets

    builder = self._builder
    folder = builder.data_dir_root
    problem = ""
    beam = isinstance(builder, tensorflow_datasets.core.BeamBasedBuilder)
    if os.path.isdir(folder) and not os.access(folder, os.W_OK):
      problem = "this user cannot write there"
    elif beam and importlib.util.find_spec("apache_beam") is None:
      problem = "it needs Apache Beam: pip install apache-beam[gcp]"
    else:
      try:
        builder.download_and_prepare()
      except _failures() as error:
        problem = f"{type(error).__name__}: {_line(error)}"
      if not problem and not builder.is_prepared():
        problem = f"{builder.data_dir} is incomplete"
    if problem:
      raise source.MissingText(
        f"{builder.info.full_name} is not prepared in {folder} and cannot be"
        f" here ({problem}): prepare it where there is a network and copy it"
        f" here, or set data.tfds_data_dir to {_PREPARED}, which holds some"
      )

  def _examples(self, split: str) -> Iterator[dict[str, Any]]:
    import tensorflow_datasets

    builder = self._builder
    formats = tensorflow_datasets.core.FileFormat.with_random_access()
    random_access = formats & builder.info.available_file_formats()
    if random_access:
      examples = builder.as_data_source(
        split=split,
        file_format=sorted(random_access, key=lambda f: f.value)[0],
      )
      for start in range(0, len(examples), _READ_AT_ONCE):
        stop = min(start + _READ_AT_ONCE, len(examples))
        for example in examples.__getitems__(range(start, stop)):
          yield {name: example[name] for name in self._features}
    else:
      _hide_accelerators()
      config = tensorflow_datasets.ReadConfig(
        interleave_cycle_length=1, try_autocache=False
      )
      # Unshuffled, one file at a time: the same order at every call.
      dataset = builder.as_dataset(
        split=split,
        decoders=tensorflow_datasets.decode.PartialDecoding(
          dict.fromkeys(self._features, True)
        ),
        shuffle_files=False,
        read_config=config,
      )
      yield from tensorflow_datasets.as_numpy(dataset)


def _hide_accelerators() -> None:
  import tensorflow

  for kind in ("GPU", "TPU"):
    tensorflow.config.set_visible_devices([], kind)
