"""Draws each panel: losses and gaps against tokens, or where the runs end."""

import pathlib
import textwrap

import matplotlib
import numpy as np
from matplotlib import figure as figure_lib
from matplotlib import text, ticker

from experiments.perplexity import curves, panels, paper

_ORDERED = ("a", "b", "d")  # panels whose points differ in k or n
_STYLE = {
  "font.size": 9,
  "axes.titlesize": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.alpha": 0.3,
  "lines.markersize": 4,
  "patch.linewidth": 0,
}
_LABEL = 22  # characters in a line of a label
_LEADER = {"arrowstyle": "-", "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 0}
_STRIP = 0.05  # of the tokens, for each of the paper's points


def path(name: str) -> pathlib.Path:
  """Returns the path of a panel's figure."""
  return curves.RESULTS / f"panel_{name}.png"


def draw(found, to: pathlib.Path | None = None):
  """Saves the figure of `render.Curves`, by default at `path`."""
  figure(found).savefig(to or path(found.name), dpi=120)


def figure(found) -> figure_lib.Figure:
  """Returns the figure of a panel: two axes side by side."""
  points = [point for point in found.panel.points if found.of(point)]
  dots = found.name in panels.OF_PLATEAUS
  height = 1.2 + 0.25 * len(points) if dots else 3.8
  with matplotlib.rc_context(_STYLE):
    drawing = figure_lib.Figure((9, height), layout="constrained")
    drawing.suptitle(f"{found.panel.title} (reduced scale, CPU)")
    axes = drawing.subplots(1, 2, sharey=dots)
    (_dots if dots else _lines)(found, points, *axes)
  return drawing


def _colors(found) -> dict:
  """Returns each point's color: black for softmax, viridis by k or n."""
  others = [x for x in found.panel.points if "softmax" not in x.name]
  palette = matplotlib.colormaps["tab10"].colors
  if found.name in _ORDERED:
    palette = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(others)))
  black = dict.fromkeys(found.panel.points, "black")
  return black | dict(zip(others, palette, strict=False))


def _lines(found, points, losses, gaps):
  """Draws losses and gaps to the first point against tokens."""
  colors = _colors(found)
  for point in points:
    records = found.of(point).values()
    rows = np.array([record["evaluations"] for record in records])
    tokens = rows[0, :, curves.COLUMNS.index("tokens")]
    _line(losses, tokens, rows[..., -1], point.label, colors[point])
    if found.ratios(point):
      shared, ratios = np.array(found.ratios(point)).transpose(2, 0, 1)
      _line(gaps, shared[0], ratios, point.label, colors[point])
  end = tokens[-1] / 1e6
  ticks = ticker.MaxNLocator(4).tick_values(0, end)
  for axes in (losses, gaps):
    axes.set(xlabel="tokens (millions)", xticks=ticks, xlim=(0, end))
  losses.set_ylabel("validation loss (nats per masked token)")
  gaps.set_ylabel(f"gap to {found.panel.points[0].label} (nats)")
  theirs = [(paper.final_gap(found.name, x), colors[x]) for x in points]
  _paper(gaps, [(gap, color) for gap, color in theirs if gap], end)
  gaps.figure.draw_without_rendering()  # sets the limits and the layout
  gaps.figure.set_layout_engine("none")
  for axes in (losses, gaps):
    spread(axes)


def _line(axes, tokens, perplexities, label, color):
  """Draws the mean log of perplexities `[seeds, tokens]`, and their range."""
  x, y = tokens / 1e6, np.log(perplexities)
  axes.plot(x, y.mean(0), color=color)
  axes.fill_between(x, y.min(0), y.max(0), color=color, alpha=0.25)
  words = textwrap.fill(label.replace(" × ", "\xa0×\xa0"), _LABEL)
  label_end(axes, words, (x[-1], y[:, -1].mean()), color)


def label_end(axes, text, end, color, out=1.03, **style):
  """Writes a label beside the axes, with a leader to the end of its line.

  Args:
    axes: the axes; `spread` moves its labels apart.
    text: the label.
    end: (x, y) of the end of the line, in data.
    color: of the line.
    out: where the label begins, in widths of the axes.
    **style: of the text.
  """
  axes.annotate(
    text,
    end,
    (out, end[1]),
    textcoords=axes.get_yaxis_transform(),
    va="center",
    color=color,
    arrowprops=_LEADER | {"color": color, "linewidth": 0.6},
    **style,
  )


def _paper(axes, theirs, end):
  """Draws the paper's ((gap, error), color) in a strip beyond the runs."""
  if theirs:
    *xs, right = end * (1 + _STRIP * np.arange(1, len(theirs) + 2))
    for x, (gap, color) in zip(xs, theirs, strict=True):
      axes.errorbar(x, *gap, fmt="o", mfc="white", capsize=3, color=color)
    axes.axvspan(end, right, color="black", alpha=0.06)
    axes.set_xticks([x for x in axes.get_xticks() if x <= end])
    axes.set_xlim(0, right)
    axes.set_title("paper", loc="right")


def spread(axes):
  """Moves labels up and down, as little as possible, until none overlap.

  Args:
    axes: its texts are annotations of line ends; the figure has been laid out.
  """
  pixel = np.ptp(axes.get_ylim()) / axes.bbox.height  # in units of the axis
  labels = sorted(axes.texts, key=lambda label: label.xy[1])
  boxes = [text.Text.get_window_extent(label) for label in labels]  # no leader
  heights = np.array([1.1 * box.height for box in boxes]) * pixel
  stacked = np.cumsum(heights) - heights / 2
  free = np.array([label.xy[1] for label in labels]) - stacked
  ends = range(1, len(labels) + 1)
  for i, label in enumerate(labels):  # isotonic regression in closed form
    means = [[free[j:e].mean() for e in ends[i:]] for j in range(i + 1)]
    label.set_y(max(map(min, means)) + stacked[i])


def _dots(found, points, losses, updates):
  """Draws the end of each run, and the updates to leave the plateau."""
  for row, point in enumerate(points):
    color = "black" if "softmax" in point.name else "tab:blue"
    for seed, record in found.of(point).items():
      y = row + 0.24 * (seed - np.mean(found.panel.seeds))
      left = record["plateau_updates"]
      losses.plot(np.log(record["perplexity"]), y, "o", color=color)
      fill = color if left else "white"
      updates.plot(left or record["step"], y, "o", color=color, mfc=fill)
  first = found.of(points[0]).values()
  lines = {
    "first row": [record["perplexity"] for record in first],
    "unigram": [record["unigram_perplexity"] for record in first],
  }
  place = losses.get_xaxis_transform()
  for name, perplexities in lines.items():
    x = np.log(perplexities).mean()
    losses.axvline(x, linestyle=":", color="black", linewidth=1)
    losses.text(x, 1, name, transform=place, ha="center", va="bottom")
  losses.set_yticks(range(len(points)), [point.label for point in points])
  losses.invert_yaxis()
  losses.set_xlabel("final loss (nats per masked token)")
  updates.set_xlabel("updates to leave the plateau (hollow: not left)")
  updates.set_xlim(left=0)
