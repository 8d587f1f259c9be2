"""Trains causal models to repeat a passkey, and asks at longer lengths.

  .venv/bin/python -m experiments.causal.passkey

A row is noise with a marker and four digits somewhere in it; it ends with the
marker again, and the four digits are asked for one after the other. Two layers
of width 64 with rotary positions learn this at n = 256; the same weights are
asked at n = 1,024, 4,096 and 16,384. Stop it when you like; the same command
resumes. A run takes about ten minutes on a core.
"""

import dataclasses
import functools
import itertools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from experiments import grid
from experiments.causal import measure
from experiments.probes import loop
from linformer_jax import attention, models

RESULTS = pathlib.Path(__file__).parent / "results" / "passkey.jsonl"
N = 256
DIGITS, NOISE = 10, 32
MARK = 0  # then digits, then noise
KEY = 4  # digits of a passkey
# Rows by length, with four answers each.
ASKED = {256: 256, 1_024: 64, 4_096: 32, 16_384: 16}
QUARTERS = 4  # of the row, in which the passkey begins
SEEDS = (0, 1)
SCHEDULE = loop.Schedule(
  rate=2e-3, updates=2_000, every=250, batch=16, tested=256
)
QUERIES = 512
_SLOTS = {"block_length": measure.BLOCK}
# name: (label, attention)
MODELS = {
  "softmax": ("softmax attention", attention.SoftmaxConfig()),
  "slots": (
    "causal Linformer, 4 slots of 32 rows",
    attention.CausalLinformerConfig(projected_length=4, **_SLOTS),
  ),
  "slots16": (
    "causal Linformer, 16 slots of 32 rows",
    attention.CausalLinformerConfig(projected_length=16, **_SLOTS),
  ),
  "pyramid": (
    "causal Linformer, 33 slots at most",
    attention.CausalLinformerConfig(
      projected_length=4,
      levels=measure.LEVELS,
      kept_blocks=measure.KEPT,
      **_SLOTS,
    ),
  ),
  "local": (
    f"windows of {measure.WINDOW} rows",
    attention.LocalConfig(window=measure.WINDOW),
  ),
}


@dataclasses.dataclass(frozen=True)
class Item:
  """One run.

  Attributes:
    model: a key of `MODELS`.
    seed: of the weights and the batches.
  """

  model: str
  seed: int = 0

  def config(self, n: int = N) -> models.ModelConfig:
    """Returns the model, for rows of n tokens."""
    return models.ModelConfig(
      vocab_size=1 + DIGITS + NOISE,
      max_length=n,
      num_layers=2,
      embed_dim=64,
      num_heads=4,
      mlp_dim=128,
      attention=MODELS[self.model][1],
      norm_position="pre",
      position_init="rotary",
      initializer_std=0.0,
      scan_layers=False,
      query_block=QUERIES if n > 1_024 else 0,
    )


def items() -> list[Item]:
  """Returns all runs, those of the first seed first."""
  return [Item(model, seed) for seed, model in itertools.product(SEEDS, MODELS)]


def draw(key, rows: int, n: int = N) -> loop.Batch:
  """Rows of noise with a passkey, which the last `KEY` tokens ask for."""
  noise, digits, place = jax.random.split(key, 3)
  low = 1 + DIGITS
  tokens = jax.random.randint(noise, (rows, n), low, low + NOISE)
  code = jax.random.randint(digits, (rows, KEY), 1, low)
  key = jnp.pad(code, [(0, 0), (1, 0)], constant_values=MARK)
  end = n - KEY
  at = jax.random.randint(place, (rows, 1), 0, end - KEY - 1)
  rows_of = jnp.arange(rows)[:, None]
  tokens = tokens.at[rows_of, at + jnp.arange(KEY + 1)].set(key)
  tokens = tokens.at[:, end:].set(key[:, :KEY])
  asked = jnp.broadcast_to(jnp.arange(end, n), (rows, KEY))
  distance = jnp.broadcast_to(end - at, asked.shape)
  return loop.Batch(tokens, None, asked, code, distance)


def ask(item: Item, variables, n: int) -> list[float | None]:
  """Returns the shares of digits that are right, by quarters of distance."""
  module = models.CausalLM(item.config(n))
  batch = draw(jax.random.key(1), ASKED[n], n)
  at_once = max(1, 4_096 // n)

  @jax.jit
  def right(variables, batch):
    logits = loop.answers(module, variables, batch)
    return logits.argmax(-1) == batch.answers

  hits = [
    np.asarray(
      right(variables, jax.tree.map(lambda x, i=i: x[i : i + at_once], batch))
    )
    for i in range(0, ASKED[n], at_once)
  ]
  return loop.by_distance(np.concatenate(hits), batch.distance, n)


def run(item: Item) -> dict:
  """Trains a model, and asks it at all lengths."""

  def after(variables):
    return {"asked": {str(n): ask(item, variables, n) for n in ASKED}}

  return loop.train(
    item.config(), functools.partial(draw, n=N), SCHEDULE, item.seed,
    models.CausalLM, after,
  )  # fmt: skip


def tell(line: dict) -> str:
  """Returns a line of progress."""
  longer = "; ".join(f"{n}: {shares}" for n, shares in line["asked"].items())
  return (
    f"{MODELS[line['model']][0]}, seed {line['seed']}: "
    f"{line['right'][-1]:.1%} right in training; by distance {longer}"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return grid.main(__doc__, RESULTS, items(), run, tell, words)


if __name__ == "__main__":
  sys.exit(main())
