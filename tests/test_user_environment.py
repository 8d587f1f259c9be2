"""Variables, packages and memory that a command finds on a user's machine."""

import builtins
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import main, memory, train
from linformer_jax.run import checkpoint, metrics, startup
from tests import user_errors

CONFIG, RUN = user_errors.CONFIG, user_errors.RUN


def command(folder, *words, **environment):
  """A process of its own: (status, stdout, stderr)."""
  done = subprocess.run(
    [sys.executable, "-m", "linformer_jax.main", CONFIG, *words],
    cwd=folder,
    env=os.environ
    | {"PYTHONPATH": str(user_errors.ROOT), "JAX_PLATFORMS": "cpu"}
    | environment,
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
  "name, value",
  [
    ("JAX_ENABLE_X64", "maybe"),
    ("JAX_NUM_CPU_DEVICES", "many"),
    ("JAX_DISABLE_JIT", "1"),
    ("JAX_TRANSFER_GUARD", "disallow"),
    ("XLA_FLAGS", "--xla_no_such_flag=1"),
    ("XLA_PYTHON_CLIENT_MEM_FRACTION", "half"),
    pytest.param("JAX_PLATFORMS", "nonsense", marks=pytest.mark.slow),
    pytest.param("JAX_PLATFORMS", "cuda", marks=pytest.mark.slow),
    pytest.param("JAX_NUM_CPU_DEVICES", "0", marks=pytest.mark.slow),
    pytest.param("JAX_COMPILATION_CACHE_DIR", "s3://x", marks=pytest.mark.slow),
  ],
)
def test_the_environment(name, value, tmp_path):
  status, _, err = command(tmp_path, RUN, **{name: value})
  assert user_errors.complaint(status, err) is None
  assert err.count("\n") == 1
  assert value in err or name in err or "JAX finds no device" in err
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
  "environment",
  [
    {"JAX_ENABLE_X64": "1"},
    {"LC_ALL": "C"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONOPTIMIZE": "2"},
    {"TMPDIR": "/nonexistent"},
    {"JAX_COMPILATION_CACHE_DIR": "/proc/x"},
    {"MPLCONFIGDIR": "/proc/x"},
    {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
  ],
  ids=str,
)
def test_an_odd_environment_changes_no_result(environment, tmp_path):
  words = user_errors.flags(run__log_every_steps=1)
  for name, changed in (("plain", {}), ("odd", environment)):
    status, out, err = command(
      tmp_path, f"--workdir={name} é", *words, **changed
    )
    assert status == 0 and "Traceback" not in err, err
    assert "Done: 4 updates" in out
  plain, odd = (
    [
      row["train/loss"]
      for row in metrics.read_json_lines(tmp_path / name)
      if "train/loss" in row
    ]
    for name in ("plain é", "odd é")
  )
  np.testing.assert_allclose(plain, odd, rtol=1e-5)
  # And goes on where it was, without it.
  status, out, _ = command(tmp_path, "--workdir=odd é", *words)
  assert status == 0 and "was complete" in out


def test_a_package_that_is_missing(monkeypatch, capsys, refused):
  importing = builtins.__import__

  def without(name, *rest, **options):
    if name.startswith("orbax"):
      raise ModuleNotFoundError("No module named 'orbax'", name="orbax")
    return importing(name, *rest, **options)

  monkeypatch.setattr(builtins, "__import__", without)
  monkeypatch.delitem(sys.modules, "linformer_jax.run.checkpoint")
  monkeypatch.delattr("linformer_jax.run.checkpoint")
  assert "pip install -r requirements.txt" in refused(CONFIG, RUN)


def test_startup_knows_what_requirements_install():
  text = (user_errors.ROOT / "requirements.txt").read_text().lower()
  assert startup._problem() is None
  for name in set(startup._PACKAGES) - {"absl", "jaxlib", "orbax", "etils"}:
    assert name in text.replace("-", "_")


def test_an_update_that_runs_out_of_memory(monkeypatch, refused, tmp_path):
  def exhausted(experiment, workdir):
    (workdir / "metrics.jsonl").touch()
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes")

  monkeypatch.setattr(train, "train_and_evaluate", exhausted)
  line = refused(CONFIG, RUN, *user_errors.flags())
  assert "not fit in memory" in line and "train.batch_size 4" in line
  monkeypatch.undo()


def test_out_of_memory_later_keeps_the_run(monkeypatch, tmp_path, capsys):
  def exhausted(experiment, workdir):
    (workdir / "checkpoints" / "3").mkdir(parents=True)
    raise MemoryError("9 bytes")

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(train, "train_and_evaluate", exhausted)
  monkeypatch.setattr(sys, "argv", ["main", CONFIG, RUN, *user_errors.flags()])
  assert main.main() == 1
  assert "not enough memory" in capsys.readouterr().err
  assert (tmp_path / "run" / "checkpoints" / "3").exists()


def test_memory_that_is_there_is_read():
  assert 2**28 < memory.available() < 2**50


def test_fingerprints_of_eight_bytes():
  with jax.enable_x64(True):
    for dtype in (jnp.float64, jnp.int64):
      clean = np.arange(6).astype(dtype).reshape(2, 3)
      found = [checkpoint.fingerprint({"x": jnp.asarray(clean)})]
      for bit in (0, 31, 32, 63):
        flipped = clean.copy()
        flipped.view(np.uint64)[1, 2] ^= np.uint64(1) << np.uint64(bit)
        found.append(checkpoint.fingerprint({"x": jnp.asarray(flipped)}))
      assert found[0] not in found[1:]
