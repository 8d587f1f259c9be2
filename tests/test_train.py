"""The loop: resuming, stopping and breaking down at any update."""

import hashlib
import os
import signal

import jax
import numpy as np
import pytest

from linformer_jax import evaluate, train
from linformer_jax.parallel import sharding
from linformer_jax.run import checkpoint, preemption, report
from tests import runs

VARIANTS = {
  # Windows of three updates, so that a stop at two is within one.
  "dropout": dict(run__log_every_steps=3, run__eval_every_steps=2),
  "accumulation": dict(
    train__accumulation_steps=2,
    model__dropout_rate=0.0,
    attention__dropout_rate=0.0,
  ),
}


class Killed(BaseException):
  """Stands in for the end of the process."""


def kill():
  raise Killed


@pytest.fixture
def batches(monkeypatch):
  """Digests of the training batches by their place, and `change` for them."""
  seen = {}

  class Recorder:
    change = staticmethod(lambda place, batch: batch)

    def __init__(self, iterator):
      self._iterator = iterator
      self.get_state, self.set_state = iterator.get_state, iterator.set_state

    def __next__(self):
      place = self.get_state()["next_index"]
      batch = next(self._iterator)
      data = b"".join(batch[name].tobytes() for name in sorted(batch))
      seen[place] = hashlib.sha256(data).hexdigest()
      return Recorder.change(place, batch)

  original = train.pipeline.train_iterator
  monkeypatch.setattr(
    train.pipeline,
    "train_iterator",
    lambda *args, **options: Recorder(original(*args, **options)),
  )
  Recorder.seen = seen
  return Recorder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """whole(variant): its experiment, and the folder of a run without a stop."""
  made = {}

  def run(variant):
    if variant not in made:
      experiment = runs.experiment(**VARIANTS[variant])
      folder = tmp_path_factory.mktemp(variant)
      train.train_and_evaluate(experiment, folder)
      made[variant] = experiment, folder
    return made[variant]

  return run


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
  "step, action, stop",
  [
    (4, kill, Killed),  # the newest checkpoint is two updates back
    (3, runs.send(signal.SIGTERM), preemption.Interrupted),
    (1, runs.send(signal.SIGINT), preemption.Interrupted),
  ],
  ids=["killed", "SIGTERM", "SIGINT"],
)
def test_stop_and_resume_equal_a_whole_run(
  variant, step, action, stop, whole, at, batches, tmp_path
):
  experiment, expected = whole(variant)
  at(step, action)
  with pytest.raises(stop):
    train.train_and_evaluate(experiment, tmp_path)
  _, note = runs.newest(tmp_path, experiment)
  assert note["data"]["next_index"] == (2 if stop is Killed else step)
  before = dict(batches.seen)
  train.train_and_evaluate(experiment, tmp_path)
  assert batches.seen == batches.seen | before and len(batches.seen) == 4
  assert len(set(batches.seen.values())) == 4
  runs.assert_same_run(tmp_path, expected, experiment)


def test_rows_are_of_all_updates_in_turn(whole):
  _, folder = whole("dropout")
  got = [(row["step"], "eval/loss" in row) for row in runs.rows(folder)]
  assert got == [(2, True), (3, False), (4, True)]
  _, folder = whole("accumulation")
  got = [(row["step"], "eval/loss" in row) for row in runs.rows(folder)]
  assert got == [(1, False), (2, False), (3, False), (4, False), (4, True)]


def test_interrupted_says_which_signal_and_update(whole, at, tmp_path):
  experiment, _ = whole("dropout")
  at(1, runs.send(signal.SIGTERM))
  with pytest.raises(preemption.Interrupted) as stop:
    train.train_and_evaluate(experiment, tmp_path)
  assert (stop.value.number, stop.value.step) == (signal.SIGTERM, 1)
  assert str(stop.value) == "SIGTERM: saved at update 1"


def test_signal_at_an_evaluation_saves_first(whole, at, tmp_path, monkeypatch):
  """Evaluation waits for the resumed run, and leaves one row after all."""
  experiment, expected = whole("dropout")
  calls = []
  original = evaluate.evaluate

  def counted(*args):
    calls.append(args)
    return original(*args)

  monkeypatch.setattr(evaluate, "evaluate", counted)
  at(2, runs.send(signal.SIGTERM))  # evaluation is due
  with pytest.raises(preemption.Interrupted):
    train.train_and_evaluate(experiment, tmp_path)
  assert not calls
  at(3, kill)  # evaluated by now, with no checkpoint since
  with pytest.raises(Killed):
    train.train_and_evaluate(experiment, tmp_path)
  assert len(calls) == 1
  train.train_and_evaluate(experiment, tmp_path)
  runs.assert_same_run(tmp_path, expected, experiment)


