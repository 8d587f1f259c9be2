"""TFDS by name: with random access and through TensorFlow."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow_datasets as tfds
import test_data_config

from linformer_jax.data import pipeline
from linformer_jax.data.text import tfds_reader, tfds_source

TRAIN = [f"training text number {i} ☃" for i in range(300)]
VALIDATION = [f"validation text number {i}" for i in range(7)]


class TinyText(tfds.core.GeneratorBasedBuilder):
  """A text dataset; registers itself as tiny_text."""

  VERSION = tfds.core.Version("1.2.0")
  pkg_dir_path = None  # Not in a package, so without its metadata.

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {"text": tfds.features.Text(), "number": tfds.features.Scalar(np.int64)}
      ),
    )

  def _split_generators(self, dl_manager):
    return {"train": self._all(TRAIN), "validation": self._all(VALIDATION)}

  def _all(self, texts):
    for i, text in enumerate(texts):
      yield i, {"text": text, "number": i}

  def _generate_examples(self):
    raise NotImplementedError


@pytest.fixture(scope="module", params=["array_record", "tfrecord"])
def data_dir(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  builder = tfds.builder(
    "tiny_text", data_dir=folder, file_format=request.param
  )
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
  )
  return str(folder)


def test_documents(data_dir):
  found = tfds_source.tfds("tiny_text", "train", "validation", data_dir, "text")
  assert sorted(found.train()) == sorted(TRAIN)
  assert sorted(found.validation()) == sorted(VALIDATION)
  assert list(found.train()) == list(found.train())
  assert found.name == "tiny_text/1.2.0"
  assert found.identity["name"] == "tiny_text/1.2.0"


def test_text_is_cleaned(data_dir):
  builder = tfds.builder("tiny_text", data_dir=data_dir)
  reader = tfds_reader.Reader(builder, {}, ["text"])

  def documents(split):
    return list(tfds_source.documents(reader, split, "text", str.upper))

  assert sorted(documents("validation")) == sorted(map(str.upper, VALIDATION))
  assert len(documents("all")) == len(TRAIN + VALIDATION)


def test_a_slice_of_a_split(data_dir):
  found = tfds_source.tfds("tiny_text", "train[:10%]", "", data_dir, "text")
  assert len(list(found.train())) == 30
  assert found.validation is None


def test_the_validation_split_is_the_held_out_text(data_dir, tmp_path):
  config = test_data_config.config(
    tmp_path,
    source="tfds",
    tfds_name="tiny_text",
    tfds_validation_split="validation",
    tfds_data_dir=data_dir,
  )
  corpus = pipeline.prepare(config)
  eos = 2
  documents = []
  for tokens in (corpus.train.tokens, corpus.validation.tokens):
    text = corpus.tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
    documents.append(sorted(text.split("</s>")[:-1]))
    assert (tokens == eos).sum() == len(documents[-1])
  assert documents == [sorted(TRAIN), sorted(VALIDATION)]


def test_nothing_is_read_when_the_source_is_made(tmp_path):
  tfds_source.tfds("tiny_text", "train", "", str(tmp_path), "text")
  assert not list(tmp_path.iterdir())


def test_the_place_is_not_part_of_the_identity(data_dir, tmp_path):
  arguments = "tiny_text", "train", "validation"
  there = tfds_source.tfds(*arguments, data_dir, "text")
  elsewhere = tfds_source.tfds(*arguments, str(tmp_path), "text")
  assert there.identity == elsewhere.identity
  assert there.identity["splits"] == ["train", "validation"]


def test_a_home_folder_is_expanded(data_dir, monkeypatch):
  monkeypatch.setenv("HOME", data_dir)
  found = tfds_source.tfds("tiny_text", "train", "", "~/.", "text")
  assert len(list(found.train())) == 300


def test_prepared_data_need_no_code(data_dir, monkeypatch):
  registry = tfds.core.registered._DATASET_REGISTRY
  monkeypatch.delitem(registry, "tiny_text")
  found = tfds_source.tfds("tiny_text:1.*.*", "train", "", data_dir, "text")
  assert found.name == "tiny_text/1.2.0"
  assert sorted(found.train()) == sorted(TRAIN)
  with pytest.raises(ValueError, match="no dataset 'tiny_text:2.0.0'"):
    tfds_source.tfds("tiny_text:2.0.0", "train", "", data_dir, "text")


def test_random_access_does_without_tensorflow_and_network(tmp_path):
  builder = tfds.builder(
    "tiny_text", data_dir=tmp_path, file_format="array_record"
  )
  builder.download_and_prepare()
  script = """
    import socket, sys
    from linformer_jax.data.text import corpus, tfds_source
    assert "tensorflow_datasets" not in sys.modules
    def refuse(*_):
      sys.exit("the network is looked at")
    socket.socket.connect = socket.getaddrinfo = refuse
    found = tfds_source.tfds("tiny_text", "train", "", sys.argv[1], "text")
    assert len(list(found.train())) == 300
    assert "tensorflow" not in sys.modules
  """
  subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True
  )
