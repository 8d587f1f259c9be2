"""Causal language models: what is scored, asked and rendered."""

import jax
import numpy as np
import pytest

from experiments import grid
from experiments import page as page_lib
from experiments.causal import cost, measure, passkey, render
from experiments.causal.measure import Item
from experiments.perplexity import sweep
from linformer_jax import attention, models, step
from linformer_jax.attention.ops import pyramid as pyramid_lib
from linformer_jax.data import pipeline
from tests import arrays, tiny


def test_runs_differ_in_their_attention_alone():
  assert len(set(measure.items())) == len(measure.items()) == 40
  configs = {}
  for model in measure.MODELS:
    words = Item("bytes", 512, model).point().words(3)
    configs[model] = sweep.config_of(words).to_dict()
  kinds = {c.pop("attention")["name"] for c in configs.values()}
  causal = {n for n, kind in attention.ATTENTIONS.items() if kind.causal}
  assert kinds == {"softmax", "causal_linformer", "local", "linear"} <= causal
  first = configs.pop("softmax")
  assert all(config == first for config in configs.values())


def test_what_a_row_of_each_model_sees():
  (slots,) = set(cost.model_of("slots", 512).layers)
  (pyramid,) = set(cost.model_of("pyramid", 512).layers)
  (local,) = set(cost.model_of("local", 512).layers)
  b, r = slots.block_length, slots.projected_length
  exact = [i % b + 1 + b * slots.previous_block for i in range(b, 512)]
  assert (min(exact), max(exact)) == (33, 64) and local.window + 1 == 65
  assert (511 // b - 1) * r == 56
  shown = pyramid_lib.Pyramid(pyramid.levels, pyramid.kept_blocks)
  assert shown.groups * r + 1 == 33


def test_losses_are_those_of_each_position():
  config = tiny.get_config("softmax")
  with config.unlocked():
    config.task = {"name": "causal_lm"}
  task = step.task_of(config)
  corpus = pipeline.prepare(pipeline.DataConfig(**config.data.to_dict()))
  variables = arrays.filled(task.module(), *task.init_arguments())
  found = measure.losses(task, variables, corpus, 3, every=2)
  np.testing.assert_array_equal(measure.edges(32), [16, 32])
  blocks = [corpus.validation[i] for i in range(0, len(corpus.validation), 2)]
  assert found.shape == (len(blocks), 2, 2)
  logits = task.module().apply(variables, blocks[0]["tokens"][None])
  nll = -jax.nn.log_softmax(logits[0])[np.arange(31), blocks[0]["tokens"][1:]]
  want = [nll[:16].sum(), nll[16:].sum()]  # after 1 to 16 tokens, and others
  np.testing.assert_allclose(found[0, :, 0], want, rtol=1e-5)
  np.testing.assert_array_equal(found[0, :, 1], [16, 15])


@pytest.mark.parametrize("n", [64, 256])
def test_a_row_has_its_passkey_and_asks_for_it(n):
  batch = jax.device_get(passkey.draw(jax.random.key(0), 50, n))
  for row, asked, code, far in zip(
    batch.tokens, batch.asked, batch.answers, batch.distance, strict=True
  ):
    marks = np.flatnonzero(row == passkey.MARK)
    np.testing.assert_array_equal(marks, [n - 4 - far[0], n - 4])
    at = marks[0]
    np.testing.assert_array_equal(row[at + 1 : at + 5], code)
    np.testing.assert_array_equal(row[n - 3 :], code[:3])
    np.testing.assert_array_equal(asked, np.arange(n - 4, n))
    digits = (row >= 1) & (row <= passkey.DIGITS)
    assert digits.sum() == 7  # and noise elsewhere
  assert len(np.unique(batch.distance)) > 20


def test_long_rows_are_asked_with_the_same_weights():
  item = passkey.Item("slots")
  shapes = {
    n: jax.eval_shape(
      models.CausalLM(item.config(n)).init,
      jax.random.key(0),
      np.zeros((1, 64), int),
    )
    for n in (64, 4_096)
  }
  assert shapes[64] == shapes[4_096]


def record(nats, seed=0):
  rng = np.random.default_rng(seed)
  targets = np.full((40, 6), 100)
  losses = targets * nats + rng.normal(size=targets.shape)
  return {
    "losses": losses.tolist(),
    "targets": targets.tolist(),
    "update_flops": 5e9,
    "run_seconds": 60.0,
  }


def test_tables_hold_differences(tmp_path):
  records = {
    Item("bytes", 512, "softmax"): record(1.7),
    Item("bytes", 512, "slots"): record(1.6) | {"update_flops": 4e9},
    Item("bytes", 512, "local"): record(1.65, 1),
  }
  table = render.losses(records)
  assert (
    "| bytes | 512 | causal Linformer, 4 slots of 32 rows | 1 | 1.6" in table
  )
  assert "| -0.100 (-0.100 to -0.100) | -9.5% | -0.0" in table
  assert ") | 80% |" in table
  rows = render.positions(records)
  assert "| bytes, n = 512 | 1 to 16 | 17 to 32 |" in rows
  assert "-0.05" in rows and "windows of" not in rows
  render.draw(records, tmp_path / "x.png")
  assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_slopes_are_of_the_longest_lengths():
  line = {
    "seconds": {"linear": [1e-3] * 5, "softmax": [1e-3] * 5},
    "flops": {"linear": 10, "softmax": 10},
  }
  longer = {
    "seconds": {"linear": [4e-3] * 5, "softmax": [16e-3] * 5},
    "flops": {"linear": 40, "softmax": 160},
  }
  records = {
    cost.Item("layer", 4_096): line, cost.Item("layer", 16_384): longer
  }  # fmt: skip
  table = render.slopes(records)
  assert "| linear attention |  | 1 ms | 4 ms |  |  | 1.00 | 1.00 |" in table
  assert "| softmax attention |  | 1 ms | 16 ms |  |  | 2.00 | 2.00 |" in table


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  assert page_lib.renew(page, render.parts()) == page


def test_scores_of_a_page_have_the_same_targets():
  records = grid.records(measure.RESULTS, Item)
  for tokens, n in render.settings(records):
    found = [
      records[item]["targets"]
      for item in records
      if (item.tokens, item.n) == (tokens, n)
    ]
    assert all(targets == found[0] for targets in found)
