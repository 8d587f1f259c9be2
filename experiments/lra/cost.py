"""Times an update of every attention on each reduced task, in turns.

  taskset -c 0 .venv/bin/python -m experiments.lra.cost

Run it on an idle machine, pinned to one core as the runs are; it needs no data.
"""

import dataclasses
import pathlib
import sys

from experiments import grid, timing
from experiments.lra import measure
from experiments.perplexity import sweep

RESULTS = pathlib.Path(__file__).parent / "results" / "cost.jsonl"


@dataclasses.dataclass(frozen=True)
class Item:
  """What is timed in turns.

  Attributes:
    task: a key of `measure.TASKS`.
  """

  task: str


def items() -> list[Item]:
  """Returns all items."""
  return [Item(task) for task in measure.TASKS]


def run(item: Item) -> dict:
  """Returns the seconds of each update, and its memory, by model."""
  return timing.in_turns({
    model: sweep.config_of(
      measure.Item(item.task, model, 1e-3).words(pathlib.Path("none"))
    )
    for model in measure.MODELS
    if measure.fits(item.task, model)
  })  # fmt: skip


def tell(line: dict) -> str:
  """Returns a line of progress."""
  found = ", ".join(
    f"{model} {timing.ratio(line['seconds'], model)[0]:.2f}"
    for model in line["seconds"]
  )
  return f"{line['task']}: over softmax: {found}"


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return grid.main(__doc__, RESULTS, items(), run, tell, words)


if __name__ == "__main__":
  sys.exit(main())
