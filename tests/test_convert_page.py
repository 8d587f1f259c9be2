"""The page on converting MiniLM, and what its conclusions rest on."""

import numpy as np
import pytest

from experiments import grid
from experiments import page as page_lib
from experiments.convert import compare, longer, measure, render
from experiments.convert import time as time_lib
from experiments.convert.measure import Item

FOUND = grid.records(measure.RESULTS, Item)


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  assert page_lib.renew(page, render.parts()) == page
  for begin in render.parts():
    assert begin in page


def test_every_item_is_there_once_and_of_one_model():
  items = measure.items()
  assert len(set(items)) == len(items) and set(FOUND) <= set(items)
  for name in render.NAMES:
    read = {record["sets"][name]["tokens_sha256"] for record in FOUND.values()}
    assert len(read) == 1
  assert len({record["weights_sha256"] for record in FOUND.values()}) == 1


def test_ties_have_their_mean_rank():
  assert compare.ranks([3, 1, 3, 2]).tolist() == [2.5, 0, 2.5, 1]
  a = np.array([0.1, 0.5, 0.2, 0.9])
  assert compare.spearman(a, a**3) == pytest.approx(1)
  assert compare.spearman(a, -a) == pytest.approx(-1)


def test_the_speedup_is_over_the_faster_softmax():
  line = {"seconds": {"softmax": [3, 4, 9], "other": [5], "slots": [2, 2, 1]}}
  assert time_lib.ratio(line) == 2


def test_training_on_starts_from_what_was_stretched(tmp_path):
  made = longer.Runs("texts", str(tmp_path), "pretrained")
  trained = [item for item in longer.items() if item.updates]
  assert len(trained) == 4
  for item in trained:
    run = made.run(item)
    assert f"--init_from={tmp_path}/{item.point().name}-start" in run.words
    assert run.config.data.sequence_length == item.n
    assert run.config.train.num_steps == longer.UPDATES
    offset = 2 if item.model == "softmax" else 0
    assert run.config.model.position_offset == offset
