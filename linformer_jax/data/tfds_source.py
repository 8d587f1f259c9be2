"""Documents from TensorFlow Datasets, by name.

Where the dataset is stored in a format with random access (ArrayRecord), it is
read by `tfds`' data source, without TensorFlow. Otherwise TensorFlow reads it,
imported only then and kept off the accelerators, which are JAX's.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from linformer_jax.data import source

_READ_AT_ONCE = 256
_WIKI40B_HEADING = re.compile(r"\s*_START_(?:ARTICLE|SECTION|PARAGRAPH)_\s*")


def clean_wiki40b(text: str) -> str:
  """Plain text from Wiki-40B's: a line for each marked piece, no markers."""
  return _WIKI40B_HEADING.sub("\n", text).replace("_NEWLINE_", "\n").strip()


def tfds(
  name: str,
  train_split: str,
  validation_split: str,
  data_dir: str,
  text_feature: str,
) -> source.Source:
  """A dataset with a text feature, for example `wiki40b/en` or `lm1b`.

  Args:
    name: `name[/config][:version]`.
    train_split: for example `train` or `train[:10%]`.
    validation_split: likewise, or '' to hold out by document.
    data_dir: where datasets are kept; '' is TFDS's default.
    text_feature: the feature that holds the text.

  Returns:
    The source; its data are prepared when first read. Its identity is the
    full name with the version, the splits and `data_dir`.

  Raises:
    ValueError: if there is no such dataset or feature. Reading raises it too,
      if there is no such split.
  """
  # Slow to import, and not needed for any other source.
  import tensorflow_datasets

  try:
    builder = tensorflow_datasets.builder(name, data_dir=data_dir or None)
  except tensorflow_datasets.core.DatasetNotFoundError as error:
    # The original message lists every dataset there is.
    raise ValueError(f"TFDS has no dataset {name!r}") from error
  features = builder.info.features
  if features is not None and text_feature not in features:
    raise ValueError(
      f"{name} has no feature {text_feature!r}; it has {sorted(features)}"
    )
  clean = clean_wiki40b if builder.name == "wiki40b" else None
  reader = _Reader(builder, text_feature, clean)
  return source.Source(
    name=builder.info.full_name,
    description=f"TFDS {builder.info.full_name}",
    identity={
      "source": "tfds",
      "name": builder.info.full_name,
      "data_dir": data_dir,
      "splits": [train_split, validation_split],
      "text_feature": text_feature,
      "cleaning": 1 if clean else 0,
    },
    train=lambda: reader.documents(train_split),
    validation=(
      (lambda: reader.documents(validation_split)) if validation_split else None
    ),
  )


class _Reader:
  """Reads the text of one dataset's splits, preparing it at the first call."""

  def __init__(
    self, builder: Any, text_feature: str, clean: Callable[[str], str] | None
  ):
    self._builder = builder
    self._text_feature = text_feature
    self._clean = clean

  def documents(self, split: str) -> Iterator[str]:
    self._prepare(split)
    for value in self._values(split):
      text = value
      if isinstance(value, bytes):
        # Hours of tokenising are not to end at one broken character.
        text = value.decode("utf-8", errors="replace")
      if not isinstance(text, str):
        raise ValueError(
          f"{self._builder.info.full_name}: feature {self._text_feature!r}"
          f" is not text but {type(text).__name__}"
        )
      yield self._clean(text) if self._clean else text

  def _prepare(self, split: str) -> None:
    if not self._builder.is_prepared():
      self._builder.download_and_prepare()
    splits = self._builder.info.splits
    base = re.split(r"[\[+]", split)[0].strip()
    if base not in splits and base != "all":
      raise ValueError(
        f"{self._builder.info.full_name} has no split {split!r}; it has"
        f" {sorted(splits)}"
      )

  def _values(self, split: str) -> Iterator[Any]:
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
          yield example[self._text_feature]
    else:
      _hide_accelerators()
      config = tensorflow_datasets.ReadConfig(
        interleave_cycle_length=1, try_autocache=False
      )
      # Unshuffled, one file at a time: the same order at every call.
      dataset = builder.as_dataset(
        split=split,
        decoders=tensorflow_datasets.decode.PartialDecoding(
          {self._text_feature: True}
        ),
        shuffle_files=False,
        read_config=config,
      )
      for example in tensorflow_datasets.as_numpy(dataset):
        yield example[self._text_feature]


def _hide_accelerators() -> None:
  import tensorflow

  for kind in ("GPU", "TPU"):
    tensorflow.config.set_visible_devices([], kind)
