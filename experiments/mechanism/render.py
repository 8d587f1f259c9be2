"""Renders the cuts of trained softmax models into their page and figure.

  .venv/bin/python -m experiments.mechanism.render

Writes experiments/mechanism/README.md between its markers, and
results/cuts.png. A test renders again and compares.
"""

import pathlib

import numpy as np

from experiments import documents, grid
from experiments import page as page_lib
from experiments.mechanism import measure
from experiments.mechanism.measure import ALL_LAYERS, Item

PAGE = pathlib.Path(__file__).parent / "README.md"
FIGURE = measure.RESULTS.with_name("cuts.png")
MARK = "<!-- experiments/mechanism/render.py: {} -->"
# Smaller losses than this many nats are drawn at it.
FLOOR = 1e-3
_NAMES = {"band": "rows on either side", "rank": "rank"}


class Cuts:
  """What was measured, with the means over seeds."""

  def __init__(self, path: pathlib.Path = measure.RESULTS):
    self.records = grid.records(path, Item)

  def of(self, model, updates, kind="none", layer=ALL_LAYERS, size=0) -> dict:
    """Returns the sums of each document by seed."""
    items = {
      seed: Item(model, seed, updates, kind, layer, size)
      for seed in measure.SEEDS
    }
    return {
      seed: np.array(self.records[item]["documents"])
      for seed, item in items.items()
      if item in self.records
    }

  def seeds(self, model, updates) -> int:
    """Returns for how many seeds there is an uncut evaluation."""
    return sum(
      Item(model, seed, updates) in self.records for seed in measure.SEEDS
    )

  def lost(self, model, updates, *cut):
    """Returns nats lost by a cut, with the interval over documents, or None.

    Over the seeds whose model was evaluated whole too.
    """
    sums, whole = self.of(model, updates, *cut), self.of(model, updates)
    both = sums.keys() & whole.keys()
    if not both:
      return None
    return documents.interval(
      *(np.mean([x[seed] for seed in both], 0) for x in (sums, whole))
    )


def _number(found) -> str:
  if found is None:
    return ""
  value, low, high = found
  return f"{value:.3f} ({low:.3f} to {high:.3f})"


def table(cuts: Cuts, model: str, kind: str) -> str:
  """Returns the nats lost by cuts of one layer, and of all, along training."""
  sizes = measure.BANDS if kind == "band" else measure.RANKS
  lines = [
    f"| updates | {_NAMES[kind]} | layer 0 | layer 1 | layer 2 | layer 3 "
    "| all layers |",
    "|---:|---:|---:|---:|---:|---:|---:|",
  ]
  for updates in measure.STEPS:
    if not cuts.seeds(model, updates):
      continue
    for size in sorted({*sizes[ALL_LAYERS], *sizes[0]}):
      cells = [
        _number(cuts.lost(model, updates, kind, layer, size))
        for layer in (*range(measure.LAYERS), ALL_LAYERS)
      ]
      if any(cells):
        lines.append(f"| {updates:,} | {size} | {' | '.join(cells)} |")
  return "\n".join(lines)


def losses(cuts: Cuts) -> str:
  """Returns the losses of the uncut models."""
  lines = ["| model | updates | seeds | nats | mass within 2 rows, by layer "
           "| first n/4 singular values, by layer |",
           "|---|---:|---:|---:|---|---|"]  # fmt: skip
  for model, point in measure.MODELS.items():
    for updates in measure.STEPS:
      records = [
        cuts.records[item]
        for seed in measure.SEEDS
        if (item := Item(model, seed, updates)) in cuts.records
      ]
      if not records:
        continue
      near = records[0]["distances"].index(2)
      mass = np.mean([record["mass"] for record in records], 0)[:, near].mean(1)
      held = np.mean([record["quarter"] for record in records], 0).mean(1)
      value, low, high = documents.interval(
        np.mean(list(cuts.of(model, updates).values()), 0)
      )
      lines.append(
        f"| {point.label} | {updates:,} | {len(records)} | {value:.3f} "
        f"({low:.3f} to {high:.3f}) | "
        f"{', '.join(f'{x:.2f}' for x in mass)} | "
        f"{', '.join(f'{x:.2f}' for x in held)} |"
      )
  return "\n".join(lines)


def environment(cuts: Cuts) -> str:
  """Describes the evaluations, the hardware and the time."""
  records = list(cuts.records.values())
  targets = sum(n for _, n in records[0]["documents"])
  minutes = sum(record["wall_seconds"] for record in records) / 60
  return (
    f"{len(records)} evaluations of {targets:,} masked tokens of bytes in "
    f"{len(records[0]['documents'])} documents, or as many blocks of subwords;"
    f" {minutes:.0f} minutes in all. On {page_lib.machines(records, cpu=True)}."
  )


def _draw_cut(axes, cuts, where, size, shift, color):
  """Draws one size of cut: a line over single layers, a dot for all."""
  style = {"color": color, "marker": "o", "markersize": 4, "capsize": 2}
  for layers in (range(measure.LAYERS), (ALL_LAYERS,)):
    found = [cuts.lost(*where, layer, size) for layer in layers]
    if None in found:
      continue
    value, low, high = np.maximum(np.transpose(found), FLOOR)
    at = np.array([layer % (measure.LAYERS + 1) for layer in layers]) + shift
    axes.errorbar(
      at, value, [value - low, high - value], linewidth=1.2, **style
    )
    if layers[0] == 0:
      axes.annotate(
        f"{size}",
        (at[0], value[0]),
        (-8, -3),
        textcoords="offset points",
        ha="right",
        color=color,
        fontsize=8,
      )


def figure(cuts: Cuts, to: pathlib.Path = FIGURE):
  """Draws the nats lost against which layer is cut, for the trained models."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  updates = measure.UPDATES
  models = [name for name in measure.MODELS if cuts.seeds(name, updates)]
  drawing, axes = pyplot.subplots(
    len(models), 2, figsize=(10, 3.6 * len(models)), layout="constrained",
    sharey=True, squeeze=False,
  )  # fmt: skip
  for row, model in zip(axes, models, strict=True):
    for one, kind in zip(row, _NAMES, strict=True):
      sizes = measure.BANDS if kind == "band" else measure.RANKS
      shown = sizes[0]
      colors = pyplot.get_cmap("viridis")(np.linspace(0, 0.8, len(shown)))
      for color, size in zip(colors, shown, strict=True):
        shift = 0.06 * (shown.index(size) - (len(shown) - 1) / 2)
        _draw_cut(one, cuts, (model, updates, kind), size, shift, color)
      label = measure.MODELS[model].label
      one.set(yscale="log", title=f"{label}: {_NAMES[kind]}")
      places = [*range(measure.LAYERS), "all"]
      one.set_xticks(range(len(places)), places)
      one.set_xlim(-0.6, len(places) - 0.6)
      one.set_xlabel("layers that are cut")
      one.grid(True, alpha=0.3)
    row[0].set_ylabel(f"nats lost per masked token (at least {FLOOR:g})")
  drawing.savefig(to, dpi=90)
  pyplot.close(drawing)


def parts(cuts: Cuts) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  found = {"losses": losses(cuts), "on": environment(cuts)}
  for model in measure.MODELS:
    for kind in _NAMES:
      found[f"{model} {kind}"] = table(cuts, model, kind)
  return {MARK.format(name): text for name, text in found.items()}


def main():
  """Renders the page and its figure."""
  cuts = Cuts()
  page_lib.write(PAGE, parts(cuts))
  figure(cuts)


if __name__ == "__main__":
  main()
