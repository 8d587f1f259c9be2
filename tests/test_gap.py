"""The gap where all models see their neighbors: its runs and its page."""

import itertools

import numpy as np
import pytest

from experiments import grid
from experiments import page as page_lib
from experiments.gap import measure, render
from experiments.gap.measure import Item
from experiments.perplexity import sweep
from linformer_jax import step


def config(item):
  return sweep.config_of(item.point().words(item.seed))


def started(model):
  return "pool" if measure.PARTS[model] else ""


@pytest.mark.parametrize("windows", [True, False])
def test_models_differ_in_attention_alone(windows):
  found = []
  for model in measure.PARTS:
    made = config(Item(model, 1e-3, started(model), windows=windows))
    values = made.to_dict()
    values.pop("attention")
    values["optimizer"].pop("projection_rate")
    found.append(values)
  for one, other in itertools.pairwise(found):
    assert one == other
  assert found[0]["task"]["mask_span"] == 1
  assert found[0]["train"]["batch_size"] * measure.N == 1_024


@pytest.mark.parametrize("layers", [4, 8, 12])
@pytest.mark.parametrize("model", measure.PARTS)
def test_the_lower_half_are_windows_and_the_upper_has_k(model, layers):
  item = Item(model, 1e-3, started(model), layers=layers)
  found = step.model_config(config(item)).layers
  lower, upper = found[: layers // 2], found[layers // 2 :]
  assert len(found) == layers
  assert {(x.name, x.window) for x in lower} == {("local", measure.WINDOW)}
  if not measure.PARTS[model]:
    assert {x.name for x in upper} == {model}
  else:
    ks = {x.projected_length for x in upper}
    assert ks == {measure.N // measure.PARTS[model]}


def test_the_authors_start_is_theirs():
  made = config(Item("n/4", 1e-3, "authors", windows=False))
  (layer,) = set(step.model_config(made).layers)
  assert (layer.projection_init, layer.projection_std) == ("normal", 0.02)
  assert made.optimizer.projection_rate == 1


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_both_models_have_the_norm_of_the_item(norm):
  for model in measure.PARTS:
    item = Item(model, 1e-3, started(model), norm=norm)
    assert config(item).model.norm_position == norm


def test_no_head_of_the_first_pilots_starts_on_a_neighbor():
  for item in measure.free():
    made = config(item)
    model = made.model
    assert (model.position_init, model.initializer_std) == ("sinusoidal", 0)
    assert made.task.mask_span == measure.SPAN
  assert config(measure.pilots()[0]).model.position_init == "neighbours"


def test_runs_of_other_choices_have_other_folders():
  items = measure.items()
  assert len(items) == len(set(items))
  assert len(items) == len({(item.point().name, item.seed) for item in items})


def record(nats, documents=40, spread=0.0):
  """Returns a result with the same targets everywhere."""
  rng = np.random.default_rng(0)
  losses = 100 * (nats + spread * rng.normal(size=documents))
  return {"nats": nats, "documents": [[loss, 100] for loss in losses]}


def halving():
  """Returns runs whose gap falls as 1 / sqrt(updates), and the softmax's."""
  found = {}
  for updates in measure.LENGTHS:
    base = measure.chosen("softmax", updates=updates)
    found[base] = record(6 - 0.5 * np.log(updates))
    gap = 10 / np.sqrt(updates)
    loss = found[base]["nats"] + gap
    found[measure.chosen("n/4", updates=updates)] = record(loss, spread=0.01)
  return found


def test_a_gap_is_over_the_softmax_model_of_the_same_run():
  records = halving()
  for updates in measure.LENGTHS:
    item = measure.chosen("n/4", updates=updates)
    value, low, high = render.gap(records, item)
    assert value == pytest.approx(10 / np.sqrt(updates), abs=0.01)
    assert low < value < high
  assert render.gap(records, measure.chosen("n/2")) is None
  assert render.gap(records, measure.chosen("n/4", seed=1)) is None


def test_the_exponent_of_a_gap_that_falls_as_a_root_is_a_half():
  value, low, high = render.slope(halving(), "n/4")
  assert value == pytest.approx(-0.5, abs=0.01)
  assert low < value < high
  assert render.slope(halving(), "n/2") is None


def test_a_gap_that_may_be_none_has_no_exponent():
  records = halving()
  item = measure.chosen("n/4", updates=measure.LENGTHS[2])
  base = measure.chosen("softmax", updates=measure.LENGTHS[2])
  records[item] = record(records[base]["nats"] + 1e-3, spread=0.1)
  assert render.slope(records, "n/4") is None


def test_softmax_attention_needs_the_updates_at_which_its_loss_is_that():
  records = halving()
  item = measure.chosen("n/4", updates=measure.LENGTHS[2])
  records[item] = record(6 - 0.5 * np.log(2_000))
  needed = render._needed(records, item)
  assert needed == pytest.approx(2_000, rel=1e-6)
  records[item] = record(9.0)
  assert render._needed(records, item) is None


def test_the_paper_stands_beside_the_same_ratio():
  """3.57, 3.43 and 3.34 against 3.26 where the curves of Figure 3a end."""
  for model, perplexity in (("n/8", 3.57), ("n/4", 3.43), ("n/2", 3.34)):
    nats = float(render._theirs(model).split()[0])
    assert nats == pytest.approx(np.log(perplexity / 3.26), abs=5e-4)


def test_a_quarter_of_the_slots_keep_most_of_what_is_far():
  records = grid.records(measure.RESULTS, Item)
  for updates, lost, far, share in (
    (1_200, 0.019, 0.078, 3 / 4), (3_600, 0.006, 0.069, 9 / 10)
  ):  # fmt: skip
    slots, windows = (
      render.gap(records, measure.chosen(model, updates=updates))
      for model in ("n/4", "local")
    )
    assert slots[0] == pytest.approx(lost, abs=6e-4)
    assert windows[0] == pytest.approx(far, abs=6e-4)
    assert slots[2] < windows[1]
    assert 1 - slots[0] / windows[0] == pytest.approx(share, abs=0.03)
    assert slots[2] < 0.051 - 0.021  # no larger than the paper's


def test_fewer_slots_lose_more():
  records = grid.records(measure.RESULTS, Item)
  few, more = (
    render.gap(records, measure.chosen(model, updates=3_600))
    for model in ("n/8", "n/4")
  )
  assert few[0] == pytest.approx(0.021, abs=6e-4)
  assert few[1] > more[2] and few[2] < 0.091 - 0.021


def test_each_rate_is_the_best_of_the_pilots_that_are_there():
  records = grid.records(measure.RESULTS, Item)
  for kind, (rate, start) in measure.CHOSEN.items():
    nats = {
      item.rate: records[item]["nats"]
      for item in measure.pilots()
      if item in records and item.norm == "post"
      and (item.model == "softmax") == (kind == "softmax")
      and item.start == start
    }  # fmt: skip
    assert kind == "local" or nats[rate] == min(nats.values())


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  parts = render.parts(grid.records(measure.RESULTS, Item))
  assert page_lib.renew(page, parts) == page
  for begin in parts:
    assert begin in page
