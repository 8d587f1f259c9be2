"""Documents from TensorFlow Datasets, by name."""

import re
from collections.abc import Callable, Iterator

from linformer_jax.data.text import source, tfds_reader

_WIKI40B_HEADING = re.compile(r"\s*_START_(?:ARTICLE|SECTION|PARAGRAPH)_\s*")


def clean_wiki40b(text: str) -> str:
  """Replaces Wiki-40B's markers with newlines."""
  return _WIKI40B_HEADING.sub("\n", text).replace("_NEWLINE_", "\n").strip()


def tfds(
  name: str,
  train_split: str,
  validation_split: str,
  data_dir: str,
  text_feature: str,
) -> source.Source:
  """Returns a dataset with a text feature, for example `wiki40b/en` or `lm1b`.

  Args:
    name: `name[/config][:version]`.
    train_split: for example `train` or `train[:10%]`.
    validation_split: for example `validation`; '' holds out documents.
    data_dir: the folder of the datasets, local or gs://; '' is TFDS's default.
    text_feature: the feature that holds the text.

  Returns:
    The source; its data are prepared when first read. Its identity is the full
    name with the version, the splits and the feature, but not its location.

  Raises:
    ValueError: as `tfds_reader.open_dataset`.
    source.MissingText: if `data_dir` cannot be read. Reading raises it if the
      dataset is not prepared and cannot be.
  """
  reader = tfds_reader.open_dataset(
    name,
    train_split,
    validation_split,
    data_dir,
    {"data.text_feature": text_feature},
  )
  clean = clean_wiki40b if reader.name == "wiki40b" else None

  def read(split: str) -> Iterator[str]:
    return documents(reader, split, text_feature, clean)

  return source.Source(
    name=reader.full_name,
    description=f"TFDS {reader.full_name}",
    identity={
      "source": "tfds",
      "name": reader.full_name,
      "splits": [train_split, validation_split],
      "text_feature": text_feature,
      "cleaning": 1 if clean else 0,
    },
    train=lambda: read(train_split),
    validation=(lambda: read(validation_split)) if validation_split else None,
  )


def documents(
  reader: tfds_reader.Reader,
  split: str,
  text_feature: str,
  clean: Callable[[str], str] | None,
) -> Iterator[str]:
  """Yields the texts of a split, cleaned."""
  for example in reader.examples(split):
    text = tfds_reader.text_of(example[text_feature])
    yield clean(text) if clean else text
