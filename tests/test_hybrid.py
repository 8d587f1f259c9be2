"""Linear-cost stacks: their config, their items, and what the page rests on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hybrid as config_lib
from experiments import grid, runs
from experiments import page as page_lib
from experiments.hybrid import (
  attentions,
  figures,
  found,
  measure,
  probe,
  render,
  time,
)
from experiments.hybrid.measure import Item
from experiments.perplexity import sweep
from linformer_jax import attention, step
from linformer_jax.attention import initializers

FOUND = found.Found()
PROBES = grid.records(probe.RESULTS, probe.Item)


def test_the_config_has_windows_below_and_slots_above():
  config = config_lib.get_config("n=1024,window=16,k=32,size=large")
  layers = step.model_config(config).layers
  assert len(layers) == 24
  assert [layer.name for layer in layers] == ["local"] * 12 + ["linformer"] * 12
  assert {layer.window for layer in layers[:12]} == {16}
  assert {layer.projected_length for layer in layers[12:]} == {32}


def test_its_flops_grow_linearly():
  """Twice the rows, twice the FLOPs, but for W_K and W_V on k slots."""

  def flops(n):
    return step.task_of(config_lib.get_config(f"n={n}")).flops()

  assert 1.99 < flops(4_096) / flops(2_048) <= 2


@pytest.fixture
def near_far(monkeypatch):
  """The trainer's table with the attention of the experiment, for a test."""
  config = attentions.NearFarConfig
  monkeypatch.setitem(attention.ATTENTIONS, config.name, config)


