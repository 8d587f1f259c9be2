"""Pretraining curves: the points, their models, and the record of a run."""

import json
import math

import jax
import numpy as np
import pytest

from experiments.perplexity import curves, panels, sweep
from linformer_jax import models, optimizer, step
from linformer_jax.data import pipeline
from tests import perplexity_runs


@pytest.fixture(scope="module")
def all_runs():
  return perplexity_runs.every_run()


def test_every_point_is_valid_and_every_name_one_model(all_runs):
  for panel in panels.PANELS.values():
    for run in sweep.runs(panel, *perplexity_runs.FIRST):
      assert run.words == all_runs[run.name].words  # shared between panels
  seen = [json.dumps(curves.settings(r.config)) for r in all_runs.values()]
  assert len(set(seen)) == len(seen)
  for run in all_runs.values():
    config = run.config
    step.model_config(config)
    pipeline.DataConfig(**config.data.to_dict())
    optimizer.create(config.optimizer, config.train.num_steps)
    assert config.data.seed == config.seed == run.seed
    assert config.train.num_steps % config.run.log_every_steps == 0


def test_points_differ_by_what_their_panel_compares_alone(all_runs):
  """The same text, width, tokens an update, schedule and seeds.

  But for panel g, which compares widths and tokens, and panel q, in which no
  heads start on neighbors. All of a panel have the
  same number of updates, and all that is compared between panels.
  """
  free = ("attention.name", "attention.projection", "attention.projected")
  free += ("attention.sharing", "attention.local_window")
  free += ("model.max_length", "data.sequence_length", "model.position_init")
  free += ("train.batch_size", "optimizer.projection_rate", "seed", "data.seed")
  sizes, starts = panels.PANELS["g"], panels.PANELS["q"]
  of_sizes = {
    f"{point.name}-s{seed}"
    for point in (*sizes.points[1:], *sizes.controls[3:])
    for seed in sizes.seeds
  }

  def shared(runs, free):
    return {
      json.dumps(
        {
          name: value
          for name, value in curves.settings(run.config).items()
          if not name.startswith(free)
        }
      )
      for run in runs
    }

  of_starts = {f"{point.name}-s0" for point in starts.points}
  apart = of_sizes | of_starts
  others = [run for run in all_runs.values() if run.name not in apart]
  assert len(others) == len(all_runs) - len(apart)
  assert len(shared(others, (*free, "train.num_steps"))) == 1
  for name, panel in panels.PANELS.items():
    updates = {
      all_runs[f"{point.name}-s{seed}"].config.train.num_steps
      for point in (*panel.points, *panel.controls)
      for seed in panel.seeds
    }
    long = {panels.LONG} if name in "abdlq" else set()
    assert updates == long | ({panels.UPDATES} if name not in "abdl" else set())
  free += ("train.num_steps",)
  widths = ("model.embed_dim", "model.mlp_dim")
  starts = [all_runs[name] for name in of_starts]
  ours = [run for name, run in all_runs.items() if name not in of_starts]
  assert len(shared(ours, free + widths)) == 1
  free += ("attention.", "model.norm_position", "model.initializer_std")
  assert len(shared(starts, free)) == 1
  tokens = {
    run.config.train.batch_size * run.config.model.max_length for run in others
  }
  assert len(tokens) == 1
  assert len(panels.PANELS["a"].seeds) >= 2
  lengths = [run.config.model.max_length for run in all_runs.values()]
  assert max(lengths) >= 4 * min(lengths)


def num_parameters(config):
  cfg = step.model_config(config)
  shapes = jax.eval_shape(
    models.MaskedLM(cfg).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, cfg.max_length), "int32"),
  )
  return models.num_parameters(shapes["params"])


