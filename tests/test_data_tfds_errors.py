"""What is wrong with a TFDS dataset is said in a line, and the network left."""

import os
import socket

import pytest
import requests
import tensorflow_datasets as tfds
import test_data_tfds

from linformer_jax.data.text import source, tfds_source


class FailingText(test_data_tfds.TinyText):
  """A dataset whose preparation raises; registers itself as failing_text."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = "Ask for the files."
  error: Exception | None = None

  def _split_generators(self, dl_manager):
    if self.error is None:
      return {"train": self._all(dl_manager.manual_dir.iterdir())}
    raise self.error


@pytest.fixture(autouse=True)
def network(monkeypatch):
  """Fails a test that looks at the network, of Python or of TensorFlow."""

  def refuse(*arguments, **_):
    pytest.fail(f"the network is looked at: {arguments}")

  with socket.create_server(("127.0.0.1", 0)) as server:
    server.setblocking(False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
      proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
      monkeypatch.setenv(name, proxy)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    with pytest.raises(BlockingIOError):
      server.accept()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("prepared")
  tfds.builder("tiny_text", data_dir=folder).download_and_prepare()
  return folder


def make(
  data_dir, name="tiny_text", train="train", validation="", feature="text"
):
  return tfds_source.tfds(name, train, validation, str(data_dir), feature)


def refused(data_dir, message, **arguments):
  """Asserts a ValueError of one line when the source is made."""
  with pytest.raises(ValueError, match=message) as caught:
    make(data_dir, **arguments)
  assert "\n" not in str(caught.value)
  return caught.type


@pytest.mark.parametrize(
  "name, message",
  [
    ("no_such_text", "TFDS has no dataset 'no_such_text'.*catalog"),
    ("no_such_text/a:1.0.0", "TFDS has no dataset 'no_such_text/a:1.0.0'"),
    ("wiki40b/xx", "no config 'xx'; there is ar, bg, .* and 33 more"),
    ("lm1b/xx", "no config 'xx'; there is none"),
    ("lm1b:9.9.9", "=lm1b:9.9.9: .*lm1b .*9.9.9, only: 1.1.0$"),
    ("wiki40b/en:1.0.0", "wiki40b.*1.0.0, only: 1.3.0$"),
    ("", "tfds_name='' is not name"),
    ("a/b/c/d", "'a/b/c/d' is not name"),
    ("lm1b:", "'lm1b:' is not name"),
    ("lm1b:abc", "'lm1b:abc' is not name"),
    ("lm 1b", "'lm 1b' is not name"),
    ("lm1b\n", r"'lm1b\\n' is not name"),
    ("huggingface:lm1b", "'huggingface:lm1b' is not name.*hub.*JSON lines"),
    ("kaggle:lm1b", "'kaggle:lm1b' is not name.*hub.*JSON lines"),
    ("robotics:berkeley", "'robotics:berkeley' is not name"),
  ],
)
def test_names(tmp_path, name, message):
  refused(tmp_path, message, name=name)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "name, feature, message",
  [
    ("tiny_text", "body", "1.2.0 has no feature 'body'; there is text$"),
    ("tiny_text", "number", "'number' of .* is Scalar, not text; .* text$"),
    ("cifar10", "image", "'image' of cifar10.* is Image, not text"),
    ("natural_questions", "question", "'question' of .* is FeaturesDict, not"),
    ("wiki_dialog", "sentences", "Sequence, not text; there is passage, pid"),
  ],
)
def test_features(tmp_path, name, feature, message):
  refused(
    tmp_path, "^data.text_feature: .*" + message, name=name, feature=feature
  )


SPLITS = {
  "train[": "Unrecognized split format",
  "train[:200%]": "100",
  "train[::2]": "Unrecognized split format",
  "train+": "Unrecognized split format",
  "all[:5]": "does not support slice",
}
PREPARED_SPLITS = {
  "test": "Unknown split 'test'.*train.*validation",
  "train[:5]+test": "Unknown split 'test'",
  "train[:301]": "incompatible with 300 examples",
  "train[5:5]": "no examples",
  "train[7:5]": "no examples",
}


@pytest.mark.parametrize("split", SPLITS)
def test_malformed_splits(tmp_path, split):
  refused(tmp_path, "^data.tfds_train_split.*" + SPLITS[split], train=split)


@pytest.mark.parametrize("split", PREPARED_SPLITS)
def test_splits(prepared, tmp_path, split):
  message = "^data.tfds_validation_split=.*" + PREPARED_SPLITS[split]
  refused(prepared, message, validation=split)
  # Not known yet, but before an hour goes into the training split.
  with pytest.raises(ValueError, match=message):
    next(make(tmp_path, validation=split).train())


def test_data_dir(tmp_path, monkeypatch):
  (tmp_path / "file").touch()
  gone = refused(tmp_path / "gone", "tfds_data_dir=.*gone does not exist")
  assert gone is source.MissingText
  refused(tmp_path / "file", "tfds_data_dir=.*file is a file")
  refused("s3://bucket/x", "tfds_data_dir=s3://bucket/x: s3:// is not")
  refused("~nobody-here/x", "no home folder for ~nobody-here")
  monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.R_OK)
  kind = refused(tmp_path, "cannot be read by this user")
  assert kind is source.MissingText


def unreadable(data_dir, message, **arguments):
  """Asserts that what is missing is said when the source is read."""
  found = make(data_dir, **arguments)
  with pytest.raises(source.MissingText, match=message) as caught:
    list(found.train())
  assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
  unreadable(tmp_path, "tiny_text/1.2.0 is not prepared in .*cannot write")


def test_apache_beam(tmp_path):
  unreadable(
    tmp_path, "en/1.3.0 .*Apache Beam.*gs://tfds-data", name="wiki40b/en"
  )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "error",
  [
    None,
    requests.ConnectionError("HTTPConnectionPool: Max retries exceeded"),
    tfds.download.DownloadError("HTTP code: 403"),
    tfds.core.download.download_manager.NonMatchingChecksumError("Artifact"),
    tfds.core.download.extractor.ExtractError("Error while extracting"),
    ModuleNotFoundError("No module named 'mwparserfromhell'"),
    "PermissionDeniedError",  # of TensorFlow, whose import takes seconds
    OSError("Not enough disk space"),
  ],
  ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_prepared(tmp_path, monkeypatch, error):
  if isinstance(error, str):
    import tensorflow as tf

    error = getattr(tf.errors, error)(None, None, "Error executing an HTTP")
  monkeypatch.setattr(FailingText, "error", error)
  says = "AssertionError: Manual dir.*Ask for the files"
  if error is not None:
    says = f"{type(error).__name__}: .*{str(error)[:20]}"
  unreadable(
    tmp_path,
    rf"failing_text/1.2.0 is not prepared in {tmp_path} .*\({says}",
    name="failing_text",
  )


def test_what_is_prepared_in_part(tmp_path):
  (tmp_path / "tiny_text" / "1.2.0").mkdir(parents=True)
  unreadable(tmp_path, "1.2.0 is incomplete")


@pytest.mark.parametrize("kind", ["shard", "cut", "info"])
def test_damaged_data(kind, tmp_path):
  folder = tmp_path / "tiny_text" / "1.2.0"
  tfds.builder("tiny_text", data_dir=tmp_path).download_and_prepare()
  (shard,) = folder.glob("*-train.*")
  if kind == "shard":
    shard.unlink()
  elif kind == "cut":
    os.truncate(shard, 100)
  else:
    (folder / "dataset_info.json").write_text("{")
  with pytest.raises(source.MissingText, match="tiny_text.* cannot be read"):
    list(make(tmp_path).train())