@pytest.mark.parametrize("model", measure.MODELS)
def test_a_run_differs_from_softmax_attention_s_in_attention_alone(
  model, near_far
):
  def fields(name):
    item = Item("subwords", 512, name, rate=1e-3)
    config = sweep.config_of(item.point().words(0))
    assert config.optimizer.learning_rate == 1e-3
    assert config.model.vocab_size == 4_096
    values = config.to_dict()
    names = [x.name for x in step.model_config(config).layers]
    return values.pop("attention"), values, names

  _, ours, names = fields(model)
  assert ours == fields("softmax")[1]
  pattern = measure.MODELS[model][0].split("+")
  assert names == pattern * (4 // len(pattern))


def test_sizes_do_not_grow_with_n():
  for n in measure.LENGTHS:
    config = sweep.config_of(Item("bytes", n, "hybrid").point().words(0))
    low, _, _, top = step.model_config(config).layers
    assert (low.window, top.projected_length) == (measure.WINDOW, measure.SLOTS)
    config = sweep.config_of(Item("bytes", n, "quarter").point().words(0))
    assert step.model_config(config).layers[0].projected_length == n // 4


def test_runs_of_other_choices_have_other_folders():
  items = measure.items()
  assert len(items) == len(set(items))
  runs = {(item.point().name, item.seed) for item in items}
  assert len(runs) == len(
    {(i.tokens, i.n, i.model, i.seed, i.updates, i.rate, i.span) for i in items}
  )
  masked = Item("bytes", 512, "local", span=8).point()
  assert ("task.mask_span", "8") in masked.flags
  assert masked.name.endswith("span8")


N, M, H = 24, 16, 2


def applied(x, variables=None, rngs=None, **fields):
  """The variables and the output of one attention to rows near and far."""
  config = attentions.NearFarConfig(
    projected_length=6, local_window=3, **fields
  )
  sizes = attention.Sizes(embed_dim=M, num_heads=H, max_length=N)
  module = config.module(sizes)
  if variables is None:
    variables = module.init(jax.random.key(0), x)
  return variables, module.apply(
    variables, x, deterministic=rngs is None, rngs=rngs
  )


@pytest.fixture
def x():
  return jax.random.normal(jax.random.key(1), (64, N, M))


def test_near_and_far_rows_are_those_of_linformer_s_window(x):
  config = attention.LinformerConfig(projected_length=6, local_window=3)
  sizes = attention.Sizes(embed_dim=M, num_heads=H, max_length=N)
  variables, got = applied(x)
  wanted = config.module(sizes).apply(variables, x)
  np.testing.assert_array_equal(got, wanted)


def test_a_sequence_loses_all_its_near_rows_or_none(x):
  variables, whole = applied(x)
  rngs = {"dropout": jax.random.key(2)}
  _, got = applied(x, variables, rngs, dropout_rate=0.25)
  config = attention.LinformerConfig(projected_length=6)
  sizes = attention.Sizes(embed_dim=M, num_heads=H, max_length=N)
  slots = config.module(sizes).apply(variables, x)

  def same(other):
    return np.all(np.abs(got - other) < 1e-5, axis=(1, 2))

  assert np.all(same(whole) | same(slots))
  assert 8 <= same(slots).sum() <= 24  # binomial, 64 at 1/4
  # They stay at evaluation.
  _, kept = applied(x, variables, dropout_rate=0.25)
  np.testing.assert_array_equal(kept, whole)


def test_dual_norm_takes_the_scale_of_keys_away(x):
  variables, got = applied(x, dual_norm=True)
  key = variables["params"]["key"] | {
    "kernel": 100 * variables["params"]["key"]["kernel"]
  }
  scaled = {"params": variables["params"] | {"key": key}}
  _, other = applied(x, scaled, dual_norm=True)
  # But for the epsilon of the norm, which is felt at the smaller scale.
  np.testing.assert_allclose(got, other, rtol=0, atol=1e-3)
  assert np.abs(got - applied(x, scaled)[1]).max() > 0.1


def test_how_far_e_has_moved():
  start = initializers.window_mean(0.0)(jax.random.key(0), (2, 4, 16))
  tree = {
    "params": {
      "a": {"key_projection": {"kernel": 3 * start}},
      "value_projection": {"kernel": start},
      "query": {"kernel": jnp.ones((3, 3))},
    }
  }
  assert runs.moved(tree) == {
    "a/key_projection/kernel": 2.0,
    "value_projection/kernel": 0.0,
  }


def test_a_copy_asks_for_the_token_half_a_sequence_before():
  tokens, segments, _, answers, _ = probe.draw("copy", jax.random.key(0), 5)
  half = probe.N // 2
  assert segments is None
  np.testing.assert_array_equal(tokens[:, :half], answers)
  assert (tokens[:, half:] == probe.ASK).all() and answers.min() >= 1


def test_recall_asks_for_the_value_beside_each_key():
  tokens, values, _, answers, _ = probe.draw("recall", jax.random.key(0), 5)
  half = probe.N // 2
  assert not values[:, half:].any()
  for row, held, wanted in zip(tokens, values, answers, strict=True):
    pairs = dict(zip(row[:half].tolist(), held[:half].tolist(), strict=True))
    assert len(pairs) == half
    assert [pairs[key] for key in row[half:].tolist()] == wanted.tolist()


def test_windows_reach_no_answer_of_a_copy():
  reach = 2 * probe.WINDOW  # of two layers
  assert reach < probe.N // 2
  chance = 1 / probe.SYMBOLS
  for seed in probe.SEEDS:
    record = PROBES.get(probe.Item("copy", "windows", 0, probe.RATE, seed))
    assert record is None or record["right"][-1] < chance + 0.01


def test_a_ratio_of_times_is_taken_within_each_round():
  line = {"seconds": {"softmax": [1, 2, 10, 4], "local": [0.5, 1, 5, 2]}}
  assert time.ratio(line, "local") == (0.5, 0.5, 0.5)


def test_a_gap_is_taken_over_the_seeds_that_both_have(tmp_path):
  rng = np.random.default_rng(0)
  path = tmp_path / "runs.jsonl"
  targets = rng.integers(5, 50, 30)
  for model, seed, extra in (("softmax", 0, 0), ("hybrid", 0, 0.25),
                             ("hybrid", 1, 9)):  # fmt: skip
    sums = [[float(n * (1 + extra)), int(n)] for n in targets]
    line = vars(Item("bytes", 512, model, seed)) | {"documents": sums}
    grid.append(path, line)
  made = found.Found(path, tmp_path / "none")
  assert made.gap("bytes", 512, "hybrid") == pytest.approx((0.25,) * 3)
  assert made.gap("bytes", 1_024, "hybrid") is None


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  assert page_lib.renew(page, render.parts(FOUND)) == page
  for begin in render.parts(FOUND):
    assert begin in page


def test_the_figure_can_be_drawn(tmp_path):
  figures.figure(FOUND, tmp_path / "gap.png")
  assert (tmp_path / "gap.png").stat().st_size > 10_000


@pytest.mark.parametrize(
  "tokens, n, gap, flops",
  [
    ("bytes", 128, 0.010, 0.82),
    ("bytes", 512, 0.026, 0.58),
    ("bytes", 1_024, 0.039, 0.41),
    ("subwords", 128, 0.046, 0.84),
    ("subwords", 512, 0.068, 0.60),
  ],
)
def test_the_stack_is_not_behind_softmax_attention(tokens, n, gap, flops):
  value, _, high = FOUND.gap(tokens, n, "hybrid")
  assert high < 0 and value == pytest.approx(-gap, abs=6e-4)
  own, other = (
    FOUND.of(tokens, n, name)[0]["update_flops"]
    for name in ("hybrid", "softmax")
  )
  assert own / other == pytest.approx(flops, abs=6e-3)


def test_its_lead_gets_smaller_along_the_run_on_bytes():
  for n in (128, 512):
    first, *_, last = (
      FOUND.gap("bytes", n, "hybrid", step) for step in measure.STEPS
    )
    assert first[2] < last[1]  # The intervals do not meet.


def test_it_does_not_matter_what_is_above_windows_on_bytes():
  for base in ("local", "above"):
    value, low, high = FOUND.gap("bytes", 512, "hybrid", base=base)
    assert abs(value) < 0.01 and low < 0 < high
    first, *_ = FOUND.gap("bytes", 512, base, 1_200, base="hybrid")
    assert first == pytest.approx({"local": 0.03, "above": 0.0}[base], abs=5e-3)


def test_what_is_far_matters_on_subwords_and_slots_carry_half_of_it():
  gaps = {
    model: FOUND.gap("subwords", 512, model)
    for model in ("hybrid", "local", "above")
  }
  for model, value in {"hybrid": 0.068, "local": 0.028, "above": 0.097}.items():
    assert gaps[model][0] == pytest.approx(-value, abs=6e-4)
    assert gaps[model][2] < 0
  far, kept, lost = (
    FOUND.gap("subwords", 512, model, base=base)
    for model, base in (
      ("above", "local"), ("hybrid", "local"), ("hybrid", "above"))
  )  # fmt: skip
  assert far[0] == pytest.approx(-0.069, abs=6e-4)
  assert kept[0] < far[0] / 2 and kept[2] < 0 < lost[1]


def test_positions_with_a_period_cost_softmax_attention_alone():
  """At the same learning rate, after 1,200 updates."""
  before = grid.records(render.PERIODIC, Item)
  for model, least, most in (("softmax", 0.1, 1), ("hybrid", -0.01, 0.01)):
    item = Item("bytes", 512, model, step=1_200, updates=1_200, rate=2e-3)
    lost = before[item]["nats"] - FOUND.records[item]["nats"]
    assert least < lost < most


def test_an_update_takes_less_time_the_longer_the_rows():
  ratios = [
    time.ratio(FOUND.times[time.Item("bytes", n)], "hybrid")
    for n in sorted(measure.LENGTHS)
  ]
  for (_, low, _), (_, _, high) in zip(ratios, ratios[1:], strict=False):
    assert high < low < 1
  assert [round(middle, 2) for middle, _, _ in ratios] == [0.88, 0.53, 0.34]


def test_each_rate_of_a_baseline_is_the_best_of_those_tried():
  for where in measure.TRIED:
    for model, rates in measure.RATES.items():
      nats = {
        item.rate: FOUND.records[item]["nats"]
        for item in measure.pilots(*where)
        if item.model == model and item in FOUND.records
      }
      assert not nats or nats[rates[1]] == min(nats.values())
      if where == measure.TRIED[0]:
        assert model == "quarter" or len(nats) == len(rates)
