"""Caches of one test session: nothing outside of temporary folders."""

import functools
import importlib.util
import os
import pathlib
import shutil
import sys

import jax
import pytest

from linformer_jax import hardware, main, train
from linformer_jax.run import report, workdir
from tests import compiling, runs, user_errors

ROOT = pathlib.Path(__file__).parent.parent
# JAX reads the flags once; commands that tests start compile as users' do.
with pytest.MonkeyPatch.context() as _patch:
  given = os.environ.get("XLA_FLAGS", "")
  _patch.setenv("XLA_FLAGS", f"{given} {compiling.FLAGS}")
  jax.devices()


# Files that take longest, so that none of them is left to the end.
LONGEST = ("kill", "mesh", "processes", "train", "main", "flash", "model_loop")


def pytest_collection_modifyitems(items):
  """Skips what cannot run here, and puts long files first."""
  first = [f"test_{name}.py" for name in LONGEST]
  items.sort(
    key=lambda item: (
      first.index(item.path.name) if item.path.name in first else len(first)
    )
  )
  if importlib.util.find_spec("libtpu") is None:
    skip = pytest.mark.skip(reason="libtpu is missing: ./launch.sh test --tpu")
    for item in items:
      if item.get_closest_marker("tpu"):
        item.add_marker(skip)
  if jax.default_backend() == "cpu":
    skip = pytest.mark.skip(reason="there is no GPU or TPU")
    for item in items:
      if item.get_closest_marker("accelerator"):
        item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory):
  """Tokenized text and compiled programs, shared by tests and subprocesses."""
  folder = tmp_path_factory.mktemp("caches")
  compiled = str(folder / "compiled")
  jax.config.update("jax_compilation_cache_dir", compiled)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  # Compiling is most of the time here, and how well does not matter.
  jax.config.update("jax_disable_most_optimizations", True)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("LINFORMER_CACHE", str(folder / "text"))
    patch.setenv("JAX_COMPILATION_CACHE_DIR", compiled)
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # Every run measures the host twice, on all of its cores.
    rate = functools.cache(hardware.matrix_product_rate)
    patch.setattr(hardware, "matrix_product_rate", rate)
    yield folder


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
  """Runs main on some words, with {tmp} filled in: status, stdout, stderr."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv("LINFORMER_CACHE", str(tmp_path / "cache"))

  def run(*words):
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    monkeypatch.setattr(sys, "argv", ["main", *words])
    status = main.main()
    streams = capsys.readouterr()
    return status, streams.out, streams.err

  return run


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
  """Runs main on words, to be refused in one line: that line."""
  monkeypatch.chdir(tmp_path)

  def run(*words):
    before = user_errors.contents(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main", *words])
    status = main.main()
    err = capsys.readouterr().err
    assert user_errors.complaint(status, err) is None, err
    assert user_errors.contents(tmp_path) == before
    return err.splitlines()[-1]

  return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
  """The folder of a complete run of `runs.QUICK`; copy it, do not write."""
  folder = tmp_path_factory.mktemp("finished") / "run"
  experiment = runs.experiment(**runs.QUICK)
  with workdir.claim(folder, experiment.config, experiment.corpus):
    train.train_and_evaluate(experiment, folder)
  return folder


@pytest.fixture
def run(finished, tmp_path, command):
  """A copy of a complete run in {tmp}/run; returns the command."""
  shutil.copytree(finished, tmp_path / "run")
  return command


@pytest.fixture
def at(monkeypatch):
  """at(step, action): acts once, when that update has been dispatched."""
  add = report.Window.add
  actions = {}

  def patched(self, step, values):
    actions.pop(step, lambda: None)()
    add(self, step, values)

  monkeypatch.setattr(report.Window, "add", patched)
  return actions.__setitem__
