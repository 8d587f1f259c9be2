"""The reduced Arena: its grid, its unmasked Linformer, and its page."""

import pathlib

import jax
import numpy as np
import pytest

from experiments import grid, timing
from experiments import page as page_lib
from experiments.lra import config, cost, measure, render
from experiments.lra.measure import Item
from experiments.perplexity import sweep
from linformer_jax import step
from linformer_jax.attention import ATTENTIONS
from linformer_jax.data import pipeline
from linformer_jax.tasks import classification

FOLDER = pathlib.Path("none")
NAMES = (
  frozenset(  # before another test adds its own; these tasks read all rows
    name for name, kind in ATTENTIONS.items() if not kind.one_way
  )
)


def test_the_grid_has_every_attention_and_no_copy():
  items = measure.items()
  assert len(set(items)) == len(items)
  names = set()
  for task in measure.TASKS:
    for model in measure.MODELS:
      if measure.fits(task, model):
        made = sweep.config_of(Item(task, model, 1e-3).words(FOLDER))
        names |= {layer.name for layer in step.model_config(made).layers}
  assert names == NAMES
  assert {item.task for item in measure.pilots()} == set(measure.TASKS)
  assert all(item.split == "valid" for item in measure.pilots())


@pytest.mark.parametrize("model", measure.PRETRAINED)
def test_pretraining_gives_the_encoder_that_is_fine_tuned(model):
  encoders = []
  for objective in ("label", "masked_lm"):
    words = Item("listops", model, 1e-3).words(FOLDER, objective)
    shapes = step.abstract_shapes(sweep.config_of(words))
    encoders.append(shapes.params["encoder"])
  assert jax.tree.structure(encoders[0]) == jax.tree.structure(encoders[1])
  assert jax.tree.leaves(encoders[0]) == jax.tree.leaves(encoders[1])


def test_without_masks_padding_counts():
  """The rows are those of a classification, but for the mask."""
  masked, plain = (
    step.task_of(sweep.config_of(Item("digits", name, 1e-3).words(FOLDER)))
    for name in ("slots16", measure.UNMASKED)
  )
  assert type(masked) is classification.Classification
  data = pipeline.Dataset((), ())
  record = {"text": np.arange(5, 9), "pair": np.zeros(0, int), "label": 1}
  one, other = (t.example(record, None, data) for t in (masked, plain))
  assert one["mask"].sum() == 6 and other["mask"].all()
  for name in ("tokens", "label", "weight"):
    np.testing.assert_array_equal(one[name], other[name])
  assert masked.model == plain.model


def record(accuracy):
  return {"accuracy": accuracy, "majority": 0.1, "run_seconds": 60.0}


def test_tables_hold_means_over_seeds_and_published_numbers(tmp_path):
  rate = measure.CHOSEN["text"]
  records = {
    Item("text", "official", rate, 0): record(0.5),
    Item("text", "official", rate, 1): record(0.6),
    Item("text", "official", rate, 0, pretrained=True): record(0.7),
    Item("text", "softmax", rate, 0): record(0.8),
    Item("text", "softmax", 3e-3, split="valid"): record(0.2),
  }
  label = measure.MODELS["official"][0]
  row = f"| {label} |  | 35.70 (A) | 55.0 ± 7.1 | 53.94 (A) |  | 38.56 (A) |"
  assert row in render.scores(records)
  row = "| the most frequent label |  |  | 10.0 |  |  |  |"
  assert row in render.scores(records)
  assert f"| {label} |  |  | 55.0 ± 7.1 | 70.0 |" in render.starts(records)
  assert "| text | softmax attention |  |  | 20.0 |" in render.pilots(records)
  seconds = {"softmax": [2.0] * 4, "official": [1.0] * 4}
  timed = {
    cost.Item("text"): {
      "seconds": seconds,
      "bytes": {"softmax": 4, "official": 1},
    }
  }
  assert f"| {label} | 0.50 (0.50 to 0.50) | 0.25 |" in render.costs(timed)
  render.figure(records, timed, tmp_path / "x.png")
  assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_front_has_what_no_other_beats():
  points = {"a": (1.0, 50.0), "b": (0.5, 40.0), "c": (0.7, 39.0), "d": (1, 49)}
  assert render.front(points) == ["a", "b"]


@pytest.mark.slow
def test_updates_are_timed_in_turns(monkeypatch):
  monkeypatch.setattr(timing, "ROUNDS", 2)
  monkeypatch.setitem(config.TASKS, "digits", (17, 16, 10, 2, 2))
  words = Item("digits", "softmax", 1e-3).words(FOLDER)
  found = timing.in_turns({"softmax": sweep.config_of(words)})
  assert len(found["seconds"]["softmax"]) == 2
  assert found["bytes"]["softmax"] > 0
  middle, low, high = timing.ratio(found["seconds"], "softmax")
  assert middle == low == high == 1


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  parts = render.parts(
    grid.records(measure.RESULTS, Item), grid.records(cost.RESULTS, cost.Item)
  )
  assert page_lib.renew(page, parts) == page
  for begin in parts:
    assert begin in page
