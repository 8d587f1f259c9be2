"""One device, eight devices and two processes train the same model."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from linformer_jax import metrics, sharding, train
from tests import runs, tiny

ROOT = pathlib.Path(__file__).parent.parent
# Compiling is most of the time here, and how well does not matter.
CPU = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
EPS = float(np.finfo(np.float32).eps)


def mesh_config(**sizes):
  config = tiny.get_config().mesh
  config.update(sizes)
  return config


@pytest.mark.parametrize(
  "devices, sizes, message",
  [
    (8, dict(data=3), "'data': 3.*needs 3 devices, but there are 8"),
    (8, dict(data=16), "needs 16 devices, but there are 8"),
    (8, dict(data=0), "must be positive"),
    (8, dict(data=-2), "must be positive"),
    (8, dict(fsdp=-1), "only one axis may be -1"),
    (8, dict(data=4, fsdp=2), "mesh.fsdp=2: only the data axis"),
    (8, dict(data=1, tensor=-1), "mesh.tensor=8: only the data axis"),
    (1, dict(sequence=2), "mesh.sequence=2: only the data axis"),
  ],
)
def test_meshes_that_do_not_fit(devices, sizes, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(mesh_config(**sizes), [None] * devices)


def test_mesh_takes_what_is_left():
  mesh = sharding.make_mesh(mesh_config(), jax.devices()[:1])
  assert dict(mesh.shape) == dict.fromkeys(sharding.AXES, 1)


@pytest.mark.parametrize(
  "size, parts, processes, message",
  [
    (12, 1, 1, "train.batch_size 12 is not divisible by 8 devices"),
    (16, 4, 1, "16 is not divisible by 8 devices .* times 4 accumulation"),
    (0, 1, 1, "must be positive"),
    (8, 0, 1, "must be positive"),
    (16, 1, 3, "16 is not divisible by 3 processes"),
  ],
)
def test_batches_that_do_not_divide(
  size, parts, processes, message, monkeypatch
):
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  mesh = AbstractMesh((8, 1, 1, 1), sharding.AXES)
  with pytest.raises(ValueError, match=message) as error:
    sharding.check_batch("train.batch_size", size, mesh, parts)
  assert "\n" not in str(error.value)
  monkeypatch.setattr(jax, "process_count", lambda: 1)
  sharding.check_batch("train.batch_size", 32, mesh, 4)


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
  """(arrays, facts) of one and of eight devices."""
  folder = tmp_path_factory.mktemp("devices")
  subprocess.run(
    [sys.executable, "-m", "tests.eight_devices", str(folder)],
    check=True,
    cwd=ROOT,
    timeout=300,
    env=os.environ | CPU | {"JAX_NUM_CPU_DEVICES": "8"},
  )
  return [
    (
      np.load(folder / f"{name}.npz"),
      json.loads((folder / f"{name}.json").read_text()),
    )
    for name in ("one", "eight")
  ]


def test_eight_devices_give_the_losses_and_gradients_of_one(devices):
  (one, _), (eight, _) = devices
  assert set(one) == set(eight)
  gradients = [name for name in one if name.startswith("gradient [")]
  largest = max(np.abs(one[name]).max() for name in gradients)
  for name in one:
    if name in gradients:
      # Sums over 16 * 32 tokens, in another order.
      bound = dict(rtol=0, atol=512 * EPS * largest)
    else:
      bound = dict(rtol=32 * EPS)
    np.testing.assert_allclose(eight[name], one[name], **bound, err_msg=name)


def test_each_of_eight_devices_does_an_eighth(devices):
  (_, one), (_, eight) = devices
  assert one["rows"] == [16] and eight["rows"] == [2] * 8
  assert eight["flops"] < one["flops"] / 4  # parameters are updated on each
  assert eight["all-reduce"] and not one["all-reduce"]
  assert not eight["all-gather"]  # neither rows nor activations are collected
  assert eight["arguments"] < one["arguments"]


def test_the_state_is_donated_on_every_device(devices):
  for _, facts in devices:
    assert facts["alias"] > 0.9 * facts["arguments"]


def launch(workdir, *words):
  """The command line in two processes of two devices each, as Slurm would."""
  job = str(random.SystemRandom().randrange(4096))  # picks the port
  processes = []
  for rank in range(2):
    environment = {
      "JAX_NUM_CPU_DEVICES": "2",
      "SLURM_JOB_ID": job,
      "SLURM_STEP_NODELIST": "localhost",
      "SLURM_NTASKS": "2",
      "SLURM_PROCID": str(rank),
      "SLURM_LOCALID": "0",
    }
    processes.append(
      subprocess.Popen(
        [sys.executable, "-m", "linformer_jax.main", "--distributed"]
        + ["--config=tests/tiny.py", f"--workdir={workdir}", *words],
        cwd=ROOT,
        env=os.environ | CPU | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  return processes


def test_two_processes_train_what_one_does(tmp_path):
  processes = launch(tmp_path / "two")
  streams = [process.communicate(timeout=300) for process in processes]
  for process, (_, err) in zip(processes, streams, strict=True):
    assert process.returncode == 0, err
  assert "Done: 4 updates" in streams[0][0] and "Done" not in streams[1][0]
  assert [len(metrics.read_json_lines(tmp_path / "two"))] == [5]

  experiment = runs.experiment()
  with runs.quick_compilation():
    train.train_and_evaluate(experiment, tmp_path / "one")
  state, note = runs.newest(tmp_path / "one", experiment)
  other, other_note = runs.newest(tmp_path / "two", experiment)
  assert other_note["data"] == note["data"]
  rate = experiment.config.optimizer.learning_rate
  for got, want in zip(
    jax.tree.leaves(other.params), jax.tree.leaves(state.params), strict=True
  ):
    # Adam divides a gradient by its size plus eps = 1e-6: a rounding error of
    # 1e-8 moves a parameter by 1% of the rate in each of four updates.
    np.testing.assert_allclose(got, want, rtol=0, atol=0.04 * rate)
  for got, want in zip(
    runs.rows(tmp_path / "two"), runs.rows(tmp_path / "one"), strict=True
  ):
    assert got == pytest.approx(want, rel=1e-4)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both(tmp_path):
  processes = launch(
    tmp_path, "--config.train.num_steps=5000", "--config.run.log_every_steps=10"
  )
  for line in processes[0].stdout:
    if line.startswith("update"):
      break
  processes[1].send_signal(signal.SIGTERM)
  errors = [process.communicate(timeout=120)[1] for process in processes]
  assert [process.returncode for process in processes] == [143, 143], errors
  assert "SIGTERM: saved at update" in errors[0]
  experiment = runs.experiment(train__num_steps=5000)
  state, note = runs.newest(tmp_path, experiment)  # on one device, in one
  assert f"saved at update {int(state.step)};" in errors[0]
  assert note["data"]["next_index"] == state.step
