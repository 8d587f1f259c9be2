"""Renders copy and recall beyond the windows into tables of the page."""

import itertools
import pathlib

from experiments import grid
from experiments.hybrid import probe


def answers(path: pathlib.Path = probe.RESULTS) -> str:
  """Returns how many questions are answered in the end, by k."""
  records = grid.records(path, probe.Item)
  lines = [
    "| task | model | seeds | "
    + " | ".join(f"k = {k}" if k else "no slots" for k in (0, *probe.LENGTHS))
    + " |",
    "|---|---|---:|" + "---:|" * (1 + len(probe.LENGTHS)),
  ]

  def cell(*what) -> str:
    found = [
      records[item]["right"]
      for seed in probe.SEEDS
      if (item := probe.Item(*what, probe.RATE, seed)) in records
    ]
    if not found:
      return ""
    shares = sorted({f"{100 * right[-1]:.0f}" for right in found}, key=float)
    updates = max(len(right) for right in found) * probe.EVERY
    after = f", after {updates:,}" if updates < probe.UPDATES else ""
    return f"{' to '.join((shares[0], shares[-1])[: len(shares)])}%{after}"

  for task, (model, label) in itertools.product(
    probe.TASKS, probe.LABELS.items()
  ):
    cells = [cell(task, model, k) for k in (0, *probe.LENGTHS)]
    seeds = {
      item.seed for item in records if (item.task, item.model) == (task, model)
    }
    if any(cells):
      row = " | ".join(cells)
      lines.append(f"| {task} | {label} | {len(seeds)} | {row} |")
  return "\n".join(lines)


def rates(path: pathlib.Path = probe.RESULTS) -> str:
  """Returns answers by learning rate, of slots of one k."""
  records = grid.records(path, probe.Item)
  tried = sorted({probe.RATE, *probe.TRIED})
  lines = [
    "| task | " + " | ".join(f"{rate:g}" for rate in tried) + " |",
    "|---|" + "---:|" * len(tried),
  ]
  for task in probe.TASKS:
    items = [probe.Item(task, "slots", probe.LENGTHS[-2], r) for r in tried]
    cells = [
      f"{100 * records[item]['right'][-1]:.0f}%" if item in records else ""
      for item in items
    ]
    lines.append(f"| {task} | {' | '.join(cells)} |")
  return "\n".join(lines)
