"""Training a complete run further, under a schedule that starts again."""

import json
import os
import shutil

import numpy as np
import pytest

from configs import base
from linformer_jax import optimizer
from linformer_jax.run import metrics
from tests import runs, tiny

FLAGS = (
  "train",
  "--config=tests/tiny.py",
  *runs.QUICK_FLAGS,
  "--workdir={tmp}/run",
)
MORE = ("--extend", "--config.train.num_steps=7")


def rates(num_steps, restarts=(), **fields):
  config = base.get_config().optimizer
  config.update({"learning_rate": 1.0, "warmup_steps": 2} | fields)
  schedule = optimizer.learning_rate(config, num_steps, restarts)
  return [float(schedule(step)) for step in range(num_steps)]


def test_the_schedule_starts_again_at_each_restart():
  expected = rates(10) + rates(6) + rates(8)
  assert rates(24, (10, 16)) == expected
  assert rates(10, ()) == rates(10)
  assert rates(24, (10, 16))[10] == 0.5  # of the peak, first of two to warm up


@pytest.mark.parametrize("restarts", [(9,), (2,), (0,), (-3,), (5, 4), (11,)])
def test_no_cycle_is_shorter_than_its_warm_up(restarts):
  with pytest.raises(ValueError, match="warmup_steps 2"):
    rates(10, restarts)


@pytest.mark.slow
def test_a_run_goes_on_from_its_end(run, tmp_path, capsys):
  status, out, err = run(*FLAGS, *MORE)
  assert status == 0, err
  assert "learning rate warms up again" in out
  assert "resuming at update 4 of 7" in out and "Done: 7 updates" in out
  rows = metrics.read_json_lines(tmp_path / "run")
  seen = [r["train/learning_rate"] for r in rows if "train/learning_rate" in r]
  config = tiny.get_config().optimizer
  schedule = optimizer.learning_rate(config, 7, (4,))
  np.testing.assert_allclose(seen, [schedule(step) for step in range(7)])
  # Later commands need not say it again, and may.
  for words in (MORE, MORE[1:]):
    status, out, err = run(*FLAGS, *words)
    assert status == 0 and "This run was complete" in out, err
  assert run("evaluate", "--workdir={tmp}/run")[0] == 0
  status, out, err = run(*FLAGS, "--extend", "--config.train.num_steps=10")
  assert status == 0, err
  stored = json.loads((tmp_path / "run" / "config.json").read_text())
  assert stored["train"]["restarts"] == [4, 7]
  assert stored["train"]["num_steps"] == 10


@pytest.mark.slow
def test_an_extension_that_is_killed_resumes_bit_for_bit(
  run, finished, tmp_path, monkeypatch
):
  """As if it had not been: the same state, place in the data and metrics."""
  from linformer_jax.run import checkpoint

  status, _, err = run(*FLAGS, *MORE)
  assert status == 0, err
  (tmp_path / "run").rename(tmp_path / "whole")
  shutil.copytree(finished, tmp_path / "run")

  class Killed(BaseException):
    pass

  save = checkpoint.Checkpoints.save

  def saving(self, step, *args):
    save(self, step, *args)
    self.wait()
    if step == 6:
      raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, "save", saving)
    with pytest.raises(Killed):
      run(*FLAGS, *MORE)
  status, out, err = run(*FLAGS, *MORE)
  assert status == 0 and "resuming at update 6 of 7" in out, err
  changes = {"train.num_steps": 7, "train.restarts": (4,)}
  experiment = runs.experiment(**runs.QUICK, **changes)
  runs.assert_same_run(tmp_path / "run", tmp_path / "whole", experiment)


@pytest.mark.parametrize(
  "words, message",
  [
    (("--extend",), "set --config.train.num_steps above that, not to 4"),
    (("--extend", "--config.train.num_steps=3"), "a run of 4 updates"),
    (MORE[1:], "train.num_steps 4 there, 7 here"),
    (MORE[1:], "--extend trains a complete run further"),
    ((*MORE, "--new"), "use one of them"),
    (
      (*MORE, "--config.optimizer.warmup_steps=3"),
      "warmup_steps 3 must be at least 0 and below the extension's updates 3",
    ),
    ((*MORE, "--config.seed=1"), "seed 0 there, 1 here"),
  ],
)
def test_what_is_no_extension_is_one_line(run, tmp_path, words, message):
  before = (tmp_path / "run" / "config.json").read_text()
  status, _, err = run(*FLAGS, *words)
  assert status == 2 and len(err.splitlines()) == 1
  assert message in err
  assert (tmp_path / "run" / "config.json").read_text() == before


def test_only_a_complete_run_is_extended(run, tmp_path):
  (tmp_path / "run" / "result.json").unlink()
  status, _, err = run(*FLAGS, *MORE)
  assert status == 2 and "finish it first" in err
  status, _, err = run(*FLAGS, *MORE, "--workdir={tmp}/none")
  assert status == 2 and "holds no run" in err
  assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_peak_of_an_extension_may_be_another(run, tmp_path):
  peak = "--config.optimizer.learning_rate=1e-3"
  status, _, err = run(*FLAGS, *MORE, peak)
  assert status == 0, err
  rows = metrics.read_json_lines(tmp_path / "run")
  seen = [r["train/learning_rate"] for r in rows if "train/learning_rate" in r]
  assert max(seen[:4]) == pytest.approx(3e-3)
  assert max(seen[4:]) == pytest.approx(1e-3)


def test_a_complete_run_needs_no_right_to_write(run, tmp_path, monkeypatch):
  monkeypatch.setattr(os, "access", lambda *_: False)
  status, out, err = run(*FLAGS)
  assert status == 0 and "This run was complete" in out, err
  (tmp_path / "run" / "result.json").unlink()
  status, _, err = run(*FLAGS)
  assert status == 2 and err.strip().endswith("written: Permission denied")