def test_signal_within_an_evaluation_breaks_it_off(
  whole, tmp_path, monkeypatch
):
  experiment, expected = whole("dropout")
  original = train.pipeline.validation_batches

  def interrupted(*args, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    return original(*args, **options)

  with monkeypatch.context() as patch:
    patch.setattr(train.pipeline, "validation_batches", interrupted)
    with pytest.raises(preemption.Interrupted) as stop:
      train.train_and_evaluate(experiment, tmp_path)
  assert stop.value.step == 2
  assert runs.newest(tmp_path, experiment)[1]["evaluation"] is None
  train.train_and_evaluate(experiment, tmp_path)
  runs.assert_same_run(tmp_path, expected, experiment)


def test_a_complete_run_is_only_summed_up(whole, tmp_path, monkeypatch):
  """Killed between the last checkpoint and result.json."""
  experiment, expected = whole("dropout")
  first = train.train_and_evaluate(experiment, tmp_path)
  monkeypatch.setattr(evaluate, "evaluate", None)  # would raise
  again = train.train_and_evaluate(experiment, tmp_path)
  for name in ("step", "perplexity", "accuracy", "targets", "busy_seconds"):
    assert again[name] == first[name]
  runs.assert_same_run(tmp_path, expected, experiment)


def test_damaged_newest_checkpoint_costs_its_updates(whole, tmp_path, capsys):
  experiment, expected = whole("dropout")
  train.train_and_evaluate(experiment, tmp_path)
  for file in (tmp_path / "checkpoints" / "4" / "state").rglob("d/*"):
    file.write_bytes(b"")
  capsys.readouterr()
  train.train_and_evaluate(experiment, tmp_path)
  assert capsys.readouterr().err.count("\n") == 1
  runs.assert_same_run(tmp_path, expected, experiment)


def poisoned(place, batch):
  """A loss that is not a number, at the third update."""
  if place == 2:
    batch = dict(batch, weights=batch["weights"] * np.float32(np.nan))
  return batch


@pytest.mark.parametrize("cadence", [1, 2])
def test_nan_stops_the_run_and_is_not_saved(
  cadence, whole, batches, tmp_path, monkeypatch
):
  """At a checkpoint (cadence 1) or between two."""
  experiment, expected = whole("dropout")
  experiment.config.run.checkpoint_every_steps = cadence
  monkeypatch.setattr(batches, "change", staticmethod(poisoned))
  try:
    with pytest.raises(
      report.NonFiniteError, match="^update 3: the loss is nan"
    ):
      train.train_and_evaluate(experiment, tmp_path)
    state, note = runs.newest(tmp_path, experiment)
    assert int(state.step) == note["data"]["next_index"] == 2
    for leaf in jax.tree.leaves(state):
      assert np.isfinite(leaf).all()
    assert all(row["step"] <= 2 for row in runs.rows(tmp_path))
    monkeypatch.undo()  # the same run without the fault goes on from there
    train.train_and_evaluate(experiment, tmp_path)
    runs.assert_same_run(tmp_path, expected, experiment)
  finally:
    experiment.config.run.checkpoint_every_steps = 2


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "parameter_norm"])
def test_any_number_that_is_not_finite_names_its_update(name):
  """Parameters may overflow in an update whose loss and gradient are finite."""
  throughput = report.Throughput(1, 1)
  window = report.Window(None, None, throughput, None, every=10)
  values = dict.fromkeys(("loss", "correct", "weight"), np.float32(1))
  values |= dict.fromkeys(("gradient_norm", "parameter_norm"), np.float32(1))
  window.add(6, values)
  window.add(7, values | {name: np.float32(np.inf)})
  with pytest.raises(report.NonFiniteError, match="^update 7: .*inf"):
    window.close()


def test_nothing_compiles_once_each_kind_of_work_was_done(at, tmp_path):
  """Neither updates, evaluations, checkpoints nor the lines they write."""
  compiled = []

  def listen(event, duration, **kwargs):
    if "backend_compile" in event:
      compiled.append(event)

  experiment = runs.experiment(
    run__eval_every_steps=1, run__checkpoint_every_steps=1
  )
  at(3, compiled.clear)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    train.train_and_evaluate(experiment, tmp_path)
    assert compiled == []
    jax.jit(lambda x: x * 1.5)(2.0)
    assert compiled  # so they are counted
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  # Resumed or anew in one process, the evaluation is the one compiled before.
  train.train_and_evaluate(experiment, tmp_path / "again")
  assert experiment.steps.evaluate._cache_size() == 1
  assert experiment.steps.init._cache_size() == 1


def test_evaluate_newest(whole, tmp_path):
  experiment, folder = whole("dropout")
  before = sorted(folder.rglob("*"))
  step, values = train.evaluate_newest(experiment, folder)
  assert step == 4 and sorted(folder.rglob("*")) == before
  wanted = runs.rows(folder)[-1]
  assert wanted == {"step": 4} | {
    name: value for name, value in values.items() if name != "eval/seconds"
  }
  with pytest.raises(checkpoint.CheckpointError, match="no checkpoint"):
    train.evaluate_newest(experiment, tmp_path)


def test_unigram_perplexity_is_of_the_whole_split(whole, monkeypatch):
  """Whichever process asks."""
  experiment, _ = whole("dropout")
  monkeypatch.setattr(sharding, "share", lambda mesh: (1, 2))
  other = train.build(experiment.config)
  assert other.floor == experiment.floor
  assert 10 < experiment.floor < 300
