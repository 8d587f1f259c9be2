"""What is wrong with a labeled TFDS dataset is said in a line."""

import re

import pytest
import tensorflow_datasets as tfds
import test_data_labeled_tfds as builders
import test_data_tfds

from linformer_jax.data.text import source

prepared = builders.prepared


BAD = {
  "no label": ("tiny_text", {"text_feature": "text", "pair_feature": ""}),
  "booleans": ("tiny_booleans", {}),
  "text": ("tiny_classes", {"text_feature": "idx"}),
  "pair": ("tiny_classes", {"pair_feature": "idx"}),
  "no pair": ("tiny_classes", {"pair_feature": "sentence2"}),
  "split": ("tiny_classes", {"tfds_validation_split": "dev"}),
  "hidden": ("tiny_classes", {"tfds_validation_split": "test"}),
  "nan": ("tiny_nans", {}),
  "blank": ("tiny_blank", {}),
  "alone": ("tiny_classes", {"tfds_train_split": "train[:1]"}),
  "no dataset": ("no_such_text", {}),
}
MESSAGES = {
  "no label": "tiny_text/1.2.0 has no feature 'label'; there is number, text$",
  "booleans": "feature 'label' of tiny_booleans/2.0.0 is Scalar of bool, not",
  "text": "^data.text_feature: feature 'idx' of tiny_.* is Scalar, not text",
  "pair": "^data.pair_feature: feature 'idx' of tiny_.* is Scalar, not text",
  "no pair": "^data.pair_feature: .* has no feature 'sentence2'; there is hyp",
  "split": "^data.tfds_validation_split='dev' cannot be read",
  "hidden": "^tiny_classes/2.0.0 test, row 0: label -1 is none of .*3 classes",
  "nan": "^tiny_nans/2.0.0 train, row 2: label nan is not a finite number",
  "blank": "^tiny_blank/2.0.0 train, row 3: text is empty",
  "alone": "validation, row 0: label 'neutral' occurs only in the validation",
  "no dataset": "TFDS has no dataset 'no_such_text'",
}
BUILDERS = {"tiny_text": test_data_tfds.TinyText} | {
  builder.name: builder
  for builder in (
    builders.TinyClasses,
    builders.TinyBooleans,
    builders.TinyNans,
    builders.TinyBlank,
  )
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_one_line(prepared, tmp_path, kind):
  name, fields = BAD[kind]
  folder = prepared(BUILDERS[name]) if name in BUILDERS else tmp_path
  with pytest.raises(ValueError, match=MESSAGES[kind]) as caught:
    builders.open_data(tmp_path / "cache", name, folder, **fields)
  assert "\n" not in str(caught.value)


GLUE = {
  "glue/sst2": ("sentence", ""),
  "glue/cola": ("sentence", ""),
  "glue/qnli": ("question", "sentence"),
  "glue/qqp": ("question1", "question2"),
  "glue/mrpc": ("sentence1", "sentence2"),
  "glue/rte": ("sentence1", "sentence2"),
  "glue/mnli": ("premise", "hypothesis"),
  "glue/stsb": ("sentence1", "sentence2"),
  "imdb_reviews": ("text", ""),
}


@pytest.mark.parametrize("name", GLUE)
def test_tasks_of_glue_have_these_features(tmp_path, name, monkeypatch):
  """As far as the network is not needed: they are not prepared here."""

  def refuse(self, **_):
    raise OSError("no network")

  builder = tfds.core.GeneratorBasedBuilder
  monkeypatch.setattr(builder, "download_and_prepare", refuse)
  text, pair = GLUE[name]
  fields = {"text_feature": text, "pair_feature": pair}
  with pytest.raises(source.MissingText, match=f"{name}.* is not prepared in"):
    builders.open_data(tmp_path / "cache", name, tmp_path, **fields)


def test_names_of_rows_are_numbers_of_tfds(prepared):
  """A row of a message is that of a slice: train[3:4]."""
  builder = builders.TinyBlank(data_dir=prepared(builders.TinyBlank))
  (example,) = builder.as_data_source(split="train[3:4]")
  assert not re.sub(r"\s", "", example["premise"].decode())
