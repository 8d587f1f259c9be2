"""The pages of the pretraining curves, and what their committed results say."""

import csv
import itertools
import math
import re

import numpy as np
import pytest
from matplotlib import colors, text

from configs import pretrain_small
from experiments import page as page_lib
from experiments.perplexity import (
  curves,
  figures,
  full_scale,
  panels,
  paper,
  render,
  sweep,
)
from linformer_jax import step
from linformer_jax.data import pipeline
from tests import perplexity_runs


@pytest.fixture(scope="module")
def all_runs():
  return perplexity_runs.every_run()


def test_gaps_of_the_paper():
  """As they follow from the ends of its curves."""
  gaps = {
    ("a", "n128-k16-u3600"): 0.095,
    ("a", "n128-k32-u3600"): 0.052,
    ("a", "n128-k64-u3600"): 0.025,
    ("b", "n256-k32-u3600"): 0.088,
    ("b", "n256-k64-u3600"): 0.045,
    # At 247,000 updates; softmax fell by 0.12 in the last 50,000.
    ("c", "n128-k32-layerwise"): 3.42 / (3.26 + 0.12 * 3 / 50) - 1,
    ("d", "n512-k32-u3600"): 4.43 / 3.98 - 1,
  }
  for name, panel in panels.PANELS.items():
    for point in panel.points:
      ratio = paper.final_ratio(name, point)
      if (name, point.name) in gaps:
        # Those of a and b are rounded to a tenth of a percent.
        assert abs(ratio - 1 - gaps[name, point.name]) < 5.1e-4
      if name in "eflpg" or point is panel.points[0]:
        assert ratio is None and paper.final_gap(name, point) is None
  names = {
    (x, point.name) for x in panels.PANELS for point in panels.PANELS[x].points
  }
  assert set(gaps) <= names


@pytest.mark.parametrize(
  ("name", "i", "ours", "softmax", "errors"),
  [("a", 1, 3.57, 3.26, (0.05, 0.05)), ("c", 2, 3.39, 3.2672, (0.02, 0.05))],
)
def test_errors_of_the_papers_gaps(name, i, ours, softmax, errors):
  """Those of both readings; panel c is read off a plot of a finer scale."""
  gap, error = paper.final_gap(name, panels.PANELS[name].points[i])
  assert gap == pytest.approx(math.log(ours) - math.log(softmax), abs=1e-4)
  squares = (errors[0] / ours) ** 2 + (errors[1] / softmax) ** 2
  assert error == pytest.approx(math.sqrt(squares), rel=1e-4)


def test_the_papers_scale_is_ready_to_launch():
  lines = full_scale.runs()
  assert len(lines) == 11
  for name, words in lines.items():
    for data in full_scale.DATA.values():
      words = [*words, *full_scale.COMMON, *data]
      config = sweep.config_of(words)
      step.model_config(config)
      pipeline.DataConfig(**config.data.to_dict())
      length = config.model.max_length
      assert name.startswith(f"n{length}-")
      assert config.train.batch_size * length == full_scale.TOKENS
      assert config.train.num_steps == 250_000
    assert words[0] in render.PAGE.read_text()


def test_the_time_of_a_run_at_the_papers_scale():
  """By the facts of the paper: 24 n d^2 + 4 n^2 d a layer, forward."""
  row = render.full_scale_time().splitlines()[2].split("|")
  assert row[1].strip() == "n512-softmax"
  n, d, layers, vocabulary, masked = 512, 768, 12, 50_265, 77
  forward = layers * (24 * n * d**2 + 4 * n**2 * d)
  forward += masked * (2 * d * vocabulary + 2 * d**2)
  needed = 3 * 256 * forward
  assert float(row[3]) == pytest.approx(needed / 1e12, abs=0.05)
  seconds = needed * 250_000 / (16 * 197e12)
  assert float(row[4]) == pytest.approx(seconds / 3600, abs=0.05)
  assert float(row[5]) == pytest.approx(seconds / 3600 / 0.4, abs=0.05)


