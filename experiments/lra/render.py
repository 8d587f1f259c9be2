"""Renders the reduced Arena into its page and figure.

  .venv/bin/python -m experiments.lra.render

Writes experiments/lra/README.md between its markers, and results/cost.png. A
test renders again and compares.
"""

import csv
import pathlib

import numpy as np
from matplotlib import figure as figure_lib

from experiments import grid, timing
from experiments import page as page_lib
from experiments.lra import cost, measure
from experiments.lra.measure import Item

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "README.md"
PAPER = HERE / "paper_accuracy.csv"
FIGURE = measure.RESULTS.with_name("cost.png")
MARK = "<!-- experiments/lra/render.py: {} -->"
# The column of the published tables that a task stands for.
BESIDE = {"listops": "ListOps", "text": "Text", "digits": "Image"}
# model: (source, name) of a row of the published tables
THEIRS = {
  "softmax": ("A", "Transformer"),
  "local": ("A", "Local Attention"),
  "official": ("A", "Linformer"),
  "slots256": ("B", "Linformer (k=256)"),
  "nystrom": ("B", "Nystromformer"),
  "linear": ("A", "Linear Transformer"),
  "performer": ("A", "Performer"),
}


def paper() -> dict[tuple[str, str], dict[str, str]]:
  """Returns the published rows by source and model."""
  with PAPER.open() as file:
    rows = csv.DictReader(line for line in file if line[0] != "#")
    return {(row["source"], row["model"]): row for row in rows}


def shares(records, task: str, model: str, pretrained=False) -> np.ndarray:
  """Returns the accuracies of a model in percent, one for each seed."""
  items = (
    Item(task, model, measure.CHOSEN[task], seed, pretrained)
    for seed in measure.SEEDS
  )
  return np.array(
    [100 * records[item]["accuracy"] for item in items if item in records]
  )


def scores(records) -> str:
  """Returns the accuracy of each model on each task, beside published ones."""
  published = paper()
  names = " | ".join(
    f"{label} | {BESIDE[task]}, published"
    for task, label in measure.TASKS.items()
  )
  lines = [
    f"| attention | {names} |",
    "|---|" + "---:|" * 2 * len(measure.TASKS),
  ]
  floors = {
    item.task: 100 * record["majority"]
    for item, record in records.items()
    if item.split == "test"
  }
  if floors:
    cells = []
    for task in BESIDE:
      cells += [f"{floors[task]:.1f}" if task in floors else "", ""]
    lines.append(f"| the most frequent label | {' | '.join(cells)} |")
  for model, (label, *_) in measure.MODELS.items():
    cells = []
    for task, column in BESIDE.items():
      row = published.get(THEIRS.get(model))
      cells += [
        page_lib.spread(shares(records, task, model)),
        f"{row[column]} ({row['source']})" if row else "",
      ]
    if any(cells[::2]):
      lines.append(f"| {label} | {' | '.join(cells)} |")
  return "\n".join(lines)


def starts(records) -> str:
  """Returns accuracies from scratch and after pretraining on the same texts."""
  tasks = ("listops", "text")
  names = " | ".join(
    f"{measure.TASKS[task]}, from scratch | pretrained" for task in tasks
  )
  lines = [f"| attention | {names} |", "|---|" + "---:|" * 2 * len(tasks)]
  for model in measure.PRETRAINED:
    found = [
      shares(records, task, model, pretrained)
      for task in tasks
      for pretrained in (False, True)
    ]
    if any(values.size for values in found[1::2]):
      cells = " | ".join(map(page_lib.spread, found))
      lines.append(f"| {measure.MODELS[model][0]} | {cells} |")
  return "\n".join(lines)


def pilots(records) -> str:
  """Returns the validation accuracies that chose the learning rates."""
  rates = " | ".join(f"{rate:g}" for rate in measure.RATES)
  lines = [
    f"| task | attention | {rates} |",
    "|---|---|" + "---:|" * len(measure.RATES),
  ]
  for task in measure.TASKS:
    for model in measure.PILOTS:
      items = (Item(task, model, r, split="valid") for r in measure.RATES)
      cells = [
        f"{100 * records[item]['accuracy']:.1f}" if item in records else ""
        for item in items
      ]
      if any(cells):
        label = measure.MODELS[model][0]
        lines.append(f"| {task} | {label} | {' | '.join(cells)} |")
  return "\n".join(lines)


def costs(timed) -> str:
  """Returns time and memory of an update over softmax attention's."""
  tasks = [task for task in measure.TASKS if cost.Item(task) in timed]
  if not tasks:
    return "Not run yet."
  names = " | ".join(f"{measure.TASKS[t]}, time | memory" for t in tasks)
  lines = [f"| attention | {names} |", "|---|" + "---:|" * 2 * len(tasks)]
  for model, (label, *_) in measure.MODELS.items():
    cells = []
    for task in tasks:
      line = timed[cost.Item(task)]
      if model not in line["seconds"]:
        cells += ["", ""]
        continue
      middle, low, high = timing.ratio(line["seconds"], model)
      size = line["bytes"][model] / line["bytes"]["softmax"]
      cells += [f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{size:.2f}"]
    lines.append(f"| {label} | {' | '.join(cells)} |")
  return "\n".join(lines)


def front(points: dict[str, tuple[float, float]]) -> list[str]:
  """Returns the names that no other beats in both: less time, more right."""
  return [
    name
    for name, (time, right) in points.items()
    if not any(
      (t <= time and r >= right) and (t, r) != (time, right)
      for t, r in points.values()
    )
  ]


def figure(records, timed, to=FIGURE):
  """Draws accuracy against time, a panel a task, with the Pareto front."""
  drawing = figure_lib.Figure(figsize=(12, 4), layout="constrained")
  panels = drawing.subplots(1, len(measure.TASKS))
  for axes, (task, label) in zip(panels, measure.TASKS.items(), strict=True):
    axes.set_title(label, fontsize=10)
    axes.set_xlabel("time of an update over softmax attention's")
    axes.spines[["top", "right"]].set_visible(False)
    line = timed.get(cost.Item(task))
    points = {
      model: (
        timing.ratio(line["seconds"], model)[0],
        shares(records, task, model).mean(),
      )
      for model in (line or {"seconds": {}})["seconds"]
      if shares(records, task, model).size
    }
    best = front(points)
    for model, (time, right) in points.items():
      color = "black" if model == "softmax" else "tab:blue"
      axes.scatter(
        time,
        right,
        color=color,
        facecolor=color if model in best else "none",
        zorder=3,
      )
      axes.annotate(
        model, (time, right), (4, 3), textcoords="offset points", fontsize=7
      )
    edge = sorted(points[model] for model in best)
    axes.plot(*zip(*edge, strict=True) if edge else ([], []), color="0.7")
  panels[0].set_ylabel("accuracy, %")
  to.parent.mkdir(parents=True, exist_ok=True)
  drawing.savefig(to, dpi=150, metadata={"Software": None})


def parts(records, timed) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  made = {
    "scores": scores(records),
    "starts": starts(records),
    "costs": costs(timed),
    "pilots": pilots(records),
    "on": page_lib.runs(records.values()),
  }
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page and the figure."""
  records = grid.records(measure.RESULTS, Item)
  timed = grid.records(cost.RESULTS, cost.Item)
  page_lib.write(PAGE, parts(records, timed))
  if records and timed:
    figure(records, timed)


if __name__ == "__main__":
  main()
