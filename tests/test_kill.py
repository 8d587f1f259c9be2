"""A real run, stopped at any moment, ends as one that never was.

Moments are drawn with a seed that the test prints, and that $KILL_SEED repeats;
half of them lie within the writing of a checkpoint.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from linformer_jax.run import metrics
from tests import processes, runs

ROOT = pathlib.Path(__file__).parent.parent
UPDATES = 100
FIELDS = {
  "train.num_steps": UPDATES,
  "run.eval_every_steps": 20,
  "run.checkpoint_every_steps": 5,
  "model.num_layers": 1,  # quick to compile
  "model.scan_layers": False,
}


def start(workdir, **kwargs):
  flags = [f"--config.{name}={value}" for name, value in FIELDS.items()]
  return subprocess.Popen(
    [sys.executable, "-m", "linformer_jax.main", "--config=tests/tiny.py"]
    + [f"--workdir={workdir}", *flags],
    cwd=ROOT,
    env=os.environ | processes.CPU,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    **kwargs,
  )


def finish(process):
  """Waits for the end: (status, stderr)."""
  _, err = process.communicate(timeout=120)
  return process.returncode, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The folder of a run that nothing stopped; it warms the caches, too."""
  folder = tmp_path_factory.mktemp("kill") / "whole"
  status, err = finish(start(folder))
  assert status == 0, err
  return folder


def unfinished(workdir):
  """{inode: step} of the checkpoints that are, or were, being written."""
  folder = workdir / "checkpoints"
  if not folder.exists():  # the process has not come that far
    return {}
  return {
    entry.inode(): int(entry.name.split(".")[0])
    for entry in os.scandir(folder)
    if "tmp" in entry.name
  }


def rows_written(workdir):
  """(inode, last update) of metrics.jsonl, which every process replaces."""
  path = workdir / metrics.JSON_LINES
  if not path.exists():
    return None, 0
  rows = metrics.read_json_lines(workdir)
  return path.stat().st_ino, rows[-1]["step"] if rows else 0


def wait_for(moment, process):
  deadline = time.monotonic() + 60
  while not moment():
    assert process.poll() is None, process.communicate()[1]
    assert time.monotonic() < deadline, "nothing happened"
    time.sleep(0.001)


def stop_at(kind, number, update, rng, workdir):
  """Starts a process, and stops it at a moment of a kind from an update on.

  Returns:
    The steps whose checkpoints it left unfinished.
  """
  inode, _ = rows_written(workdir)
  before = unfinished(workdir)

  def running():
    now, last = rows_written(workdir)
    return now != inode and last >= update

  def writing():
    new = unfinished(workdir).items() - before.items()
    return any(step >= update for _, step in new)

  process = start(workdir)
  if kind == "start":
    time.sleep(rng.uniform(0.5, 5))  # importing, restoring or compiling
  elif kind == "writing":
    wait_for(writing, process)
    time.sleep(rng.uniform(0, 0.03))
  else:
    wait_for(running, process)
    time.sleep(rng.uniform(0, 0.1))
  process.send_signal(number)
  status, err = finish(process)
  if number == signal.SIGKILL:
    assert (status, err) == (-signal.SIGKILL, "")
  else:
    assert status == 128 + number, err
    assert err.count("\n") == 1
    assert err.startswith(f"linformer_jax: {number.name}: saved at update ")
  left = dict(unfinished(workdir).items() - before.items())
  last = rows_written(workdir)[1]
  print(f"{number.name} {kind}: update {last}, wrote {sorted(left.values())}")
  return left


@pytest.mark.slow
@pytest.mark.parametrize("chain", ["short", "long"])
def test_stops_at_random_moments_change_nothing(chain, whole, tmp_path):
  seed = os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6))
  print(f"KILL_SEED={seed}")
  rng = random.Random(int(seed))
  stops = [("running", signal.SIGTERM), ("writing", signal.SIGKILL)]
  if chain == "long":
    stops += [("start", signal.SIGKILL), ("writing", signal.SIGINT)]
    stops += [("writing", signal.SIGKILL)] * 4
  rng.shuffle(stops)
  inside = 0
  for i, (kind, number) in enumerate(stops):
    update = i * UPDATES // (len(stops) + 1) + rng.randrange(5)
    inside += bool(stop_at(kind, number, update, rng, tmp_path))
  assert finish(start(tmp_path)) == (0, "")
  if chain == "long":
    assert inside  # a stop within a checkpoint, at least one of six
  experiment = runs.experiment(
    **{name.replace(".", "__"): value for name, value in FIELDS.items()}
  )
  runs.assert_same_run(tmp_path, whole, experiment)
  rows = [row["step"] for row in runs.rows(tmp_path) if "train/loss" in row]
  assert rows == list(range(1, UPDATES + 1))
  assert not unfinished(tmp_path)