def test_the_page_of_made_up_results(tmp_path):
  for name, panel in panels.PANELS.items():
    found = {}
    for run in sweep.runs(panel, "GLOB", str(tmp_path / "runs")):
      first = run.point is panel.points[0]
      end = (20.0 if first else 21.0) + run.seed
      perplexity_runs.leave(run, perplexities=(300.0, 90.0, end))
      found[run.name] = run.record()
    if name == "b":  # one is not done
      del found["n256-k32-u3600-s0"]
    curves.save(tmp_path / "results" / f"{name}.jsonl", found)
  parts = render.sections(tmp_path / "results")
  a, b, e, p = (parts[render.MARK.format(name)] for name in "abep")
  # 21/20 and 22/21, the mean of the two, beside the paper's.
  assert "| +4.9% (+4.8% to +5.0%) | +9.5% |" in a
  assert "**20.50 (20.00 to 21.00)**" in a
  assert "| k = 32 |  |  | – |" in b and "1 runs are not done yet" in b
  assert "the paper's" not in e.splitlines()[0]
  left = 2 * pretrain_small.UPDATES // 3  # the second of three evaluations
  assert f"| {left:,}, {left:,} |" in p and "panel_p.png" in p
  for name in "bp":  # with a run that is not done, and dots
    image = tmp_path / f"{name}.png"
    figures.draw(render.Curves(name, tmp_path / "results"), image)
    assert image.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a", "c", "d"])
def test_gaps_are_drawn_in_nats(name):
  """Differences of log perplexities, the paper's in the same colors."""
  found = render.Curves(name)
  _, axes = figures.figure(found).axes
  assert axes.get_yscale() == axes.get_xscale() == "linear"
  theirs = iter(axes.containers)
  points = found.panel.points
  for point, line in zip(points, axes.lines, strict=False):
    losses, base = (
      np.log([[row[-1] for row in x["evaluations"]] for x in of_seed.values()])
      for of_seed in (found.of(point), found.of(points[0]))
    )
    x, y = line.get_data()
    np.testing.assert_allclose(y, (losses - base).mean(0), atol=1e-12)
    rows = found.of(point)[0]["evaluations"]
    np.testing.assert_allclose(x, [row[1] / 1e6 for row in rows])
    black = colors.same_color(line.get_color(), "black")
    assert black == (point.label == "softmax")
    ratio = paper.final_ratio(name, point)
    if ratio:
      marker, _, _ = next(theirs)
      assert marker.get_ydata() == pytest.approx([math.log(ratio)])
      assert marker.get_xdata() > x[-1]  # beyond our tokens
      assert colors.same_color(marker.get_color(), line.get_color())
  assert next(theirs, None) is None


@pytest.mark.parametrize(
  "name", sorted(panels.PANELS.keys() - panels.OF_PLATEAUS)
)
def test_labels_of_lines_can_be_read(name):
  """In the order of the lines' ends, apart, inside and off the axes."""
  found = render.Curves(name)
  drawing = figures.figure(found)
  drawing.draw_without_rendering()
  for axes in drawing.axes:
    labels = sorted(axes.texts, key=lambda label: label.xy[1])
    told = {" ".join(label.get_text().split()) for label in labels}
    assert told == {point.label for point in found.panel.points}
    boxes = [text.Text.get_window_extent(label) for label in labels]
    for low, high in itertools.pairwise(boxes):
      assert low.y1 <= high.y0
    if name in "abd":  # The ends of lines are apart, so no label moves.
      moves = [label.get_position()[1] - label.xy[1] for label in labels]
      assert moves == pytest.approx([0] * len(moves), abs=1e-9)
    for box in boxes:
      assert drawing.bbox.containsy(box.y0) and drawing.bbox.containsy(box.y1)
      assert drawing.bbox.containsx(box.x1) and box.x0 > axes.bbox.x1
    assert min(label.get_fontsize() for label in labels) >= 8
    assert axes.get_legend() is None


@pytest.mark.parametrize("name", panels.OF_PLATEAUS)
def test_dots_are_the_ends_of_runs(name):
  """A dot for each run, hollow if the run has not left the plateau."""
  found = render.Curves(name)
  points = found.panel.points
  drawn = [
    [line for line in axes.lines if line.get_marker() == "o"]
    for axes in figures.figure(found).axes
  ]
  runs = [found.of(point)[x] for point in points for x in found.panel.seeds]
  assert len(runs) == len(points) * len(found.panel.seeds)
  for record, loss, updates in zip(runs, *drawn, strict=True):
    assert loss.get_xdata() == [pytest.approx(math.log(record["perplexity"]))]
    left = record["plateau_updates"]
    assert updates.get_xdata() == [left or record["step"]]
    hollow = updates.get_markerfacecolor() == "white"
    assert hollow == (left is None)
  rows = [round(line.get_ydata()[0]) for line in drawn[0]]
  labels = figures.figure(found).axes[0].get_yticklabels()
  assert [labels[row].get_text() for row in rows] == [
    point.label for point in points for _ in found.panel.seeds
  ]


