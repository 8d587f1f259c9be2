"""Renders scores and times of the decoders into their page.

  .venv/bin/python -m experiments.seq2seq.render

Writes experiments/seq2seq/README.md between its markers. A test renders again
and compares.
"""

import pathlib

import numpy as np

from experiments import grid
from experiments import page as page_lib
from experiments.seq2seq import cost, measure
from experiments.seq2seq.measure import Item

PAGE = pathlib.Path(__file__).parent / "README.md"
MARK = "<!-- experiments/seq2seq/render.py: {} -->"


def scores(records) -> str:
  """Returns the share of letters and of rows that are right."""
  lines = [
    "| attention to the source | parameters | seeds | letters | rows |",
    "|---|---:|---:|---:|---:|",
  ]
  for cross, (label, _) in measure.MODELS.items():
    found = [
      records[Item(cross, seed)]
      for seed in measure.SEEDS
      if Item(cross, seed) in records
    ]
    if not found:
      continue
    letters = page_lib.spread([100 * r["right"][-1] for r in found])
    rows = page_lib.spread([100 * r["rows_right"] for r in found])
    parameters = f"{found[0]['parameters']:,}"
    cells = (label, parameters, str(len(found)), letters, rows)
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def times(records) -> str:
  """Returns milliseconds of a token, medians and quartiles."""
  lines = [
    "| attention to the source | "
    + " | ".join(f"n = {n:,}" for n in cost.LENGTHS)
    + " |",
    "|---|" + "---:|" * len(cost.LENGTHS),
  ]
  for cross, (label, _) in measure.MODELS.items():
    cells = []
    for n in cost.LENGTHS:
      if cost.Item(n) not in records:
        cells.append("")
        continue
      ms = 1e3 * np.array(records[cost.Item(n)]["seconds"][cross])
      low, middle, high = np.quantile(ms, [0.25, 0.5, 0.75])
      cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    lines.append(f"| {label} | {' | '.join(cells)} |")
  return "\n".join(lines)


def parts() -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  records = grid.records(measure.RESULTS, Item)
  timed = grid.records(cost.RESULTS, cost.Item)
  machines = page_lib.machines(timed.values(), cpu=True) if timed else ""
  made = {
    "scores": scores(records),
    "times": times(timed) if timed else "Not run yet.",
    "timed on": f"{cost.ROUNDS} calls in turns, on {machines}."
    if timed
    else "",
    "on": page_lib.runs(records.values()),
  }
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page."""
  page_lib.write(PAGE, parts())


if __name__ == "__main__":
  main()
