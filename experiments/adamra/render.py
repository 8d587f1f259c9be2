"""Renders the routes of queries into their page and figure.

  .venv/bin/python -m experiments.adamra.render

Writes experiments/adamra/README.md between its markers, and results/routes.png.
A test renders again and compares.
"""

import pathlib

import numpy as np
from matplotlib import colormaps
from matplotlib import figure as figure_lib

from experiments import grid
from experiments import page as page_lib
from experiments.adamra import measure
from experiments.adamra.measure import Item

PAGE = pathlib.Path(__file__).parent / "README.md"
FIGURE = measure.RESULTS.with_name("routes.png")
MARK = "<!-- experiments/adamra/render.py: {} -->"
# What the router does with a query in training: model, field of a record.
ROUTES = {"soft": "weights", "hard": "chosen", "exact": "weights"}


def _runs(records, model: str) -> list[dict]:
  """Returns the records of a model, by seed."""
  items = [Item(model, seed) for seed in measure.SEEDS]
  return [records[item] for item in items if item in records]


def _cell(shares) -> str:
  """Returns the mean in percent, and the range if there are several."""
  shares = 100 * np.asarray(shares)
  span = f" ({shares.min():.1f} to {shares.max():.1f})"
  return f"{shares.mean():.1f}" + span * (len(shares) > 1)


def answers(records) -> str:
  """Returns how many tokens are answered by flag, and the floor."""
  floor = " | ".join(f"{100 * share:.1f}" for share in measure.floor())
  lines = [
    "| attention | parameters | seeds | copies | counts |",
    "|---|---:|---:|---:|---:|",
    f"| the most frequent token of the block |  |  | {floor} |",
  ]
  for model, (label, _, _) in measure.MODELS.items():
    found = _runs(records, model)
    if found:
      shares = np.array([record["right"][-1] for record in found])
      cells = " | ".join(map(_cell, shares.T))
      size = f"{found[0]['parameters']:,}"
      lines.append(f"| {label} | {size} | {len(found)} | {cells} |")
  return "\n".join(lines)


def mean_routes(records, model: str):
  """Returns the mean over seeds [layers, flags, ratios], or None."""
  found = [record[ROUTES[model]] for record in _runs(records, model)]
  return np.mean(found, 0) if found else None


def routes(records) -> str:
  """Returns where the router sends tokens of either flag, in percent."""
  names = [f"c = {ratio}" for ratio in measure.RATIOS]
  lines = [
    f"| route | layer | flag | {' | '.join(names)} |",
    "|---|---:|---|" + "---:|" * len(names),
  ]
  for model in ROUTES:
    means = mean_routes(records, model)
    for layer, by_flag in enumerate(() if means is None else means):
      for flag, shares in zip(measure.FLAGS, by_flag, strict=True):
        cells = " | ".join(f"{100 * share:.0f}" for share in shares)
        lines.append(f"| {model} | {layer} | {flag} | {cells} |")
  return "\n".join(lines)


def figure(records, to=FIGURE):
  """Draws the same as stacked bars, one panel a route and layer."""
  drawing = figure_lib.Figure(figsize=(11, 3), layout="constrained")
  panels = drawing.subplots(1, 2 * len(ROUTES), sharey=True)
  colors = colormaps["viridis"](np.linspace(0, 0.8, len(measure.RATIOS)))
  places = [(model, layer) for model in ROUTES for layer in range(2)]
  for axes, (model, layer) in zip(panels, places, strict=True):
    axes.set_title(f"{model}, layer {layer}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    means = mean_routes(records, model)
    if means is None:
      continue
    bottom = np.zeros(len(measure.FLAGS))
    for ratio, color, share in zip(
      measure.RATIOS, colors, means[layer].T, strict=True
    ):
      bars = axes.bar(measure.FLAGS, share, bottom=bottom, color=color)
      bottom += share
      labels = [f"c = {ratio}" if x > 0.08 else "" for x in share]
      axes.bar_label(
        bars, labels, label_type="center", color="white", fontsize=8
      )
  panels[0].set_ylabel("share of the tokens of a flag")
  drawing.savefig(to, dpi=100)


def parts(records) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  made = {
    "answers": answers(records),
    "routes": routes(records),
    "on": page_lib.runs(records.values()),
  }
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page and its figure."""
  records = grid.records(measure.RESULTS, Item)
  page_lib.write(PAGE, parts(records))
  if records:
    figure(records)


if __name__ == "__main__":
  main()