def test_the_page_is_rendered_from_the_committed_results():
  page, parts = render.PAGE.read_text(), render.sections()
  assert all(mark in page for mark in parts)
  assert page_lib.renew(page, parts) == page
  for name in panels.PANELS:
    there = (curves.RESULTS / f"{name}.jsonl").exists()
    assert there == figures.path(name).exists()
    assert there == (parts[render.MARK.format(name)] != render.PENDING)


def test_the_table_has_every_evaluation():
  assert render.TABLE.read_text() == render.curves_table()
  rows = list(csv.DictReader(render.TABLE.open()))
  found = [curves.records(path) for path in curves.RESULTS.glob("*.jsonl")]
  assert len(rows) == sum(
    len(record["evaluations"]) for there in found for record in there.values()
  )
  last = [row for row in rows if row["panel"] == "c"][-1]
  assert last["model"] == "layerwise" and last["n"] == str(panels.N)
  shown = float(last["perplexity"])
  assert shown == end("c", f"k{panels.K}-layerwise", seed=1)


def test_committed_curves_are_of_todays_recipe_and_of_one_text(all_runs):
  by_length = {}
  for path in sorted(curves.RESULTS.glob("*.jsonl")):
    panel = panels.PANELS[path.stem]
    for name, record in curves.records(path).items():
      run = all_runs[name]
      names = {
        f"{p.name}-s{seed}" for p in panel.points for seed in panel.seeds
      }
      assert name in names
      matches = [x for x in names if curves.is_of(record, all_runs[x].config)]
      assert matches == [name]
      assert record["evaluations"][-1][-1] == record["perplexity"]
      assert record["evaluations"][-1][2] == pytest.approx(
        record["busy_seconds"], abs=0.02 + 1e-3 * record["busy_seconds"]
      )
      facts = record["unigram_perplexity"], record["targets"]
      length = run.config.model.max_length
      assert by_length.setdefault(length, facts) == facts, name


@pytest.mark.parametrize("name", ["a", "b"])
def test_perplexity_falls_with_k(name):
  """With every seed, and no k reaches softmax attention."""
  found = render.Curves(name)
  softmax, *by_k = found.panel.points
  ks = [int(re.search(r"k=(\d+)", point.argument)[1]) for point in by_k]
  assert ks == sorted(set(ks))
  for seed in found.panel.seeds:
    ends = [found.of(point)[seed]["perplexity"] for point in (*by_k, softmax)]
    assert ends == sorted(ends, reverse=True)


@pytest.mark.parametrize("seed", panels.PANELS["f"].seeds)
def test_starts_and_windows_close_the_gap(seed):
  """Half the gap of the authors' start is the target.

  Most of a window's gain is its own: the control with one slot has it, too.
  """
  found = render.Curves("f")
  softmax, authors, slow, fast, recipe, strided, near, control = (
    found.of(point)[seed] for point in found.panel.points
  )

  def gap(record):
    return record["perplexity"] / softmax["perplexity"] - 1

  assert gap(recipe) < 0.2 * gap(authors)
  assert gap(recipe) < gap(fast) < gap(strided) < 0.5 * gap(authors)
  for record in (authors, slow):
    assert record["plateau_updates"] is None
  for record in (fast, recipe, strided, near, control):
    assert record["plateau_updates"]
  assert gap(near) < gap(control) < 0
  flops = [x["evaluations"][-1][3] for x in (near, recipe, softmax)]
  assert flops == sorted(flops)
  assert near["parameters"] < recipe["parameters"]


def test_the_window_keeps_its_lead_for_longer():
  found = render.Curves("l")
  softmax, linear, near, control = (
    found.of(point)[0] for point in found.panel.points
  )
  ends = [x["perplexity"] for x in (near, control, softmax, linear)]
  assert ends == sorted(ends)
  flops = [x["evaluations"][-1][3] for x in (control, near, linear, softmax)]
  assert flops == sorted(flops)


def end(name, point, seed=0):
  """The last perplexity of a point, by its name without the panel's n."""
  return curves.records(curves.RESULTS / f"{name}.jsonl")[
    f"n{panels.N}-{point}-s{seed}"
  ]["perplexity"]


