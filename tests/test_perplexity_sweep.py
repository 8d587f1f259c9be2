"""The sweep over the points of a panel: what it runs, skips and saves."""

import json
import shlex
import signal
import sys

import numpy as np
import pytest

from experiments.perplexity import curves, panels, sweep
from tests import perplexity_runs


class Launcher:
  """In place of the training command: statuses in turn, 0 leaving a run."""

  def __init__(self, wanted, *statuses):
    self.by_words = {tuple(run.words): run for run in wanted}
    self.statuses = list(statuses)
    self.launched = []

  def __call__(self, words, seconds):
    run = self.by_words[tuple(words)]
    self.launched.append(run.name)
    status = self.statuses.pop(0) if self.statuses else 0
    if status == 0:
      perplexity_runs.leave(run)
    return status


@pytest.fixture
def shared_and_own(tmp_path):
  """The runs of panels c and e: softmax and k = 32 stand in both."""
  return [
    sweep.runs(panels.PANELS[name], "GLOB", str(tmp_path / "runs"))
    for name in "ce"
  ]


def test_a_sweep_skips_what_is_done_and_goes_on(tmp_path, shared_and_own):
  wanted, others = shared_and_own
  names = [run.name for run in wanted]
  path = tmp_path / "results" / "c.jsonl"
  stopped = Launcher(wanted, 0, 143)
  status = sweep.go_through(wanted, path, 1e6, stopped)
  assert status == 143 and stopped.launched == names[:2]
  assert list(curves.records(path)) == names[:1]
  again = Launcher(wanted)
  assert sweep.go_through(wanted, path, 1e6, again) == 0
  assert again.launched == names[1:]
  assert list(curves.records(path)) == names
  nothing = Launcher(wanted)
  assert sweep.go_through(wanted, path, 1e6, nothing) == 0
  assert not nothing.launched
  # Another panel takes over the runs that it shares with this one.
  other = Launcher(others)
  assert sweep.go_through(others, path.with_name("e.jsonl"), 1e6, other) == 0
  assert set(other.launched) == {run.name for run in others} - set(names)
  assert len(curves.records(path.with_name("e.jsonl"))) == len(others)


def test_a_sweep_that_meets_errors(tmp_path, shared_and_own, capsys):
  wanted, _ = shared_and_own
  path = tmp_path / "results" / "c.jsonl"
  broken = Launcher(wanted, 0, 1)  # a loss that is not finite, say
  assert sweep.go_through(wanted, path, 1e6, broken) == 1
  assert wanted[1].name in capsys.readouterr().err
  assert len(broken.launched) == len(wanted) == len(curves.records(path)) + 1
  wrong = Launcher(wanted, 2)
  assert sweep.go_through(wanted, path, 1e6, wrong) == 2
  assert wrong.launched == [wanted[1].name]
  assert sweep.go_through(wanted, path, 0.0, wrong) == sweep.OVER
  assert len(wrong.launched) == 1


def test_a_record_is_of_one_recipe(tmp_path, shared_and_own):
  run = shared_and_own[0][1]
  perplexity_runs.leave(run)
  record = json.loads(json.dumps(run.record()))
  assert curves.is_of(record, run.config)
  assert record["plateau_updates"] == record["evaluations"][1][0]
  assert record["evaluations"][-1][2] == record["busy_seconds"]
  younger = run.config.copy_and_resolve_references().unlock()
  younger.model.some_new_field = 1
  younger.run.log_every_steps = 7
  assert curves.is_of(record, younger)
  younger.optimizer.learning_rate *= 2
  assert not curves.is_of(record, younger)
  path = tmp_path / "results" / "c.jsonl"
  record["config"]["train.num_steps"] = 1
  curves.save(path, {run.name: record})
  assert sweep.known([run], path.parent) == {}


@pytest.fixture
def in_place_of_python(tmp_path, monkeypatch):
  """A shell script that the sweep takes for the Python that trains."""

  def script(text):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))

  return script


