"""The task of the decoder, its greedy targets and its page."""

import jax
import numpy as np
import pytest

from experiments import page as page_lib
from experiments.seq2seq import cost, measure, render
from tests import arrays


def test_a_target_is_the_letters_of_the_source_in_reverse():
  source, target = jax.device_get(measure.draw(jax.random.key(0), 30))
  for row, letters in zip(source, target, strict=True):
    found = row[(row >= 1) & (row <= measure.LETTERS)]
    np.testing.assert_array_equal(found[::-1], letters)
    assert (row != measure.BEGIN).all() and len(row) == measure.N
  read = np.asarray(measure.inputs(target))
  np.testing.assert_array_equal(read[:, 1:], target[:, :-1])
  assert (read[:, 0] == measure.BEGIN).all()


@pytest.mark.slow
def test_greedy_targets_are_those_of_the_whole_forward_pass():
  model = measure.Item("slots16").model()
  source, target = measure.draw(jax.random.key(0), 3)
  variables = arrays.filled(model, source, target)
  written = np.asarray(measure.write(model, variables, source))
  logits = model.apply(variables, source, measure.inputs(written))
  np.testing.assert_array_equal(written, logits.argmax(-1))


@pytest.mark.slow
def test_a_run_is_scored(monkeypatch):
  monkeypatch.setattr(measure, "EVERY", 2)
  monkeypatch.setattr(measure, "TESTED", 4)
  found, _ = measure.train(measure.Item("slots16"), updates=4)
  assert len(found["right"]) == 2 and 0 <= found["rows_right"] <= 1
  assert "of the letters" in measure.tell(
    found | {"cross": "softmax", "seed": 0}
  )


def test_tables_hold_what_was_found():
  def record(right):
    return {"right": [0.1, right], "rows_right": 0.5, "parameters": 1_000}

  records = {
    measure.Item("softmax", s): record(x) for s, x in ((0, 1), (1, 0.9))
  }
  table = render.scores(records)
  assert "| softmax attention | 1,000 | 2 | 95.0 ± 7.1 | 50.0 ± 0.0 |" in table
  seconds = dict.fromkeys(measure.MODELS, [1e-3, 2e-3, 3e-3])
  table = render.times({cost.Item(1_024): {"seconds": seconds}})
  assert "| Linformer, k = 64 | 2.00 (1.50 to 2.50) |  |  |  |" in table


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  assert page_lib.renew(page, render.parts()) == page