def expected_projections(m):
  """Numbers in E and F of all layers, by the paper's ways to share them."""
  layer, head_dim = m.layers[0], m.embed_dim // m.num_heads
  if layer.name == "softmax" or layer.projection in (
    "random",
    "mean_pool",
    "max_pool",
  ):
    return 0
  ks = [layer.projected_length for layer in m.layers]
  if layer.projection == "convolution":
    kernels = 2 * (m.num_heads if layer.sharing == "none" else 1)
    return sum(kernels * m.max_length // k * head_dim**2 for k in ks)
  matrices = {"none": 2 * m.num_heads, "headwise": 2, "key_value": 1}
  if layer.sharing == "layerwise":
    return ks[0] * m.max_length
  return sum(matrices[layer.sharing] * k * m.max_length for k in ks)


def test_parameter_counts(all_runs):
  names = {
    f"{point.name}-s0" for name in "ce" for point in panels.PANELS[name].points
  } | {f"n{panels.N}-k{panels.N}-authors-heads-s0"}
  for name in sorted(names):
    m = step.model_config(all_runs[name].config)
    width, hidden, vocab = m.embed_dim, m.mlp_dim, m.vocab_size
    norm = 2 * width
    layer = 4 * (width**2 + width) + 2 * norm
    layer += 2 * width * hidden + hidden + width
    rest = (vocab + m.max_length) * width + norm  # embeddings
    rest += width**2 + width + norm + vocab  # head
    expected = m.num_layers * layer + rest + expected_projections(m)
    assert num_parameters(all_runs[name].config) == expected, name


@pytest.mark.parametrize(
  ("name", "mean", "std"),
  [
    ("identity-frozen", "identity", 0.0),
    ("noisy", "identity", 0.02),
    ("authors-frozen", 0, 0.02),
    ("wide", 0, panels.N**-0.5),
    ("authors", 0, 0.02),
  ],
)
def test_starts_of_panel_p(all_runs, name, mean, std):
  config = all_runs[f"n{panels.N}-k{panels.N}-{name}-s0"].config
  m = step.model_config(config)
  (layer,) = set(m.layers)
  assert layer.projected_length == m.max_length
  init = layer.module(m.sizes(layer)).projection_init
  start = np.asarray(init(jax.random.key(0), (m.max_length, m.max_length)))
  rest = start - (np.eye(m.max_length) if mean == "identity" else mean)
  # A sample's standard deviation has the deviation std / sqrt(2 size).
  margin = 5 * std / math.sqrt(2 * rest.size) + 1e-4 * std  # 4 digits are given
  assert abs(rest.std() - std) <= margin
  assert config.optimizer.projection_rate == (0 if "frozen" in name else 1)


@pytest.mark.parametrize(
  ("perplexities", "left"),
  [
    ([90, 60, 49, 20], 300),  # half of 100 is 50
    ([90, 50, 49.9, 51], 300),  # half itself is not under it; the first counts
    ([49, 90, 90, 90], 100),
    ([90, 80, 70, 60], None),
    ([], None),
  ],
)
def test_plateau(perplexities, left):
  rows = [
    [100 * (i + 1), 0, 0.0, 0, value] for i, value in enumerate(perplexities)
  ]
  assert curves.plateau(rows, 100.0) == left


def test_evaluations_count_updates_alone(all_runs):
  config = all_runs["n128-k32-headwise-s0"].config
  rows = [
    {"step": 10, "train/step_seconds": 2.0},
    {"step": 20, "eval/loss": 1.0, "eval/perplexity": 9.0, "eval/seconds": 99},
    {"step": 20, "train/step_seconds": 3.0},
    {"step": 25, "train/step_seconds": 1.0},
    {"step": 25, "eval/loss": 1.0, "eval/perplexity": 8.0},
  ]
  tokens, needed = 8 * 128, curves.update_flops(config)
  assert curves.evaluations(rows, config) == [
    [20, 20 * tokens, 50.0, 20 * needed, 9.0],
    [25, 25 * tokens, 55.0, 25 * needed, 8.0],
  ]
  m = config.model
  # Three times the forward products: the layers', and the head's at 15%.
  products = m.embed_dim * (2 * m.embed_dim + 2 * m.mlp_dim)  # Q, out, MLP
  keys = 2 * 32 * (128 + m.embed_dim) * m.embed_dim  # E, F before W_K, W_V
  layer = 2 * (128 * products + keys + 2 * 128 * 32 * m.embed_dim)
  head = 19 * 2 * m.embed_dim * (m.embed_dim + m.vocab_size)
  assert needed == 3 * 8 * (m.num_layers * layer + head)
