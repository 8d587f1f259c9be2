"""The two-scale task, its runs and its page."""

import jax
import numpy as np
import pytest

from experiments import grid
from experiments import page as page_lib
from experiments.adamra import measure, render
from experiments.adamra.measure import Item


def test_answers_are_those_of_the_flags():
  tokens, flags, answers = map(np.asarray, measure.draw(jax.random.key(0), 4))
  assert flags[:, : measure.BACK].all()
  assert 0.4 < flags.mean() < 0.6
  for row, asked, wanted in zip(tokens, flags, answers, strict=True):
    for i in range(measure.N):
      start = i // measure.BLOCK * measure.BLOCK
      counts = np.bincount(row[start : start + measure.BLOCK])
      most = counts.argmax()
      assert wanted[i] == (most if asked[i] else row[i - measure.BACK])


def test_the_floor_counts_and_copies_by_chance():
  copied, counted = measure.floor()
  assert counted == 1 and 1 / measure.SYMBOLS < copied < 0.5


def test_all_models_have_the_same_size_but_for_routers_and_projections():
  assert len(set(measure.items())) == len(measure.items()) == 21
  names = {item.config().layers[0].name for item in measure.items()}
  assert names == {"adamra", "linear", "linformer"}


@pytest.mark.slow
def test_a_run_tells_answers_and_routes(monkeypatch):
  """Shares of one resolution or another sum to one, by layer and flag."""
  monkeypatch.setattr(measure, "EVERY", 2)
  monkeypatch.setattr(measure, "BATCH", 2)
  monkeypatch.setattr(measure, "TESTED", 4)
  found = measure.measure(Item("hard"), updates=4)
  assert np.shape(found["right"]) == (2, 2)
  for name in ("weights", "chosen"):
    shares = np.array(found[name])
    assert shares.shape == (2, 2, len(measure.RATIOS))
    np.testing.assert_allclose(shares.sum(-1), 1, atol=3e-4)  # rounded
  assert "copies" in measure.tell({"model": "hard", "seed": 0} | found)


def record(seed):
  rng = np.random.default_rng(seed)
  weights = rng.dirichlet(np.ones(3), (2, 2))
  return {
    "right": [[0.5, 0.25 + seed / 4]],
    "weights": weights.tolist(),
    "chosen": weights[..., ::-1].tolist(),
    "parameters": 1_000,
  }


def test_tables_hold_means_over_seeds(tmp_path):
  records = {Item("soft", seed): record(seed) for seed in (0, 1)}
  records[Item("hard")] = record(0)
  row = (
    "| AdaMRA, soft | 1,000 | 2 | 50.0 (50.0 to 50.0) | 37.5 (25.0 to 50.0) |"
  )
  assert row in render.answers(records)
  assert "| AdaMRA, hard | 1,000 | 1 | 50.0 | 25.0 |" in render.answers(records)
  soft = np.mean([record(seed)["weights"] for seed in (0, 1)], 0)
  cells = " | ".join(f"{100 * x:.0f}" for x in soft[1, 0])
  assert f"| soft | 1 | copy | {cells} |" in render.routes(records)
  render.figure(records, tmp_path / "x.png")
  assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  parts = render.parts(grid.records(measure.RESULTS, Item))
  assert page_lib.renew(page, parts) == page
  for begin in parts:
    assert begin in page