def test_the_budget_lets_a_run_save(tmp_path, in_place_of_python):
  saved = tmp_path / "saved"
  in_place_of_python(
    f"trap 'echo yes > {saved}; exit 143' TERM\nwhile :; do sleep 0.02; done"
  )
  before = signal.getsignal(signal.SIGTERM)
  assert sweep.launch([], 0.3) == 143
  assert saved.exists() and signal.getsignal(signal.SIGTERM) == before


def test_a_signal_is_passed_on(in_place_of_python):
  in_place_of_python(
    "trap 'exit 130' INT\nkill -INT $PPID\nwhile :; do sleep 0.02; done"
  )
  assert sweep.launch([], 30.0) == 130


def test_statuses_of_a_run(tmp_path, in_place_of_python):
  words = tmp_path / "words"
  in_place_of_python(f'echo "$@" > {words}; exit 2')
  assert sweep.launch(["--config=x"]) == 2
  assert words.read_text() == "-m linformer_jax.main train --config=x\n"
  in_place_of_python("kill -9 $$")
  assert sweep.launch([]) == 128 + 9


def test_the_list_tells_launch_lines(capsys):
  assert sweep.main(["--panel=b", "--list", "--text=x/*.txt"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(panels.PANELS["b"].points)
  for line in lines:
    assert "./launch.sh train --config=configs/pretrain_small.py:n=256" in line
    assert "--config.data.files=x/*.txt" in shlex.split(line)


@pytest.mark.parametrize(
  ("words", "told"),
  [
    (["--panel=z", "--text=x"], "invalid choice"),
    (["--panel=a"], "--text=GLOB is needed"),
    (["--panel=a", "--text=x", "--nothing"], "--nothing"),
    (["--panel=a", "--text=x", "--config.seed=1"], "--results"),
  ],
)
def test_wrong_flags(words, told, capsys):
  with pytest.raises(SystemExit) as error:
    sweep.main(words)
  assert error.value.code == 2
  assert told in capsys.readouterr().err


def test_a_field_that_there_is_not_is_one_line(tmp_path, capsys):
  words = ["--panel=a", "--text=x", f"--results={tmp_path}"]
  assert sweep.main([*words, "--config.model.depth=1"]) == 2
  told = capsys.readouterr().err
  assert "depth" in told and told.count("\n") == 1


@pytest.mark.slow
def test_a_real_sweep_is_stopped_and_goes_on(tmp_path, monkeypatch):
  words = "the cat sat on a mat and saw some dogs run by it".split()
  rng = np.random.default_rng(0)
  with (tmp_path / "text.jsonl").open("w") as file:
    for _ in range(300):
      text = " ".join(rng.choice(words, 200))
      file.write(json.dumps({"text": text}) + "\n")
  panel = panels.Panel("two", panels.PANELS["c"].points[:2])
  monkeypatch.setitem(panels.PANELS, "a", panel)
  monkeypatch.setattr(sweep, "_LEAST_SECONDS", 0)
  tiny = "model.embed_dim=32 model.num_layers=1 model.num_heads=2 "
  tiny += "model.position_dims=16 "
  tiny += "model.mlp_dim=64 train.batch_size=4 train.num_steps=3000 "
  tiny += "model.vocab_size=300 optimizer.warmup_steps=10 "
  tiny += "run.eval_every_steps=1000"
  arguments = [
    "--panel=a",
    f"--text={tmp_path}/*.jsonl",
    f"--workdir={tmp_path}/runs",
    f"--results={tmp_path}/results",
    *(f"--config.{word}" for word in tiny.split()),
  ]
  assert sweep.main([*arguments, "--budget=12"]) == sweep.OVER
  assert sweep.main(arguments) == 0
  found = curves.records(tmp_path / "results" / "a.jsonl")
  assert len(found) == 2
  for record in found.values():
    rows = record["evaluations"]
    assert [row[0] for row in rows] == [1000, 2000, 3000]
    # The seconds of all updates, interruption or not.
    assert rows[-1][2] == pytest.approx(record["busy_seconds"], rel=0.02)
    assert rows[-1][4] == record["perplexity"]
