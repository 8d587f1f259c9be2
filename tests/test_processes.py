"""Several processes train what one does, and end together."""

import re
import signal
import time

import jax
import numpy as np
import pytest

from linformer_jax import train
from linformer_jax.run import metrics
from tests import processes, runs

SOON = 60  # seconds in which the others end when one has died
UPDATES = 60


def assert_close(folder, other, experiment, updates):
  """Two runs that differ by rounding alone."""
  state, note = runs.newest(folder, experiment)
  wanted, wanted_note = runs.newest(other, experiment)
  assert note["data"] == wanted_note["data"]
  rate = experiment.config.optimizer.learning_rate
  for got, want in zip(
    jax.tree.leaves(state.params), jax.tree.leaves(wanted.params), strict=True
  ):
    # Adam divides a gradient by its size plus eps = 1e-6: a rounding error of
    # 1e-8 moves a parameter by 1% of the rate in each update.
    np.testing.assert_allclose(got, want, rtol=0, atol=0.01 * updates * rate)
  for got, want in zip(runs.rows(folder), runs.rows(other), strict=True):
    assert got == pytest.approx(want, rel=1e-4)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  """The tiny run in this process, on one device."""
  folder = tmp_path_factory.mktemp("one")
  experiment = runs.experiment()
  train.train_and_evaluate(experiment, folder)
  return folder, experiment


def sizes(**mesh):
  return [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]


@pytest.mark.slow
@pytest.mark.parametrize(
  "count, mesh",
  [
    (2, {}),
    (4, {}),
    (2, dict(sequence=4)),
    (4, dict(sequence=4)),
    (4, dict(fsdp=4, tensor=2)),
  ],
)
def test_processes_train_what_one_does(one, count, mesh, tmp_path):
  started = processes.launch(tmp_path, *sizes(**mesh), count=count)
  ended = processes.finish(started)
  for status, out, err in ended:
    assert status == 0, err
    assert ("Done: 4 updates" in out) == (out == ended[0][1])
  assert len(metrics.read_json_lines(tmp_path)) == 5
  folder, experiment = one
  assert_close(tmp_path, folder, experiment, 4)


def long_run(workdir, count=2, devices=2, updates=UPDATES):
  return processes.launch(
    workdir,
    f"--config.train.num_steps={updates}",
    "--config.run.checkpoint_every_steps=10",
    count=count,
    devices=devices,
  )


def check_saved(folder, other):
  experiment = runs.experiment(
    train__num_steps=UPDATES, run__checkpoint_every_steps=10
  )
  runs.assert_same_run(folder, other, experiment)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """{processes: folder} of long runs that nothing stopped."""
  folders = {}
  for count in (2, 4):
    folders[count] = tmp_path_factory.mktemp(f"of-{count}")
    for status, _, err in processes.finish(long_run(folders[count], count)):
      assert status == 0, err
  return folders


@pytest.mark.slow
@pytest.mark.parametrize("count, victim", [(2, 1), (2, 0), (4, 2), (4, None)])
def test_a_killed_process_ends_all_and_all_resume(
  undisturbed, count, victim, tmp_path
):
  started = long_run(tmp_path, count)
  processes.wait_for_update(started[0], 25)
  victims = range(count) if victim is None else [victim]
  for rank in victims:
    started[rank].kill()
  start = time.monotonic()
  ended = processes.finish(started, timeout=SOON)
  print(f"ended after {time.monotonic() - start:.1f} s")
  for rank, (status, _, err) in enumerate(ended):
    if rank in victims:
      assert status == -signal.SIGKILL
    else:
      assert status not in (0, -signal.SIGKILL), err
      assert re.search("died|terminat|unavailable", err, re.I), err
  for status, _, err in processes.finish(long_run(tmp_path, count)):
    assert status == 0, err
  check_saved(tmp_path, undisturbed[count])


@pytest.mark.slow
@pytest.mark.parametrize("count, devices", [(1, 1), (1, 4), (4, 1), (4, 2)])
def test_a_run_goes_on_with_other_processes_and_devices(
  undisturbed, count, devices, tmp_path
):
  started = long_run(tmp_path)
  processes.wait_for_update(started[0], 25)
  for process in started:
    process.kill()
  processes.finish(started)
  ended = processes.finish(long_run(tmp_path, count, devices))
  for status, _, err in ended:
    assert status == 0, err
  resumed = re.search(r"resuming at update (\d+)", ended[0][1])
  assert 20 <= int(resumed[1]) < UPDATES
  for got, want in zip(
    runs.rows(tmp_path), runs.rows(undisturbed[2]), strict=True
  ):
    assert got == pytest.approx(want, rel=1e-3)


@pytest.mark.slow
def test_damage_that_one_process_sees_is_seen_by_all(undisturbed, tmp_path):
  """No process waits for one that has turned to an older checkpoint."""
  started = long_run(tmp_path)
  processes.wait_for_update(started[0], 35)
  for process in started:
    process.kill()
  processes.finish(started)
  newest = max(
    (tmp_path / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name)
  )
  victim = max((newest / "state").rglob("*"), key=lambda p: p.stat().st_size)
  data = bytearray(victim.read_bytes())
  data[len(data) // 2] ^= 1
  victim.write_bytes(data)
  ended = processes.finish(long_run(tmp_path))
  for status, _, err in ended:
    assert status == 0, err
  assert f"checkpoint {newest.name} is damaged" in ended[0][2]
  check_saved(tmp_path, undisturbed[2])


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both(tmp_path):
  started = processes.launch(
    tmp_path, "--config.train.num_steps=5000", "--config.run.log_every_steps=10"
  )
  processes.wait_for_update(started[0], 1)
  started[1].send_signal(signal.SIGTERM)
  ended = processes.finish(started, timeout=120)
  assert [status for status, _, _ in ended] == [143, 143], ended
  error = ended[0][2]
  assert "SIGTERM: saved at update" in error
  experiment = runs.experiment(train__num_steps=5000)
  state, note = runs.newest(tmp_path, experiment)  # on one device, in one
  assert f"saved at update {int(state.step)};" in error
  assert note["data"]["next_index"] == state.step
