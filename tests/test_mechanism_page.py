"""The page on the mechanism, and what its conclusions rest on."""

import json

import pytest

from experiments import page as page_lib
from experiments.mechanism import measure, render
from experiments.mechanism.measure import ALL_LAYERS, UPDATES

CUTS = render.Cuts()


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  assert page_lib.renew(page, render.parts(CUTS)) == page
  for begin in render.parts(CUTS):
    assert begin in page


def test_the_figure_can_be_drawn(tmp_path):
  render.figure(CUTS, tmp_path / "cuts.png")
  assert (tmp_path / "cuts.png").stat().st_size > 10_000


def test_every_model_read_the_text_of_the_manifest():
  path = measure.RESULTS.with_name("text.json")
  sources = json.loads(path.read_text())["sources"].values()
  held = sum(source["valid"]["documents"] for source in sources)
  for record in CUTS.records.values():
    assert len(record["documents"]) == held


@pytest.mark.parametrize("model", ["bytes", "subwords"])
def test_the_lowest_layer_needs_rank_and_the_upper_two_do_not(model):
  _, low, _ = CUTS.lost(model, UPDATES, "rank", 0, 32)
  assert low > 0.5
  for layer in (2, 3):
    _, _, high = CUTS.lost(model, UPDATES, "rank", layer, 8)
    assert high < 0.02


@pytest.mark.parametrize("model", ["bytes", "subwords"])
def test_near_rows_are_enough(model):
  _, _, high = CUTS.lost(model, UPDATES, "band", ALL_LAYERS, 8)
  assert high < 0.07
  _, low, _ = CUTS.lost(model, UPDATES, "rank", ALL_LAYERS, 32)
  assert low > 10 * high


def test_lists_every_item_once():
  items = measure.items()
  assert len(items) == len(set(items))
  one = measure.Item("bytes", 0, UPDATES, "rank", 2, 8)
  assert one in items
  names = [layer.name for layer in one.attention()]
  assert names == ["softmax", "softmax", "cut", "softmax"]
