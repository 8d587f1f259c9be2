"""Draws the gap to softmax attention along the runs, and README's figure."""

import pathlib
import textwrap

import numpy as np
from matplotlib import figure as figure_lib

from experiments import runs
from experiments.hybrid import measure
from experiments.hybrid.found import Found
from experiments.mechanism import measure as mechanism
from experiments.perplexity import figures as curves

GAP = measure.RESULTS.with_name("gap.png")
SUMMARY = measure.RESULTS.with_name("summary.png")
TOKENS = 1_024  # of an update
COLORS = {
  "hybrid": "tab:blue",
  "local": "tab:green",
  "above": "tab:purple",
  "quarter": "tab:red",
}
SHORT = {
  "hybrid": f"{measure.SLOTS} slots above windows",
  "local": "windows alone",
  "above": "softmax above windows",
  "quarter": "k = n/4",
}
# (kind, size, label, color) of the cuts in the summary
CUTS = (
  ("rank", mechanism.N // 4, "rank n/4", "tab:red"),
  ("band", measure.WINDOW, f"{measure.WINDOW} rows on either side", "tab:blue"),
)


def _draw_gaps(axes, found: Found, tokens: str, n: int):
  """Draws the gap to softmax attention along the runs of one length."""
  lines = {"softmax attention": ("black", [(measure.UPDATES, 0.0, 0.0, 0.0)])}
  axes.axhline(0, color="black", linewidth=1.2)
  for model, color in COLORS.items():
    gaps = {step: found.gap(tokens, n, model, step) for step in measure.STEPS}
    rows = [(step, *gap) for step, gap in gaps.items() if gap]
    if rows:
      lines[SHORT[model]] = color, rows
  for label, (color, rows) in lines.items():
    step, value, low, high = np.transpose(rows)
    x = step * TOKENS / 1e6
    if len(rows) > 1:
      axes.errorbar(x, value, [value - low, high - value], color=color,
                    marker="o", markersize=4, capsize=2)  # fmt: skip
    text = textwrap.fill(label, 14)
    curves.label_end(axes, text, (x[-1], value[-1]), color, 1.05, fontsize=8)
  axes.set(title=f"{runs.NAMES[tokens]}, n = {n:,}", xlabel="million tokens")
  axes.grid(True, alpha=0.3)
  axes.margins(y=0.15)


def _spread(drawing, axes):
  """Lays a figure out, and moves labels of lines apart."""
  drawing.draw_without_rendering()
  drawing.set_layout_engine("none")
  for one in axes:
    curves.spread(one)


def figure(found: Found, to: pathlib.Path = GAP):
  """Draws the gap to softmax attention against tokens."""
  there = [
    (tokens, n)
    for tokens in runs.NAMES
    for n in sorted(measure.LENGTHS)
    if any(found.gap(tokens, n, model) for model in COLORS)
  ]
  rows = -(-len(there) // 3)
  drawing = figure_lib.Figure((11, 3.2 * rows), layout="constrained")
  axes = drawing.subplots(rows, min(3, len(there)), squeeze=False)
  for one, where in zip(axes.flat, there, strict=False):
    _draw_gaps(one, found, *where)
  for one in axes[:, 0]:
    one.set_ylabel("nats above softmax attention")
  for one in axes.flat[len(there) :]:
    one.remove()
  _spread(drawing, axes.flat[: len(there)])
  drawing.savefig(to, dpi=90)


def summary(found: Found, cuts, to: pathlib.Path = SUMMARY):
  """Draws the gap beside what cuts of a trained softmax model lose.

  Args:
    found: the runs.
    cuts: `experiments.mechanism.render.Cuts`.
    to: the file.
  """
  drawing = figure_lib.Figure((9.5, 3.6), layout="constrained")
  left, right = drawing.subplots(1, 2)
  _draw_gaps(left, found, "bytes", 512)
  left.set(ylabel="nats above softmax attention", title="trained, n = 512")
  places = [*range(mechanism.LAYERS), mechanism.ALL_LAYERS]
  names = [*map(str, range(mechanism.LAYERS)), "all"]
  for kind, size, label, color in CUTS:
    lost = [
      cuts.lost("bytes", mechanism.UPDATES, kind, layer, size)
      for layer in places
    ]
    value, low, high = np.transpose(lost)
    right.errorbar(names, value, [value - low, high - value], fmt="o",
                   color=color, capsize=3)  # fmt: skip
    right.annotate(label, (len(names) - 1, high[-1]), (6, 5), color=color,
                   ha="right", fontsize=8,
                   textcoords="offset points")  # fmt: skip
  right.set(
    title="softmax attention, cut at evaluation",
    xlabel="layers that are cut (n = 128)",
    ylabel="nats lost",
  )
  right.grid(True, alpha=0.3)
  right.margins(y=0.15)
  _spread(drawing, [left])
  drawing.savefig(to, dpi=100)
