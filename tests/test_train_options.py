"""Options of a config train, and resume after SIGTERM."""

import signal

import jax
import numpy as np
import pytest

from linformer_jax import train
from linformer_jax.run import preemption
from tests import runs

OPTIONS = {
  "bfloat16, remat, scan, parts": dict(
    model__dtype="bfloat16",
    model__remat=True,
    model__norm_position="pre",
    train__accumulation_steps=4,
    optimizer__clip_norm=1.0,
  ),
  "random, no scan, lengths": dict(
    attention__projection="random",
    attention__projected_lengths=(8, 4),
    model__scan_layers=False,
    model__remat=True,
  ),
  "softmax, profile": dict(
    attention="softmax",
    model__dropout_rate=0.0,
    attention__dropout_rate=0.0,
    train__num_steps=14,
    run__profile_steps=1,
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_options_train_and_resume(options, at, tmp_path):
  experiment = runs.experiment(**OPTIONS[options])
  at(3, runs.send(signal.SIGTERM))
  with pytest.raises(preemption.Interrupted):
    train.train_and_evaluate(experiment, tmp_path)
  result = train.train_and_evaluate(experiment, tmp_path)
  losses = [r["train/loss"] for r in runs.rows(tmp_path) if "train/loss" in r]
  assert len(losses) == experiment.config.train.num_steps
  assert losses[-1] < losses[0]
  assert np.isfinite(result["perplexity"])
  state, _ = runs.newest(tmp_path, experiment)
  for leaf in jax.tree.leaves((state.params, state.opt_state)):
    assert leaf.dtype in (np.float32, np.int32)
  if experiment.config.run.profile_steps:
    assert list(tmp_path.rglob("*.xplane.pb"))
  if experiment.config.attention.get("projection") == "random":
    assert jax.tree.leaves(state.constants)
