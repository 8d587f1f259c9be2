"""A run's folder in a bucket, which a folder on the disk stands for."""

import contextlib
import json
import os
import pathlib

import pytest
from etils import epath

from linformer_jax.run import events, files, metrics, result, workdir
from linformer_jax.tasks import masked_lm
from tests import tiny


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """gs://bucket, each object of it a file below tmp_path."""

  def local(path):
    text = os.fspath(path)
    assert text.startswith("gs://bucket")
    return str(tmp_path / text.removeprefix("gs://bucket").lstrip("/"))

  def on_disk(name):
    def call(self, path, *args, **kwargs):
      del self
      args = [
        local(x) if isinstance(x, str | os.PathLike) and "gs:" in str(x) else x
        for x in args
      ]
      return getattr(epath.backend.os_backend, name)(
        local(path), *args, **kwargs
      )

    return call

  backend = type(epath.Path("gs://bucket/x")._backend)
  names = ("open", "exists", "isdir", "listdir", "makedirs", "mkdir", "rmtree")
  for name in (*names, "remove", "rename", "replace", "stat"):
    monkeypatch.setattr(backend, name, on_disk(name))
  return tmp_path


def test_text_says_where_a_folder_is():
  assert isinstance(files.folder("runs/x"), pathlib.PosixPath)
  assert files.folder(pathlib.Path("runs/x")) == pathlib.Path("runs/x")
  path = files.folder("gs://bucket/runs/x")
  assert os.fspath(path / "checkpoints") == "gs://bucket/runs/x/checkpoints"
  assert files.in_bucket(path) and files.folder(path) == path
  assert not files.in_bucket("gs:/bucket")


def test_a_config_is_kept_and_no_other_is_taken(bucket):
  config, run = tiny.get_config(), files.folder("gs://bucket/runs/x")
  assert workdir.stored_config(run) is None
  with workdir.claim(run, config), workdir.claim(run, config):
    pass
  assert workdir.stored_config(run)["seed"] == 0
  assert [p.name for p in (bucket / "runs" / "x").iterdir()] == ["config.json"]
  config.seed = 1
  with pytest.raises(
    ValueError, match="another config .data.seed 0 there, 1 here"
  ):
    workdir.claim(run, config)
  assert workdir.numbered(run).name == "x-2"


def test_metrics_grow_and_are_forgotten(bucket):
  run = files.folder("gs://bucket/x")
  (bucket / "x").mkdir()

  for first in (1, 3):
    metrics.forget_after(run, first - 1, True)
    writer = metrics.Writer(run)
    writer.resume(first - 1)
    for step in range(first, first + 3):
      writer.scalars(step, {"eval/perplexity": 10.0 - step})
  steps = [row["step"] for row in metrics.read_json_lines(run)]
  assert steps == [1, 2, 3, 4, 5]
  paths = sorted((bucket / "x").glob("events.*"))
  found = [event.step for path in paths for event, _ in events.read(path)]
  assert found == [0, 0, 1, 0, 2, 2, 3, 4, 5]
  path = result.draw_curve(run, masked_lm.MaskedLM, 20.0)
  assert os.fspath(path) == "gs://bucket/x/curve.png"
  assert (bucket / "x" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_files_below_a_folder(bucket):
  for name in ("a/b/c", "a/d", "e"):
    path = files.folder(f"gs://bucket/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, json.dumps(name))
  found = [os.fspath(path) for path in files.below(epath.Path("gs://bucket"))]
  assert found == ["gs://bucket/a/b/c", "gs://bucket/a/d", "gs://bucket/e"]
  files.remove(files.folder("gs://bucket/a"))
  assert not (bucket / "a").exists()


def test_a_bucket_that_may_not_be_written_is_an_error_of_the_folder(
  bucket, monkeypatch
):
  import tensorflow as tf

  def denied(*_, **__):
    raise tf.errors.PermissionDeniedError(
      None, None, "no storage.objects.create"
    )

  run = files.folder("gs://bucket/x")
  monkeypatch.setattr(type(run), "mkdir", denied)
  message = "--workdir=gs://bucket/x cannot be written: no storage.objects"
  with pytest.raises(ValueError, match=message):
    workdir.claim(run, tiny.get_config())
  with pytest.raises(OSError, match="full"), contextlib.ExitStack() as stack:
    stack.enter_context(files.errors_of_tensorflow())
    raise tf.errors.ResourceExhaustedError(None, None, "full")
