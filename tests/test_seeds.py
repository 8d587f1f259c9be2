"""Several seeds: runs of their own, resumed or skipped, and one table."""

import json
import signal
import statistics

import pytest

from linformer_jax.run import best, checkpoint, command_line, seeds
from tests import labeled, runs, tiny_finetune

TRAIN = (
  "train",
  "--config=tests/tiny_finetune.py",
  *runs.QUICK_FLAGS,
  "--config.data.files={tmp}/train.jsonl",
  "--config.train.num_steps=3",
  "--config.run.eval_every_steps=1",
  "--config.run.keep_best",
  "--workdir={tmp}/runs",
)


@pytest.mark.parametrize(
  "text, wanted", [("3", [0, 1, 2]), ("4,0", [4, 0]), ("7,", [7])]
)
def test_a_number_counts_and_a_list_names(text, wanted):
  assert command_line.seeds(text) == wanted


@pytest.mark.parametrize("text", ["0", "-1", "x", "1,1", "1,-2", "1.5", ","])
def test_other_values_are_one_line(text, command, tmp_path):
  status, _, err = command(*TRAIN, f"--seeds={text}")
  assert status == 2 and f"--seeds={text}" in err
  assert len(err.strip().splitlines()) == 1
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
  "words, message",
  [
    (("--new",), "--new"),
    (("--extend",), "--extend"),
    (("--distributed",), "--distributed"),
  ],
)
def test_other_ways_to_start_are_one_line(command, words, message):
  status, _, err = command(*TRAIN, "--seeds=2", *words)
  assert status == 2 and "--seeds cannot be combined" in err and message in err


def test_a_run_is_no_folder_of_runs(run, tmp_path):
  labeled.write(tmp_path / "train.jsonl", 60)
  status, _, err = run(*TRAIN[:-1], "--seeds=2", "--workdir={tmp}/run")
  assert status == 2 and "holds a run: with --seeds" in err
  assert not (tmp_path / "run" / "seed0").exists()
  for words in (("evaluate",), ("export", "--to={tmp}/x")):
    status, _, err = run(*words, "--workdir={tmp}/run", "--seeds=2")
    assert status == 2 and "--seeds is only for train" in err


@pytest.fixture
def scored(monkeypatch):
  """Runs that take no time; returns their seeds, as they are trained."""
  trained = []

  def train(config, directory, new, extend):
    assert not new and not extend
    trained.append((config.seed, config.data.seed, directory.name))
    directory.mkdir(parents=True, exist_ok=True)
    found = {"accuracy": 0.5, "step": 3}
    found |= {"best_accuracy": 0.6 + config.seed / 10, "best_step": 2}
    (directory / "result.json").write_text(json.dumps(found))

  monkeypatch.setattr(seeds.commands, "train", train)
  return trained


def test_scores_are_compared(scored, tmp_path, capsys):
  """Of the seeds 0, 3 and 1: accuracies of 0.6, 0.9 and 0.7."""
  config = tiny_finetune.get_config()
  found = seeds.train(config, tmp_path, [0, 3, 1])
  assert scored == [(s, s, f"seed{s}") for s in (0, 3, 1)]
  assert found == json.loads((tmp_path / seeds.TABLE).read_text())
  score = pytest.approx(0.9)
  assert found["runs"][1] == {"seed": 3, "score": score, "step": 2}
  assert found["mean"] == pytest.approx(2.2 / 3)
  # Squares of 0.4, 0.5 and 0.1, over 3, and n - 1 = 2.
  wanted = ((0.4**2 + 0.5**2 + 0.1**2) / 9 / 2) ** 0.5
  assert found["standard_deviation"] == pytest.approx(wanted)
  lines = capsys.readouterr().out.splitlines()
  assert lines[-2].split() == ["mean", "73.3%"]
  assert lines[-1].split() == ["std", "15.3%"]
  assert seeds.train(config, tmp_path, [2])["standard_deviation"] is None


@pytest.mark.slow
def test_runs_are_resumed_and_compared(command, at, tmp_path):
  """The second seed is interrupted, and the first one is not run again."""
  labeled.write(tmp_path / "train.jsonl", 60)
  words = (*TRAIN, "--seeds=2")
  status, _, err = command(*words[:-1], "--seeds=1")
  assert status == 0, err
  first = (tmp_path / "runs" / "seed0" / "result.json").read_bytes()
  alone = json.loads((tmp_path / "runs" / seeds.TABLE).read_text())
  assert alone["standard_deviation"] is None and len(alone["runs"]) == 1
  at(2, runs.send(signal.SIGTERM))
  status, _, err = command(*words)
  assert status == 128 + signal.SIGTERM, err
  status, out, err = command(*words)
  assert status == 0, err
  assert "This run was complete" in out and "resuming at update 2" in out
  assert (tmp_path / "runs" / "seed0" / "result.json").read_bytes() == first
  table = json.loads((tmp_path / "runs" / seeds.TABLE).read_text())
  scores = []
  for seed, row in enumerate(table["runs"]):
    folder = tmp_path / "runs" / f"seed{seed}"
    kept = json.loads((folder / best.FILE).read_text())
    assert row == {"seed": seed} | kept
    config = json.loads((folder / "config.json").read_text())
    assert config["seed"] == config["data"]["seed"] == seed
    with checkpoint.Checkpoints(folder, read_only=True) as saved:
      assert kept["step"] in saved.steps()
    scores.append(kept["score"])
  assert table["mean"] == pytest.approx(statistics.mean(scores))
  spread = abs(scores[0] - scores[1]) / 2**0.5  # of two, with n - 1
  assert table["standard_deviation"] == pytest.approx(spread)
  assert f"{table['mean']:.1%}" in out.splitlines()[-2]
