"""Renders the model cards from results.

  .venv/bin/python -m experiments.checkpoints.render

Writes experiments/checkpoints/NAME/README.md. A test renders again and
compares. card.txt is their template.
"""

import math

from experiments import grid
from experiments import page as page_lib
from experiments.checkpoints import make
from experiments.finetune import data, measure
from experiments.finetune import render as finetune
from experiments.finetune.measure import Item

_CARD = make.HERE / "card.txt"


def _scores(records, model: str) -> tuple[str, list[int]]:
  """Returns the row of the fine-tuned model, and its seeds for each task."""
  lines = finetune.scores(records).splitlines()
  label = finetune.LABELS[model]
  row = [line for line in lines if line.startswith(f"| {label} |")]
  seeds = [
    sum(Item(task, model, measure.CHOSEN, s) in records for s in measure.SEEDS)
    for task in data.TASKS
  ]
  return "\n".join([*lines[:2], *row]), seeds


def card(line: dict, records) -> str:
  """Returns the model card of a line of results.

  Args:
    line: as `make.make` returns it.
    records: those of experiments/finetune.
  """
  scores, seeds = _scores(records, line["model"])
  told = "Its fine-tuned scores are not measured yet."
  if any(seeds):
    told = (
      "Fine-tuned, in percent, with the mean\nand the standard deviation over "
      f"{max(seeds)} seeds, or what has been run:\n\n{scores}"
    )
  perplexity, low, high = map(math.exp, make.nats(line))
  return _CARD.read_text().format(
    name=line["name"],
    label=finetune.LABELS[line["model"]],
    parameters=line["parameters"],
    n=measure.N,
    vocabulary=4_096,
    step=line["step"],
    hardware=page_lib.machines([line], cpu=True),
    sources="\n".join(
      f"| {name} | {one['train']['documents']:,} "
      f"| {one['train']['bytes'] / 1e6:.1f} | {one['train']['sha256']} |"
      for name, one in line["sources"].items()
    ),
    perplexity=perplexity,
    low=low,
    high=high,
    scores=told,
  )


def cards() -> dict[str, str]:
  """Returns all cards by the name of their folder."""
  records = grid.records(measure.RESULTS, Item)
  return {
    line["name"]: card(line, records) for line in grid.lines(make.RESULTS)
  }


def main():
  """Renders the cards."""
  for name, text in cards().items():
    (make.HERE / name / "README.md").write_text(text)
    print(f"rendered {name}/README.md")


if __name__ == "__main__":
  main()
