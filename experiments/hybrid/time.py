"""Times updates of the stacks and of softmax attention, in turns.

  taskset -c 0 .venv/bin/python -m experiments.hybrid.time

An item is one vocabulary and length; all models are compiled first, and each
round times one update of every model. Without input, evaluation and saving.
Run it on an idle machine, pinned to one core as the runs are.
"""

import dataclasses
import pathlib
import sys

from experiments import grid, runs, timing
from experiments.hybrid import measure
from experiments.perplexity import sweep

RESULTS = pathlib.Path(__file__).parent / "results" / "time.jsonl"
MODELS = ("softmax", "hybrid", "local", "above", "quarter")


@dataclasses.dataclass(frozen=True)
class Item:
  """What is timed in turns.

  Attributes:
    tokens: a key of `runs.TOKENS`.
    n: sequence length.
  """

  tokens: str
  n: int


def items() -> list[Item]:
  """Returns all items."""
  return [
    Item(tokens, n) for tokens in runs.TOKENS for n in sorted(measure.LENGTHS)
  ]


def run(item: Item) -> dict:
  """Returns the seconds of each update by model."""
  configs = {
    model: sweep.config_of(
      measure.Item(item.tokens, item.n, model).point().words(0)
    )
    for model in MODELS
  }
  return timing.in_turns(configs)


def ratio(line: dict, model: str) -> tuple[float, float, float]:
  """Returns a model's time over softmax attention's: median and quartiles."""
  return timing.ratio(line["seconds"], model)


def tell(line: dict) -> str:
  """Returns a line of progress."""
  found = ", ".join(
    f"{model} {ratio(line, model)[0]:.2f}" for model in line["seconds"]
  )
  return f"{line['tokens']}, n = {line['n']:,}: over softmax: {found}"


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return grid.main(__doc__, RESULTS, items(), run, tell, words)


if __name__ == "__main__":
  sys.exit(main())
