"""Whole runs of the tiny config, and what they leave behind."""

import os

import jax
import numpy as np

from linformer_jax import train
from linformer_jax.run import checkpoint, metrics
from tests import tiny

# Changes that make the tiny config quicker to compile, as flags too.
QUICK = {
  "model.num_layers": 1,
  "model.scan_layers": False,
  "model.dropout_rate": 0.0,
  "attention.dropout_rate": 0.0,
}
QUICK_FLAGS = tuple(f"--config.{name}={x}" for name, x in QUICK.items())
# What depends on the clock and not on the run.
CLOCK = ("time", "eval/seconds", "train/step_seconds", "train/memory_bytes")
CLOCK += ("train/tokens_per_second", "train/mfu")


def experiment(attention="linformer", **changes):
  """The tiny experiment, with fields changed: train__num_steps=3."""
  config = tiny.get_config(attention)
  changes = {name.replace("__", "."): x for name, x in changes.items()}
  config.update_from_flattened_dict(changes)
  return train.build(config)


def newest(workdir, experiment):
  """(state as numpy, note) of the newest checkpoint of a run."""
  with checkpoint.Checkpoints(workdir, read_only=True) as saved:
    state, note = saved.restore(experiment.steps.abstract_state)
  return jax.device_get(state), note


def rows(workdir):
  """Rows of metrics.jsonl, without what depends on the clock."""
  return [
    {name: value for name, value in row.items() if name not in CLOCK}
    for row in metrics.read_json_lines(workdir)
  ]


def assert_same_bits(actual, expected):
  """Trees of arrays that are equal to the last bit."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  paths = jax.tree_util.tree_leaves_with_path(expected)
  for one, (path, other) in zip(jax.tree.leaves(actual), paths, strict=True):
    one, other = np.asarray(one), np.asarray(other)
    assert one.dtype == other.dtype, path
    assert one.tobytes() == other.tobytes(), jax.tree_util.keystr(path)


def assert_same_run(actual, expected, experiment):
  """Two run folders with one outcome: state, place in the data, metrics."""
  state, note = newest(actual, experiment)
  wanted, wanted_note = newest(expected, experiment)
  assert_same_bits(state, wanted)
  for name in ("data", "window"):
    assert note[name] == wanted_note[name]
  assert rows(actual) == rows(expected)


def send(number):
  return lambda: os.kill(os.getpid(), number)
