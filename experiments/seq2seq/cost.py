"""Times a token of the decoder for longer and longer sources.

  taskset -c 0 .venv/bin/python -m experiments.seq2seq.cost

The models of `measure` in turns, with weights and caches that hold no text,
which changes no time. Run it on an idle machine; it takes a minute.
"""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from experiments import grid, timing
from experiments.seq2seq import measure

RESULTS = pathlib.Path(__file__).parent / "results" / "cost.jsonl"
LENGTHS = (1_024, 4_096, 16_384, 65_536)
ROUNDS = 15


@dataclasses.dataclass(frozen=True)
class Item:
  """What is timed in turns.

  Attributes:
    n: tokens of the source.
  """

  n: int


def _zeros(shapes):
  return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _writer(cross: str, n: int):
  """Returns a function that writes a token, and returns its seconds."""
  model, length = measure.Item(cross).model(n), measure.LETTERS_IN
  source = jax.ShapeDtypeStruct((1, n), jnp.int32)
  target = jax.ShapeDtypeStruct((1, length), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), source, target)

  def begin(variables, source):
    return model.apply(variables, source, None, length, method="begin")

  @jax.jit
  def step(variables, cache):
    one = jnp.ones(1, jnp.int32)
    tokens = jnp.zeros((1, 1), jnp.int32)
    return model.apply(variables, tokens, cache, 0 * one, one, method="extend")[
      0
    ]

  cache = _zeros(jax.eval_shape(begin, shapes, source))
  variables = _zeros(shapes)
  return lambda: timing.timed(step, variables, cache)


def run(item: Item) -> dict:
  """Returns the seconds of each call, by model."""
  functions = {cross: _writer(cross, item.n) for cross in measure.MODELS}
  return {"seconds": timing.rounds(functions, ROUNDS)}


def tell(line: dict) -> str:
  """Returns a line of progress."""
  found = ", ".join(
    f"{cross} {1e3 * np.median(seconds):.3g} ms"
    for cross, seconds in line["seconds"].items()
  )
  return f"n = {line['n']:,}: {found}"


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  items = [Item(n) for n in LENGTHS]
  return grid.main(__doc__, RESULTS, items, run, tell, words)


if __name__ == "__main__":
  sys.exit(main())
