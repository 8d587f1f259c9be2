"""Renders the probes into their page.

  .venv/bin/python -m experiments.probes.render

Writes experiments/probes/README.md between its markers. A test renders again
and compares.
"""

import pathlib

import numpy as np

from experiments import grid
from experiments import page as page_lib
from experiments.probes import measure
from experiments.probes.measure import Item

PAGE = pathlib.Path(__file__).parent / "README.md"
MARK = "<!-- experiments/probes/render.py: {} -->"
DISTANT = ("recall", "needle")  # asked for at many distances


def _runs(records, task: str, model: str) -> list[dict]:
  """Returns the records of a model on a task, by seed."""
  found = (records.get(Item(task, model, seed)) for seed in measure.SEEDS)
  return [record for record in found if record]


def _cell(shares) -> str:
  """Returns shares in percent, the least and the largest if they differ."""
  low, high = (f"{100 * x:.0f}" for x in (np.min(shares), np.max(shares)))
  return low if low == high else f"{low} to {high}"


def answers(records) -> str:
  """Returns the share of right answers, and updates if all were right early."""
  lines = [
    f"| attention | seeds | {' | '.join(measure.TASKS)} |",
    "|---|---:|" + "---:|" * len(measure.TASKS),
  ]
  floors = " | ".join(f"{100 * measure.floors(t):.0f}" for t in measure.TASKS)
  lines.append(f"| the most frequent answer | | {floors} |")
  for model, (label, _) in measure.MODELS.items():
    cells, seeds = [], 0
    for task in measure.TASKS:
      found = _runs(records, task, model)
      seeds = max(seeds, len(found))
      if not found:
        cells.append("")
        continue
      ends = [record["right"] for record in found]
      slowest = max(map(len, ends)) * measure.SCHEDULE.every
      early = slowest < measure.SCHEDULE.updates
      after = f", after {slowest:,}" if early else ""
      cells.append(_cell([right[-1] for right in ends]) + after)
    if seeds:
      lines.append(f"| {label} | {seeds} | {' | '.join(cells)} |")
  return "\n".join(lines)


def distances(records) -> str:
  """Returns the share of right answers by distance, in quarters of N."""
  step = measure.N // 4
  spans = [f"{i * step + 1} to {(i + 1) * step}" for i in range(4)]
  lines = [
    "| task | attention | " + " | ".join(spans) + " |",
    "|---|---|" + "---:|" * 4,
  ]
  for task in DISTANT:
    for model, (label, _) in measure.MODELS.items():
      found = _runs(records, task, model)
      if not found:
        continue
      by_span = zip(*(record["by_distance"] for record in found), strict=True)
      cells = ["" if None in s else _cell(s) for s in by_span]
      lines.append(f"| {task} | {label} | {' | '.join(cells)} |")
  return "\n".join(lines)


def parts(records) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  made = {
    "answers": answers(records),
    "distances": distances(records),
    "on": page_lib.runs(records.values()),
  }
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page."""
  records = grid.records(measure.RESULTS, Item)
  page_lib.write(PAGE, parts(records))


if __name__ == "__main__":
  main()
