"""The data configuration; its `config` makes one for the other data tests."""

import dataclasses

import pytest

from linformer_jax.data import pipeline


def config(cache_dir, **changes):
  fields = {
    "source": "synthetic",
    "files": "",
    "tfds_name": "",
    "tfds_train_split": "train",
    "tfds_validation_split": "",
    "tfds_data_dir": "",
    "text_feature": "text",
    "holdout_fraction": 0.1,
    "vocab_size": 300,
    "tokenizer_path": "",
    "tokenizer_train_megabytes": 1.0,
    "cache_dir": str(cache_dir),
    "sequence_length": 32,
    "seed": 0,
  }
  return pipeline.DataConfig(**{**fields, **changes})


def test_every_field_is_given():
  with pytest.raises(TypeError):
    pipeline.DataConfig(source="sotu")
  assert [
    field.name
    for field in dataclasses.fields(pipeline.DataConfig)
    if field.default is not dataclasses.MISSING
  ] == [
    "validation_files", "pair_feature", "truncate", "length_buckets",
    "separate_pairs",
  ]  # fmt: skip


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"source": "files"}, "needs files"),
    ({"source": "tfds"}, "needs tfds_name"),
    ({"source": "labeled"}, "needs files or tfds_name"),
    ({"source": "labeled", "files": "a", "tfds_name": "b"}, "are both set"),
    (
      {"source": "labeled", "tfds_name": "b", "tfds_train_split": ""},
      "needs tfds_train_split",
    ),
    (
      {"source": "labeled", "tfds_name": "b", "validation_files": "a"},
      "set data.tfds_validation_split",
    ),
    (
      {"source": "labeled", "files": "a", "pair_feature": "text"},
      "pair_feature and data.text_feature are both 'text'",
    ),
    ({"pair_feature": "b"}, "pair_feature is set.*set data.source=labeled"),
    ({"tfds_name": "b"}, "tfds_name is set.*set data.source=tfds"),
    ({"holdout_fraction": 0.0}, "holdout_fraction is 0.0"),
    ({"holdout_fraction": 1.0}, "holdout_fraction is 1.0"),
    ({"vocab_size": 260}, "vocab_size is 260.*261"),
    ({"sequence_length": 1}, "sequence_length is 1.*2"),
    ({"tokenizer_train_megabytes": 0.0}, "megabytes is 0.0"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 2**32}, "seed is 4294967296"),
  ],
)
def test_bad_values_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    config("", **changes)


def test_a_source_that_is_none_is_named():
  with pytest.raises(ValueError, match="'web'.*files.*labeled.*sotu.*tfds"):
    pipeline.prepare(config("", source="web"))


def test_smallest_vocabulary_is_accepted():
  assert config("", vocab_size=261).vocab_size == 261
