"""Probes: what they ask for, and how answers are counted."""

import jax
import numpy as np
import pytest

from experiments import grid
from experiments import page as page_lib
from experiments.probes import loop, measure, render
from experiments.probes.measure import Item
from linformer_jax import attention

ROWS = 5
NAMES = (
  frozenset(  # before another test adds its own; the probes look both ways
    name for name, kind in attention.ATTENTIONS.items() if not kind.one_way
  )
)


def drawn(task):
  return jax.device_get(measure.TASKS[task](jax.random.key(0), ROWS))


def test_every_attention_is_probed():
  assert len(set(measure.items())) == len(measure.items())
  names = set()
  for model in measure.MODELS:
    names |= {layer.name for layer in Item("copy", model).config().layers}
  assert names == NAMES


@pytest.mark.parametrize("task", ["copy", "needle", "recall"])
def test_answers_stand_at_their_distance(task):
  batch = drawn(task)
  assert batch.tokens.shape == batch.segments.shape == (ROWS, measure.N)
  for i in range(ROWS):
    where = batch.asked[i] - batch.distance[i]
    assert (where >= 0).all() and (where < measure.HALF).all()
    source = batch.segments if task == "recall" else batch.tokens
    np.testing.assert_array_equal(source[i, where], batch.answers[i])
    if task == "recall":  # the value stands with the key that is asked for
      asking = batch.tokens[i, batch.asked[i]]
      np.testing.assert_array_equal(batch.tokens[i, where], asking)
    if task == "needle":
      assert batch.segments[i].sum() == batch.segments[i, where[0]] == 1
  if task != "copy":
    assert len(np.unique(batch.distance)) > 10


def test_a_majority_is_of_its_block():
  batch = drawn("majority")
  for i, j in np.ndindex(ROWS, measure.N):
    block = measure.BLOCKS[batch.segments[i, j] - 1]
    start = j // block * block
    counts = np.bincount(batch.tokens[i, start : start + block])
    assert batch.answers[i, j] == counts.argmax()
  assert 0.3 < (batch.segments == 1).mean() < 0.7


def test_shares_are_by_distance():
  hits = np.array([True, False, True, True])
  got = loop.by_distance(hits, np.array([1, 16, 17, 64]), 64)
  assert got == [0.5, 1.0, None, 1.0]


@pytest.mark.slow
def test_a_run_finds_the_needle():
  """All that softmax attention needs is one head that looks at marks."""
  schedule = loop.Schedule(3e-3, 400, 100, tested=64)
  config = Item("needle", "softmax").config()
  found = loop.train(config, measure.needle, schedule, 0)
  assert found["right"][-1] > 0.9
  assert found["by_distance"][1] > 0.8


def test_tables_hold_ranges_over_seeds():
  records = {
    Item("recall", "luna", seed): {
      "right": [0.5, 0.25 + seed / 2],
      "by_distance": [None, 0.5, 0.25, seed / 10],
    }
    for seed in (0, 1)
  }
  assert "| Luna | 2 |  | 25 to 75, after 200 |  |  |" in render.answers(
    records
  )
  assert "| recall | Luna |  | 50 | 25 | 0 to 10 |" in render.distances(records)


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  parts = render.parts(grid.records(measure.RESULTS, Item))
  assert page_lib.renew(page, parts) == page
  for begin in parts:
    assert begin in page
