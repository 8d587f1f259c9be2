"""Times a generated token, and a layer's forward pass, at growing lengths.

  taskset -c 0 .venv/bin/python -m experiments.causal.cost

Models of four layers of width 128 with four heads, as in `measure`, in turns;
weights and caches hold no text, which changes no time. 'token': one sequence
whose cache is nearly full, 16 tokens a call. 'layer': one attention layer, in
blocks of 512 queries. Run it on an idle machine; it needs no data and takes
about ten minutes.
"""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from experiments import grid, timing
from experiments.causal import measure
from experiments.perplexity import sweep
from linformer_jax import generate, models, step

RESULTS = pathlib.Path(__file__).parent / "results" / "cost.jsonl"
LENGTHS = {
  "token": (1_024, 4_096, 16_384, 65_536, 262_144),
  "layer": (1_024, 4_096, 16_384, 65_536, 262_144),
}
TOKENS = 16  # of a call
QUERIES = 512
# The longest forward pass of a layer whose time grows as n^2.
LONGEST = {"softmax": 16_384, "slots": 65_536}
ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Item:
  """What is timed in turns.

  Attributes:
    what: 'token' or 'layer'.
    n: rows of the sequence.
  """

  what: str
  n: int


def items() -> list[Item]:
  """Returns all items."""
  return [Item(what, n) for what, lengths in LENGTHS.items() for n in lengths]


def model_of(name: str, n: int) -> models.ModelConfig:
  """Returns the model of a run of `measure`, for n tokens."""
  words = measure.Item("bytes", 512, name).point().words(0)
  config = step.model_config(sweep.config_of(words))
  return dataclasses.replace(config, max_length=n)


def _writer(name: str, n: int):
  """Returns a function that writes `TOKENS` tokens, and bytes of the cache."""
  # Positions beyond the table have its last row, which costs the same.
  config = model_of(name, 64)
  model = models.CausalLM(config)
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64), int))
  writer = generate.Generator(model, variables, generate.Sampling(0.0))
  cache = models.init_cache(config, 1, n)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
  logits = jnp.zeros((1, config.vocab_size))
  keys = jax.random.split(jax.random.key(0), 1)
  at = np.array([n - 2 * TOKENS])

  def write() -> float:
    nonlocal cache, logits

    def call():
      return writer.write(cache, logits, at, keys, TOKENS)

    found = []
    seconds = timing.timed(lambda: found.append(call()) or found)
    (cache, logits, _), _ = found[0]
    return seconds / TOKENS

  return write, size


def _layer(name: str, n: int):
  """Returns a function that runs one layer's attention, and its FLOPs."""
  config = model_of(name, n)
  (kind,) = set(config.layers)
  sizes = config.sizes(kind, causal=True)
  sizes = dataclasses.replace(sizes, query_block=QUERIES)
  module = kind.module(sizes)
  x = jnp.ones((1, n, config.embed_dim))
  variables = jax.jit(module.init)(jax.random.key(0), x[:, :64])
  apply = jax.jit(module.apply).lower(variables, x).compile()
  return lambda: timing.timed(apply, variables, x), kind.flops(sizes, n)


def run(item: Item) -> dict:
  """Returns the seconds of each call, and bytes or FLOPs, by model."""
  make = {"token": _writer, "layer": _layer}[item.what]
  made = {
    name: make(name, item.n)
    for name in measure.MODELS
    if item.what == "token" or item.n <= LONGEST.get(name, item.n)
  }
  functions = {name: function for name, (function, _) in made.items()}
  return {
    "seconds": timing.rounds(functions, ROUNDS),
    "bytes" if item.what == "token" else "flops": {
      name: int(size) for name, (_, size) in made.items()
    },
  }


def tell(line: dict) -> str:
  """Returns a line of progress."""
  found = ", ".join(
    f"{name} {1e3 * np.median(seconds):.3g} ms"
    for name, seconds in line["seconds"].items()
  )
  return f"{line['what']}, n = {line['n']:,}: {found}"


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return grid.main(__doc__, RESULTS, items(), run, tell, words)


if __name__ == "__main__":
  sys.exit(main())
