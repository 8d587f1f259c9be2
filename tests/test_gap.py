"""The gap where neighbors do not decide: its runs and its page."""

import itertools

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
  return "" if model == "softmax" else "pool"


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
  assert found[0]["model"]["position_gain"] == 0
  assert found[0]["task"]["mask_span"] == measure.SPAN
  assert found[0]["train"]["batch_size"] * measure.N == 1_024


@pytest.mark.parametrize("layers", [4, 8, 12])
@pytest.mark.parametrize("model", measure.PARTS)
def test_the_lower_half_are_windows_and_the_upper_has_k(model, layers):
  item = Item(model, 1e-3, started(model), layers=layers)
  found = step.model_config(config(item)).layers
  lower, upper = found[: layers // 2], found[layers // 2 :]
  assert len(found) == layers
  assert {(x.name, x.window) for x in lower} == {("local", measure.WINDOW)}
  if model == "softmax":
    assert {x.name for x in upper} == {"softmax"}
  else:
    ks = {x.projected_length for x in upper}
    assert ks == {measure.N // measure.PARTS[model]}


def test_the_authors_start_is_theirs():
  made = config(Item("n/4", 1e-3, "authors", windows=False))
  (layer,) = set(step.model_config(made).layers)
  assert (layer.projection_init, layer.projection_std) == ("normal", 0.02)
  assert made.optimizer.projection_rate == 1


def test_runs_of_other_choices_have_other_folders():
  items = [
    *measure.items(),
    Item("n/2", 1e-3),
    Item("n/2", 1e-3, layers=8),
    Item("n/2", 1e-3, width=256),
    Item("n/2", 1e-3, updates=3_600),
  ]
  assert len(items) == len(set(items))
  assert len(items) == len({item.point().name for item in items})


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  parts = render.parts(grid.records(measure.RESULTS, Item))
  assert page_lib.renew(page, parts) == page
  for begin in parts:
    assert begin in page
