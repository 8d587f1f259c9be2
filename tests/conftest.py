"""Caches of one test session: nothing outside of temporary folders."""

import importlib.util
import pathlib
import shutil
import sys

import jax
import pytest

from linformer_jax import main, train, workdir
from tests import runs

ROOT = pathlib.Path(__file__).parent.parent


def pytest_collection_modifyitems(items):
  """Tests of the TPU compiler are skipped where it is not installed."""
  if importlib.util.find_spec("libtpu") is None:
    skip = pytest.mark.skip(reason="libtpu is missing: ./launch.sh test --tpu")
    for item in items:
      if item.get_closest_marker("tpu"):
        item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory):
  """Tokenised text and compiled programs, shared by tests and subprocesses."""
  folder = tmp_path_factory.mktemp("caches")
  compiled = str(folder / "compiled")
  jax.config.update("jax_compilation_cache_dir", compiled)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("LINFORMER_CACHE", str(folder / "text"))
    patch.setenv("JAX_COMPILATION_CACHE_DIR", compiled)
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
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


@pytest.fixture(scope="module")
def compile_quickly():
  """For modules in which compiling would take most of the time."""
  with runs.quick_compilation():
    yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
  """The folder of a complete run of `runs.QUICK`; copy it, do not write."""
  folder = tmp_path_factory.mktemp("finished") / "run"
  experiment = runs.experiment(**runs.QUICK)
  with (
    runs.quick_compilation(),
    workdir.claim(folder, experiment.config, experiment.corpus),
  ):
    train.train_and_evaluate(experiment, folder)
  return folder


@pytest.fixture
def run(finished, tmp_path, command):
  """A copy of a complete run in {tmp}/run; returns the command."""
  shutil.copytree(finished, tmp_path / "run")
  return command
