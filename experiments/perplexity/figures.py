"""Draws each panel: perplexity against updates, time and FLOPs, and the gap."""

import pathlib

import numpy as np

from experiments.perplexity import curves, panels, paper

# Relative gaps are drawn on a logarithmic axis that is linear below this gap:
# those of the paper are a few percent, those on the plateau hundreds.
_LINEAR_GAP = 0.02


def path(name: str) -> pathlib.Path:
  """Returns the path of a panel's figure."""
  return curves.RESULTS / f"panel_{name}.png"


def draw(found, to: pathlib.Path | None = None):
  """Draws a panel.

  Args:
    found: `render.Curves`.
    to: the file; by default, `path`.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot, ticker

  points = [point for point in found.panel.points if found.of(point)]
  colors = pyplot.get_cmap("turbo")(
    np.linspace(0.05, 0.95, len(found.panel.points))
  )
  color = dict(zip(found.panel.points, colors, strict=True))
  figure, axes = pyplot.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
  columns = {
    "step": "updates",
    "seconds": "seconds of updates",
    "flops": "FLOP",
  }
  for one, (column, name) in zip(axes.flat, columns.items(), strict=False):
    for point in points:
      _curve(one, found.of(point), column, point.label, color[point])
    one.set(xlabel=name, ylabel="validation perplexity", yscale="log")
    for axis in (one.yaxis.set_major_formatter, one.yaxis.set_minor_formatter):
      axis(ticker.ScalarFormatter())
  axes.flat[0].legend(fontsize=7)
  if found.name in panels.OF_PLATEAUS:
    _plateaus(axes.flat[3], found, points, color)
  else:
    _gaps(axes.flat[3], found, points, color)
  for one in axes.flat:
    one.grid(True, which="both", alpha=0.3)
  figure.suptitle(f"{found.panel.title}: a reduced scale, on CPU cores")
  figure.savefig(to or path(found.name), dpi=90)
  pyplot.close(figure)


def _curve(axes, of_seed, column, label, color):
  """Draws the mean of the seeds, and their range as a band."""
  at = curves.COLUMNS.index(column)
  rows = np.array([record["evaluations"] for record in of_seed.values()])
  x, y = rows[..., at].mean(0), rows[..., -1]
  axes.plot(x, y.mean(0), color=color, label=label, linewidth=1.4)
  if len(rows) > 1:
    axes.fill_between(x, y.min(0), y.max(0), color=color, alpha=0.25)


def _gaps(axes, found, points, color):
  """Draws the measured gaps with their range, and the paper's dashed."""
  from matplotlib import ticker

  first = found.panel.points[0]
  for point in points:
    own = found.ratios(point)
    if point is not first and own:
      x, y = np.array(own).transpose(2, 0, 1)
      axes.plot(x[0], y.mean(0) - 1, color=color[point], label=point.label)
      if len(own) > 1:
        low, high = y.min(0) - 1, y.max(0) - 1
        axes.fill_between(x[0], low, high, color=color[point], alpha=0.25)
  for point in found.panel.points[1:]:
    theirs = np.array(paper.ratios(found.name, point))
    if len(theirs):
      axes.plot(
        *(theirs - [0, 1]).T,
        "--o",
        color=color[point],
        markersize=3,
        label=paper.label(found.name, point),
      )
  axes.axhline(0, color="gray", linewidth=0.8)
  axes.set_yscale("symlog", linthresh=_LINEAR_GAP, subs=(2, 5))
  for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
    axis(ticker.PercentFormatter(1.0, decimals=0))
  axes.set(
    xlabel="share of the updates of a whole run",
    ylabel=f"perplexity over that of {first.label}, - 1",
  )
  if axes.dataLim.y0 >= 0:
    axes.set_ylim(bottom=0)
  axes.legend(fontsize=7)


def _plateaus(axes, found, points, color):
  """Draws the mean updates to leave the plateau; hatched if a seed did not."""
  for i, point in enumerate(points):
    records = found.of(point).values()
    values = [record["plateau_updates"] for record in records]
    stayed = None in values
    ends = [record["step"] for record in records]
    lengths = [y if x is None else x for x, y in zip(values, ends, strict=True)]
    axes.barh(
      i,
      np.mean(lengths),
      color="none" if stayed else color[point],
      edgecolor=color[point],
      hatch="//" if stayed else None,
    )
  axes.set_yticks(range(len(points)), [p.label for p in points], fontsize=7)
  axes.invert_yaxis()
  axes.set_xlabel("updates to leave the plateau (hatched: not left)")
