"""Evaluation: exact over the whole split, whatever the batch."""

import json
import sys

import jax
import numpy as np
import pytest

from linformer_jax import evaluate, main, models, step
from linformer_jax.data import pipeline
from linformer_jax.parallel import sharding
from tests import tiny

BLOCKS = 21  # divides into batches of 7, not of 8


@pytest.fixture(scope="module")
def split():
  """A corpus whose validation split is cut to a few blocks."""
  data = pipeline.DataConfig(**tiny.get_config().data.to_dict())
  corpus = pipeline.prepare(data)
  corpus.validation._length = BLOCKS
  return corpus


def batches(split, size):
  task = step.task_of(tiny.get_config())
  return list(pipeline.validation_batches(split, task, size))


def build(size):
  config = tiny.get_config()
  # So large that some predictions are far worse than others.
  config.model.initializer_std = 0.3
  config.run.eval_batch_size = size
  return step.build_steps(config, sharding.make_mesh(config.mesh))


@pytest.fixture(scope="module")
def expected(split):
  """(nll, right) of every target of the split, in float64 from the logits."""
  [batch] = batches(split, BLOCKS)
  steps = build(BLOCKS)
  logits = models.MaskedLM(steps.model).apply(
    {"params": steps.init().params}, batch["tokens"], batch["mask"]
  )
  logits = np.float64(logits)
  rows, columns = np.nonzero(batch["weights"])
  picked = logits[rows, batch["positions"][rows, columns]]
  targets = batch["targets"][rows, columns]
  top = picked.max(-1, keepdims=True)
  log_sum = np.log(np.exp(picked - top).sum(-1)) + top[:, 0]
  nll = log_sum - picked[np.arange(len(targets)), targets]
  return nll, picked.argmax(-1) == targets


@pytest.mark.parametrize("size", [7, 8])
def test_exact_over_the_whole_split(size, split, expected):
  nll, right = expected
  steps = build(size)
  got = evaluate.evaluate(steps, steps.init(), batches(split, size))
  assert got["eval/targets"] == len(nll)
  # Sums of a hundred float32 values, each off by a few roundings of itself.
  np.testing.assert_allclose(got["eval/loss"], nll.mean(), rtol=2e-6)
  np.testing.assert_allclose(
    got["eval/perplexity"], np.exp(nll.mean()), rtol=2e-6 * nll.mean()
  )
  assert got["eval/accuracy"] == pytest.approx(right.mean(), rel=1e-6)


def test_the_data_tells_means_of_means_apart(split, expected):
  """The test above would notice a mean over batches."""
  nll, _ = expected
  counts = [int(b["weights"].sum()) for b in batches(split, 8)]
  assert len(set(counts)) > 1
  parts = np.split(nll, np.cumsum(counts)[:-1])
  wrong = np.mean([np.exp(part.mean()) for part in parts])
  assert abs(wrong / np.exp(nll.mean()) - 1) > 1e-3
  wrong = np.mean([part.mean() for part in parts])
  assert abs(wrong / nll.mean() - 1) > 1e-4


def test_evaluation_does_not_depend_on_dropout(split):
  """The tiny config has dropout; evaluated twice, nothing differs."""
  steps = build(7)
  state, data = steps.init(), batches(split, 7)
  assert steps.model.dropout_rate
  assert evaluate.evaluate(steps, state, data) == evaluate.evaluate(
    steps, state, data
  )


def test_stop_breaks_off(split):
  steps = build(7)
  answers = iter([False, True])
  used = iter(batches(split, 7))
  stop = answers.__next__
  assert evaluate.evaluate(steps, steps.init(), used, stop) is None
  assert len(list(used)) == 1  # of three


def test_no_batches_is_an_error():
  with pytest.raises(ValueError, match="no batch"):
    evaluate.evaluate(build(7), None, [])


def test_sums_are_float32_whatever_the_model_computes_in(split):
  config = tiny.get_config()
  config.model.dtype = "bfloat16"
  steps = step.build_steps(config, sharding.make_mesh(config.mesh))
  shapes = jax.eval_shape(
    steps.evaluate, steps.abstract_state, batches(split, 8)[0]
  )
  assert {x.dtype for x in shapes.values()} == {np.dtype(np.float32)}


def test_a_run_of_another_version_is_one_line(tmp_path, monkeypatch, capsys):
  """Its config lacks a field that has come since."""
  stored = tiny.get_config().to_dict()
  del stored["optimizer"]["projection_rate"]
  (tmp_path / "config.json").write_text(json.dumps(stored))
  words = ["main", "evaluate", f"--workdir={tmp_path}"]
  monkeypatch.setattr(sys, "argv", words)
  assert main.main() == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "another version" in error and "projection_rate" in error
