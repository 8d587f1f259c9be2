"""Times updates of the stacks and of softmax attention, in turns.

  taskset -c 0 .venv/bin/python -m experiments.hybrid.time

An item is one vocabulary and length; all models are compiled first, and each
round times one update of every model. Without input, evaluation and saving.
Run it on an idle machine, pinned to one core as the runs are.
"""

import dataclasses
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from experiments import grid, runs
from experiments.hybrid import measure
from experiments.perplexity import sweep
from linformer_jax import step
from linformer_jax.parallel import sharding

RESULTS = pathlib.Path(__file__).parent / "results" / "time.jsonl"
ROUNDS = 15
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


def _updater(config):
  """Returns a function that makes an update and returns its seconds."""
  steps = step.build_steps(config, sharding.make_mesh(config.mesh))
  state = steps.init()
  drawn = jax.random.key(0)

  def draw(field):
    if jnp.issubdtype(field.dtype, jnp.integer):
      return jax.random.randint(
        drawn, field.shape, 0, config.model.max_length // 2, field.dtype
      )
    return jnp.ones(field.shape, field.dtype)

  batch = jax.tree.map(draw, steps.abstract_batch)
  compiled = steps.train.lower(state, batch).compile()

  def update() -> float:
    nonlocal state  # It is donated.
    start = time.perf_counter()
    state, _ = jax.block_until_ready(compiled(state, batch))
    return time.perf_counter() - start

  return update


def run(item: Item) -> dict:
  """Returns the seconds of each update by model."""
  updaters = {
    model: _updater(
      sweep.config_of(measure.Item(item.tokens, item.n, model).point().words(0))
    )
    for model in MODELS
  }
  seconds = {model: [] for model in updaters}
  for done in range(ROUNDS + 1):
    for model, update in updaters.items():
      taken = update()
      if done:  # The first one warms up.
        seconds[model].append(round(taken, 5))
  return {"seconds": seconds}


def ratio(line: dict, model: str) -> tuple[float, float, float]:
  """Returns a model's time over softmax attention's: median and quartiles."""
  found = [
    own / other
    for own, other in zip(
      line["seconds"][model], line["seconds"]["softmax"], strict=True
    )
  ]
  low, middle, high = statistics.quantiles(found, n=4)
  return middle, low, high


def tell(line: dict) -> str:
  """Returns a line of progress."""
  found = ", ".join(
    f"{model} {ratio(line, model)[0]:.2f}" for model in line["seconds"]
  )
  return f"{line['tokens']}, n = {line['n']:,}: over softmax: {found}"


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = grid.parser(__doc__, RESULTS)
  grid.work(items(), parser.parse_args(words), run, tell)
  return 0


if __name__ == "__main__":
  sys.exit(main())