def test_shared_projections_are_alike_and_own_ones_ahead():
  for seed in panels.PANELS["c"].seeds:
    shared = [
      end("c", f"k{panels.K}-{sharing}", seed)
      for sharing in ("headwise", "key_value", "layerwise")
    ]
    assert max(shared) / min(shared) < 1.03
    assert end("c", f"k{panels.K}", seed) < 0.9 * min(shared)


def test_the_start_of_e_keeps_a_model_on_the_plateau():
  """At full rank: from the identity it leaves, from random numbers it stays."""
  found = render.Curves("p")
  for point in found.panel.points:
    for seed in found.panel.seeds:
      left = found.of(point)[seed]["plateau_updates"]
      leaves = "identity" in point.name or "noisy" in point.name
      assert (left is not None) == (leaves or point == found.panel.points[0])
  for seed in found.panel.seeds:
    frozen = end("p", f"k{panels.N}-identity-frozen", seed)
    assert frozen == pytest.approx(end("p", "softmax", seed), rel=0.01)


def test_the_reach_of_heads_keeps_a_model_on_the_plateau():
  found = render.Curves("q")
  left = {
    point.name: found.of(point)[0]["plateau_updates"]
    for point in found.panel.points
  }
  assert left["n16-softmax-free"] < left["n32-softmax-free"] <= 600
  for n in (64, 128):
    assert left[f"n{n}-softmax-free-u3600"] is None
  for n in (128, 512):
    assert left[f"n{n}-local-free"] <= 600


def test_perplexity_rises_with_n_at_one_k():
  """Fewer slots a row: k has to grow with n, unlike in the paper."""
  found = render.Curves("d")
  for seed in found.panel.seeds:
    points = [found.of(point)[seed] for point in found.panel.points]
    lengths = [record["config"]["data.sequence_length"] for record in points]
    assert lengths == sorted(lengths)
    ends = [record["perplexity"] for record in points]
    assert ends == sorted(ends)


def test_a_taper_is_ahead_and_convolutions_and_maxima_equal_an_own_e():
  for seed in render.Curves("e").panel.seeds:
    linear = end("e", f"k{panels.K}", seed)
    assert end("e", "tapered", seed) < linear
    mean = end("e", f"k{panels.K}-mean_pool", seed)
    for kind in ("max_pool", "convolution"):
      assert end("e", f"k{panels.K}-{kind}", seed) == pytest.approx(
        linear, rel=0.04
      )
    shared = end("c", f"k{panels.K}-headwise", seed)
    assert mean == pytest.approx(shared, rel=0.04)
    assert mean > 1.2 * linear
    for kind in ("random", "convolution-drawn"):
      assert end("e", f"k{panels.K}-{kind}", seed) > 2 * linear


def test_what_leaves_the_plateau_sooner():
  """A larger k, and more tokens an update; width 128 at this learning rate."""
  found = render.Curves("g")
  for seed in found.panel.seeds:
    recipe, small, large, few, many, narrow, wide = (
      found.of(point)[seed] for point in found.panel.points
    )
    for order in ((small, recipe, large), (few, recipe, many)):
      for field in ("plateau_updates", "perplexity"):
        values = [record[field] for record in order]
        assert values == sorted(values, reverse=True)
    for other in (narrow, wide):
      assert recipe["plateau_updates"] < other["plateau_updates"]
      assert recipe["perplexity"] < other["perplexity"]


def mean_gap(name, point):
  """Over the panel's first point, the mean of the seeds."""
  found = render.Curves(name)
  (point,) = (one for one in found.panel.points if one.name == point)
  ends = [curve[-1][1] for curve in found.ratios(point)]
  return sum(ends) / len(ends) - 1


def test_the_page_tells_the_gaps_of_the_panels():
  text = " ".join(render.PAGE.read_text().split())
  linear, tapered = (
    mean_gap("e", f"n{panels.N}-{one}") for one in (f"k{panels.K}", "tapered")
  )
  assert f"from {linear:.0%} to {tapered:.0%} at equal parameters" in text
  nats = [
    math.log1p(mean_gap("a", point.name))
    for point in panels.PANELS["a"].points[:0:-1]
  ]
  assert (
    "it is {:.2f} at k = n/2, {:.2f} at n/4 and {:.2f}".format(*nats) in text
  )
