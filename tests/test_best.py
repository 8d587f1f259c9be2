"""The best checkpoint is kept beside the newest ones, and is what is used."""

import json
import shutil
import signal

import pytest

from linformer_jax import loading, train
from linformer_jax.run import best, checkpoint, preemption, workdir
from linformer_jax.run import result as result_lib
from tests import runs

# Perplexities after each update; the best is the second of two equal ones'
# first.
SCORES = {1: 9.0, 2: 5.0, 3: 7.0, 4: 5.0, 5: float("nan"), 6: 8.0}
FIELDS = runs.QUICK | {
  "train.num_steps": 6,
  "run.eval_every_steps": 1,
  "run.checkpoint_every_steps": 3,
  "run.keep_checkpoints": 1,
  "run.keep_best": True,
}


@pytest.fixture(scope="module")
def experiment():
  return runs.experiment(**FIELDS)


@pytest.fixture(scope="module", autouse=True)
def scored():
  """Evaluations that take no time, with the scores above."""

  def evaluate(experiment, state, stop=None):
    values = {"loss": 1.0, "perplexity": SCORES[int(state.step)]}
    values |= {"targets": 1.0, "seconds": 0.0, "accuracy": 0.5}
    return {f"eval/{name}": value for name, value in values.items()}

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "_evaluate", evaluate)
    yield


def trained(experiment, folder):
  folder.mkdir(exist_ok=True)
  with workdir.claim(folder, experiment.config, experiment.corpus):
    return train.train_and_evaluate(experiment, folder)


def kept(folder):
  with checkpoint.Checkpoints(folder, read_only=True) as saved:
    return saved.steps()


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole")
  return folder, trained(experiment, folder)


def test_the_best_is_kept_and_loaded_by_default(experiment, whole):
  """Update 2 is neither among the newest nor a multiple of 3."""
  folder, result = whole
  assert kept(folder) == [2, 6]
  assert (result["best_step"], result["best_perplexity"]) == (2, 5.0)
  assert result["perplexity"] == 8.0
  shown = result_lib.show(experiment.steps.task, result, folder)
  assert "best perplexity        5.00, after 2 updates; this" in shown
  steps = (None, "best", "last", 6, "2")
  assert [loading.load(str(folder), s).step for s in steps] == [2, 2, 6, 6, 2]
  with pytest.raises(ValueError, match="'worst' is neither best nor last"):
    loading.load(str(folder), "worst")


@pytest.mark.parametrize("stop", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_it_resumes_bit_for_bit(experiment, whole, tmp_path, at, stop):
  """From the newest checkpoint, which is not the best one."""
  folder = tmp_path / "stopped"
  at(stop, runs.send(signal.SIGTERM))
  with pytest.raises(preemption.Interrupted):
    trained(experiment, folder)
  result = trained(experiment, folder)
  runs.assert_same_run(folder, whole[0], experiment)
  assert kept(folder) == [2, 6] and result["best_step"] == 2
  assert (folder / best.FILE).read_text() == (whole[0] / best.FILE).read_text()


def test_commands_take_it(whole, tmp_path, command):
  shutil.copytree(whole[0], tmp_path / "whole")
  for words, step in (
    ((), 2),
    (("--step=6",), 6),
  ):
    to = f"--to={{tmp}}/{step}{len(words)}{''.join(words)[2:]}"
    status, out, err = command("export", "--workdir={tmp}/whole", to, *words)
    assert status == 0 and f"after {step} updates" in out, err
  status, out, err = command("evaluate", "--workdir={tmp}/whole", "--step=best")
  assert status == 0 and "2 validation perplexity 5.00" in out, err
  for words, message in (
    (("fill", "x <mask>", "--step=x"), "step 'x' is neither"),
    (("train", "--config=tests/tiny.py", "--step=best"), "--step chooses a"),
  ):
    status, _, err = command(*words, "--workdir={tmp}/whole")
    assert status == 2 and message in err
    assert len(err.strip().splitlines()) == 1


def test_other_runs_keep_none(finished, command):
  assert loading.load(str(finished)).step == 4
  with pytest.raises(ValueError, match="kept no best checkpoint"):
    loading.load(str(finished), "best")
  assert "best_step" not in json.loads((finished / "result.json").read_text())


def test_larger_is_better_of_accuracies(tmp_path):
  class Task:
    headline, larger_is_better = "accuracy", True

  found = best.Best(tmp_path, Task)
  took = [
    found.takes(step, {"eval/accuracy": score})
    for step, score in enumerate((0.5, 0.4, 0.6, 0.6))
  ]
  assert took == [True, False, True, False]
  assert found.found == {"step": 2, "score": 0.6}
  assert not found.takes(9, None)
