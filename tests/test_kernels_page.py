"""The page on kernels, and what its tables count."""

import pytest

from experiments import grid
from experiments import page as page_lib
from experiments.kernels import measure, render, tune
from experiments.kernels.measure import Item

FOUND = grid.records(measure.RESULTS, Item)


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  assert page_lib.renew(page, render.parts()) == page
  for begin in render.parts():
    assert begin in page


def test_items_are_different_and_the_results_are_of_some():
  items = measure.items()
  assert len(set(items)) == len(items) and set(FOUND) <= set(items)


def test_the_floor_in_closed_form():
  n, k, m, b = 4_096, 128, 768, 8
  item = Item("traffic", "sublayer", "v5e:1", n, k, passes="forward")
  rest = 4 * (2 * m * m + 2 * m) + 2 * 2 * b * k * m
  forward = 2 * 2 * b * n * m + rest
  assert measure.floor(item) == forward
  both = Item("traffic", "sublayer", "v5e:1", n, k)
  assert measure.floor(both) == forward + 3 * 2 * b * n * m + 2 * rest


def test_the_kernel_is_near_the_floor_and_far_below_xla():
  """What README of the page says: n of 4,096 and more."""
  found = [item for item in FOUND if item.group == "traffic"]
  assert found
  for item in found:
    record = FOUND[item]
    if item.layer == "sublayer" and item.n >= 4_096:
      other = FOUND[Item(**vars(item) | {"layer": "xla"})]
      assert record["bytes"] <= 1.25 * record["floor"]
      assert record["bytes"] <= 0.5 * other["bytes"]


def test_what_has_room_compiles():
  for item, record in FOUND.items():
    assert record["compiled"] == (record["message"] is None)
    if item.layer in ("sublayer", "slots") and record["rows"]:
      assert record["compiled"]


def test_tuning_needs_a_tpu():
  with pytest.raises(SystemExit, match="this times a TPU, and JAX runs on cpu"):
    tune.main([])
