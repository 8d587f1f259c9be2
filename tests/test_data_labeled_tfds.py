"""Labeled texts of TFDS: as JSON lines of the same rows, its names in order."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow_datasets as tfds
import test_data_config

from linformer_jax.data import pipeline
from tests import labeled

NAMES = ("entailment", "neutral", "contradiction")  # not in sorted order


class TinyClasses(tfds.core.GeneratorBasedBuilder):
  """Pairs with classes, like GLUE; registers itself as tiny_classes."""

  VERSION = tfds.core.Version("2.0.0")
  pkg_dir_path = None
  LABEL = tfds.features.ClassLabel(names=NAMES)
  VALUES = (0, 1, 2)

  def _info(self):
    features = {
      "premise": tfds.features.Text(),
      "hypothesis": tfds.features.Text(),
      "idx": tfds.features.Scalar(np.int32),
      "label": self.LABEL,
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    splits = {"train": (0, 40), "validation": (40, 60), "test": (60, 64)}
    return {name: self._all(*places) for name, places in splits.items()}

  def _all(self, start, stop):
    for i in range(start, stop):
      yield i, self.row(i)

  @classmethod
  def row(cls, i):
    hidden = i >= 60 and isinstance(cls.LABEL, tfds.features.ClassLabel)
    return {
      "premise": f"premise ☃\r\n{i}",
      "hypothesis": f"hypothesis {i}" if i % 7 else "",
      "idx": i,
      "label": -1 if hidden else cls.VALUES[i % len(cls.VALUES)],
    }

  def _generate_examples(self):
    raise NotImplementedError


class TinySorted(TinyClasses):
  """Names in sorted order."""

  LABEL = tfds.features.ClassLabel(names=sorted(NAMES))


class TinyScores(TinyClasses):
  """Labels are floats, as those of glue/stsb."""

  LABEL = tfds.features.Scalar(np.float32)
  VALUES = (0.1, 5, 2.75, -0.0)


class TinyDoubles(TinyClasses):
  LABEL = tfds.features.Scalar(np.float64)
  VALUES = (0.1, 5, 1 / 3)


class TinyIntegers(TinyClasses):
  LABEL = tfds.features.Scalar(np.int32)
  VALUES = (4, -1, 2)


class TinyStrings(TinyClasses):
  LABEL = tfds.features.Text()
  VALUES = ("b", "a", "10")


class TinyCounted(TinyClasses):
  """Classes without names."""

  LABEL = tfds.features.ClassLabel(num_classes=4)


class TinyBooleans(TinyClasses):
  LABEL = tfds.features.Scalar(np.bool_)
  VALUES = (True, False)


class TinyNans(TinyClasses):
  LABEL = tfds.features.Scalar(np.float32)
  VALUES = (0.1, 5, float("nan"))


class TinyBlank(TinyClasses):
  """The text of row 3 is white space."""

  @classmethod
  def row(cls, i):
    return super().row(i) | ({"premise": " \n"} if i == 3 else {})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """(builder, format) to the folder of the prepared dataset."""
  folders = {}

  def prepare(builder, file_format="array_record"):
    if (builder, file_format) not in folders:
      folder = tmp_path_factory.mktemp(file_format)
      builder(data_dir=folder, file_format=file_format).download_and_prepare()
      folders[builder, file_format] = folder
    return folders[builder, file_format]

  return prepare


def open_data(cache, name, data_dir, known=None, **changes):
  fields = {
    "source": "labeled",
    "tfds_name": name,
    "tfds_data_dir": str(data_dir),
    "tfds_validation_split": "validation",
    "text_feature": "premise",
    "pair_feature": "hypothesis",
  }
  config = test_data_config.config(cache, **fields | changes)
  return pipeline.prepare(config, known)


def json_lines(builder, folder, **changes):
  """The data of the same rows as JSON lines."""
  for name, places in (("train", range(40)), ("held", range(40, 60))):
    rows = [builder.row(i) for i in places]
    for row in rows:
      if isinstance(builder.LABEL, tfds.features.ClassLabel):
        row["label"] = builder.LABEL.names[row["label"]]
      elif np.dtype(builder.LABEL.np_dtype).kind == "f":
        # TFDS stores no more of float64.
        row["label"] = float(np.float32(row["label"]))
    labeled.save(folder / f"{name}.jsonl", rows)
  config = test_data_config.config(
    folder / "cache",
    source="labeled",
    files=f"{folder}/train.jsonl",
    validation_files=f"{folder}/held.jsonl",
    text_feature="premise",
    **{"pair_feature": "hypothesis"} | changes,
  )
  return pipeline.prepare(config)


SAME = [
  (TinySorted, "array_record"),
  pytest.param(TinySorted, "tfrecord", marks=pytest.mark.slow),
  (TinyScores, "array_record"),
  (TinyScores, "tfrecord"),
  (TinyDoubles, "array_record"),
  (TinyIntegers, "array_record"),
  (TinyStrings, "array_record"),
]


@pytest.mark.parametrize("builder, file_format", SAME)
def test_tfds_equals_json_lines(prepared, tmp_path, builder, file_format):
  folder = prepared(builder, file_format)
  found = open_data(tmp_path / "tfds", builder.name, folder)
  expected = json_lines(builder, tmp_path)
  assert found.record.tokens == expected.record.tokens  # bytes of every file
  assert found.labels == expected.labels
  assert (len(found.train), len(found.validation)) == (40, 20)


def test_names_keep_the_order_of_the_dataset(prepared, tmp_path):
  data = open_data(tmp_path, "tiny_classes", prepared(TinyClasses))
  assert data.labels == NAMES
  assert data.train.labels.tolist() == [i % 3 for i in range(40)]
  other = json_lines(TinyClasses, tmp_path)
  assert other.labels == tuple(sorted(NAMES))
  for i in range(40):
    one, same = data.train[i], other.train[i]
    assert data.labels[one["label"]] == other.labels[same["label"]]
    for field in ("text", "pair"):
      np.testing.assert_array_equal(one[field], same[field])


def test_classes_that_no_row_has_are_counted(prepared, tmp_path):
  data = open_data(tmp_path, "tiny_counted", prepared(TinyCounted))
  assert data.labels == ("0", "1", "2", "3")


def test_without_a_pair_and_with_held_out_rows(prepared, tmp_path):
  folder, fields = prepared(TinyClasses), {"pair_feature": ""}
  data = open_data(tmp_path, "tiny_classes", folder, **fields)
  assert not data.train.lengths[:, 1].any()
  fields |= {"tfds_validation_split": "", "holdout_fraction": 0.3}
  data = open_data(tmp_path, "tiny_classes", folder, **fields)
  assert len(data.train) + len(data.validation) == 40
  assert 4 <= len(data.validation) <= 20


def test_the_data_are_cached_and_known_again(prepared, tmp_path):
  folder = prepared(TinyScores)
  data = open_data(tmp_path, "tiny_scores", folder)
  source_of = data.record.text["source"]
  assert source_of["name"] == "tiny_scores/2.0.0"
  assert (source_of["source"], source_of["reading"]) == ("labeled_tfds", 2)
  again = open_data(tmp_path, "tiny_scores", folder, data.record)
  assert again.directory == data.directory
  without = open_data(tmp_path, "tiny_scores", tmp_path / "gone", data.record)
  assert without.train.labels.tobytes() == data.train.labels.tobytes()
  with pytest.raises(ValueError, match="pair_feature was 'hypo.* and is ''"):
    open_data(tmp_path, "tiny_scores", folder, data.record, pair_feature="")
  fields = {"data_dir": folder, "text_feature": "hypothesis"}
  with pytest.raises(ValueError, match="row 0: text is empty"):
    open_data(tmp_path, "tiny_scores", pair_feature="", **fields)


def test_tensorflow_is_imported_only_where_it_is_needed(prepared, tmp_path):
  labeled.write(tmp_path / "a.jsonl", 30)
  config = {"source": "labeled", "vocab_size": 300}
  script = f"""
    import sys
    sys.path.insert(0, "tests")
    import test_data_config
    from linformer_jax.data import pipeline
    fields = {config!r}
    pipeline.prepare(test_data_config.config(
      sys.argv[1], files=sys.argv[2], holdout_fraction=0.5, **fields))
    assert "tensorflow_datasets" not in sys.modules
    data = pipeline.prepare(test_data_config.config(
      sys.argv[1], tfds_name="tiny_classes", tfds_data_dir=sys.argv[3],
      tfds_validation_split="validation", text_feature="premise", **fields))
    assert len(data.train) == 40 and "tensorflow" not in sys.modules
  """
  folder = prepared(TinyClasses)
  arguments = tmp_path / "cache", tmp_path / "a.jsonl", folder
  subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
    check=True,
  )
