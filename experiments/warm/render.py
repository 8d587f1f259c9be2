"""Renders the warm starts into their page and figure.

  .venv/bin/python -m experiments.warm.render

Writes experiments/warm/README.md between its markers, and results/curves.png.
A test renders again and compares.
"""

import pathlib

import numpy as np
from matplotlib import figure as figure_lib

from experiments import documents, grid
from experiments import page as page_lib
from experiments.perplexity import figures as curves
from experiments.warm import measure
from experiments.warm.measure import BASE, Item

PAGE = pathlib.Path(__file__).parent / "README.md"
FIGURE = measure.RESULTS.with_name("curves.png")
MARK = "<!-- experiments/warm/render.py: {} -->"
COLORS = {
  "softmax": "black",
  "pool": "tab:green",
  "fitted": "tab:blue",
  "scratch": "tab:red",
}
SHORT = {
  "softmax": "softmax attention",
  "pool": "window means",
  "fitted": "fitted E and F",
  "scratch": "from the start",
}


class Found:
  """What was measured, with the means over seeds."""

  def __init__(self, path: pathlib.Path = measure.RESULTS):
    self.records = grid.records(path, Item)

  def runs(self, arm: str) -> list[tuple[float, float]]:
    """Returns the rates at which an arm was trained to the end."""
    ends = {
      (item.rate, item.e_rate)
      for item in self.records
      if item.arm == arm and item.step == item.updates
    }
    return sorted(ends)

  def sums(self, arm, rates, step, seeds=None):
    """Returns the mean sums of each document over seeds, or None."""
    found = [
      self.records[item]["documents"]
      for seed in seeds or measure.SEEDS
      if (item := Item(arm, *rates, seed, step)) in self.records
    ]
    return np.mean(found, 0) if found else None

  def seeds(self, arm, rates) -> set[int]:
    """Returns the seeds of complete runs."""
    return {
      seed
      for seed in measure.SEEDS
      if Item(arm, *rates, seed, _end(arm)) in self.records
    }

  def best(self, arm: str):
    """Returns the rates with the least loss at the end."""
    return min(
      self.runs(arm),
      key=lambda rates: documents.nats(self.sums(arm, rates, _end(arm))),
    )

  def gap(self, arm, rates):
    """Returns nats at the end above softmax attention, with their interval.

    None for softmax attention itself, and before it has been run.
    """
    if not self.runs("softmax"):
      return None
    other = self.best("softmax")
    if (arm, rates) == ("softmax", other):
      return None
    both = sorted(self.seeds(arm, rates) & self.seeds("softmax", other))
    return documents.interval(
      self.sums(arm, rates, _end(arm), both),
      self.sums("softmax", other, _end("softmax"), both),
    )


def _end(arm: str) -> int:
  return Item(arm, 0.0, 0.0).updates


def _after(arm: str, step: int) -> int:
  """Returns all updates that the weights have had."""
  return step + (0 if arm == "scratch" else BASE)


def table(found: Found) -> str:
  """Returns the losses along all runs."""
  steps = range(BASE, BASE + measure.UPDATES + 1, measure.KEEP)
  lines = [
    "| model | rate | rate of E, F over it | seeds | "
    + " | ".join(f"{step:,} updates" for step in steps)
    + " | above softmax attention |",
    "|---|---:|---:|---:|" + "---:|" * len(steps) + "---:|",
  ]
  for arm, label in measure.ARMS.items():
    for rates in found.runs(arm):
      nats = []
      for step in steps:
        sums = found.sums(arm, rates, step - _after(arm, 0))
        nats.append("" if sums is None else f"{documents.nats(sums):.3f}")
      rate, e_rate = rates
      value = found.gap(arm, rates)
      gap = "" if value is None else "{:.3f} ({:.3f} to {:.3f})".format(*value)
      lines.append(
        f"| {label} | {rate:g} | {f'{e_rate:g}' if e_rate else ''} "
        f"| {len(found.seeds(arm, rates))} | {' | '.join(nats)} | {gap} |"
      )
  return "\n".join(lines)


def fits(found: Found) -> str:
  """Returns the errors of E and F by layer, before and after the fit."""
  told = [record["fit"] for record in found.records.values() if "fit" in record]
  if not told:
    return ""
  layers = list(told[0])
  lines = [
    f"| E and F | {' | '.join(f'layer {i}' for i in range(len(layers)))} |",
    "|---|" + "---:|" * len(layers),
  ]
  for i, name in enumerate(("window means", "fitted")):
    cells = [
      f"{np.sqrt(np.mean([one[layer][i] for one in told])):.3f}"
      for layer in layers
    ]
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


def environment(found: Found) -> str:
  """Describes the runs and the hardware."""
  records = list(found.records.values())
  if not records:
    return "Not run yet."
  seconds = {
    (r["arm"], r["rate"], r["e_rate"], r["seed"]): r["run_seconds"]
    for r in records
  }
  targets = sum(n for _, n in records[0]["documents"])
  return (
    f"{len(seconds)} runs, {sum(seconds.values()) / 3600:.1f} hours of "
    f"updates; evaluated on {targets:,} masked bytes of "
    f"{len(records[0]['documents'])} documents. On "
    f"{page_lib.machines(records, cpu=True)}."
  )


def figure(found: Found, to: pathlib.Path = FIGURE):
  """Draws the loss of each arm at its best rates against all updates."""
  drawing = figure_lib.Figure((6.5, 4), layout="constrained")
  axes = drawing.subplots()
  axes.axvline(BASE, color="gray", linestyle=":", linewidth=1)
  for arm, color in COLORS.items():
    if not found.runs(arm):
      continue
    rates = found.best(arm)
    steps = [
      step
      for step in range(0, _end(arm) + 1, measure.KEEP)
      if found.sums(arm, rates, step) is not None and _after(arm, step)
    ]
    nats = [documents.nats(found.sums(arm, rates, step)) for step in steps]
    x = [_after(arm, step) for step in steps]
    axes.plot(x, nats, "o-", color=color, markersize=4)
    curves.label_end(axes, SHORT[arm], (x[-1], nats[-1]), color, 1.05)
  axes.set(
    xlabel="updates (dotted: softmax attention replaced)",
    ylabel="nats per masked byte",
    xlim=(0, BASE + measure.UPDATES),
  )
  axes.set_xticks(range(0, BASE + measure.UPDATES + 1, measure.KEEP))
  axes.grid(True, alpha=0.3)
  drawing.draw_without_rendering()
  drawing.set_layout_engine("none")
  curves.spread(axes)
  drawing.savefig(to, dpi=100)


def parts(found: Found) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  made = {
    "runs": table(found),
    "fits": fits(found),
    "on": environment(found),
  }
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page and its figure."""
  found = Found()
  page_lib.write(PAGE, parts(found))
  if found.records:
    figure(found)


if __name__ == "__main__":
  main()
