"""Trains decoders to write the letters of a noisy source in reverse.

  .venv/bin/python -m experiments seq2seq

A source has 128 tokens, of which 16 are letters and the others noise; the
target is the letters from the last to the first. Encoder and decoder have two
layers of width 64; models differ in the decoder's attention to the source.
Scores are those of greedy targets, written with a cache. Stop it when you like;
the same command resumes. A run takes about five minutes on a core.
"""

import dataclasses
import itertools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import grid
from linformer_jax import attention, models

RESULTS = pathlib.Path(__file__).parent / "results" / "runs.jsonl"
N, LETTERS_IN = 128, 16
LETTERS, NOISE = 20, 8
BEGIN = 0  # of a target; then letters, then noise
SEEDS = (0, 1)
RATE, BATCH, UPDATES, EVERY = 1e-3, 32, 3_000, 250
TESTED = 256
_MEANS = {"projection_init": "mean_pool", "projection_std": 0.02}
# name: (label, attention to the source)
MODELS = {
  "softmax": ("softmax attention", attention.SoftmaxConfig()),
  **{
    f"slots{k}": (
      f"Linformer, k = {k}",
      attention.LinformerConfig(projected_length=k, sharing="none", **_MEANS),
    )
    for k in (64, 32, 16)
  },
}


@dataclasses.dataclass(frozen=True)
class Item:
  """One run.

  Attributes:
    cross: a key of `MODELS`.
    seed: of the weights and the batches.
  """

  cross: str
  seed: int = 0

  def model(self, n: int = N) -> models.EncoderDecoder:
    """Returns the model, for sources of n tokens."""
    sizes = dict(
      vocab_size=1 + LETTERS + NOISE,
      num_layers=2,
      embed_dim=64,
      num_heads=4,
      mlp_dim=128,
      attention=attention.SoftmaxConfig(),
      norm_position="pre",
      position_init="sinusoidal",
      initializer_std=0.0,
      scan_layers=False,
    )
    return models.EncoderDecoder(
      models.ModelConfig(max_length=n, **sizes),
      models.ModelConfig(max_length=LETTERS_IN, **sizes),
      MODELS[self.cross][1],
    )


def items() -> list[Item]:
  """Returns all runs, those of the first seed first."""
  return [Item(cross, seed) for seed, cross in itertools.product(SEEDS, MODELS)]


def draw(key, rows: int):
  """Returns sources int [rows, N], and their letters in reverse."""
  letters, noise, places = jax.random.split(key, 3)
  letters = jax.random.randint(letters, (rows, LETTERS_IN), 1, 1 + LETTERS)
  low = 1 + LETTERS
  source = jax.random.randint(noise, (rows, N), low, low + NOISE)
  keys = jax.random.split(places, rows)
  order = jax.vmap(lambda key: jax.random.permutation(key, N))(keys)
  at = jnp.sort(order[:, :LETTERS_IN], axis=1)
  source = source.at[jnp.arange(rows)[:, None], at].set(letters)
  return source, letters[:, ::-1]


def inputs(targets):
  """Returns what the decoder reads to write targets."""
  return jnp.pad(targets[:, :-1], [(0, 0), (1, 0)], constant_values=BEGIN)


def write(model, variables, source):
  """Returns greedy targets int [rows, LETTERS_IN], written with a cache."""
  rows = len(source)
  cache = model.apply(variables, source, None, LETTERS_IN, method="begin")
  one = jnp.ones(rows, jnp.int32)

  def step(state, at):
    cache, token = state
    logits, cache = model.apply(
      variables, token[:, None], cache, at * one, one, method="extend"
    )
    token = logits.argmax(-1).astype(jnp.int32)
    return (cache, token), token

  start = cache, jnp.full(rows, BEGIN, jnp.int32)
  _, written = jax.lax.scan(step, start, jnp.arange(LETTERS_IN))
  return written.T


def train(item: Item, updates: int = UPDATES) -> tuple[dict, dict]:
  """Trains a model; returns its scores along the run, and its variables."""
  model = item.model()
  start, stream, test = jax.random.split(jax.random.key(item.seed), 3)
  rate = optax.warmup_cosine_decay_schedule(0.0, RATE, EVERY, updates)
  rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

  def loss(variables, batch):
    source, target = batch
    logits = model.apply(variables, source, inputs(target))
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, target
    ).mean()

  @jax.jit
  def some(state, key):
    def update(state, key):
      variables, memory = state
      change = jax.grad(loss)(variables, draw(key, BATCH))
      change, memory = rule.update(change, memory)
      return (optax.apply_updates(variables, change), memory), None

    return jax.lax.scan(update, state, jax.random.split(key, EVERY))[0]

  @jax.jit
  def right(variables):
    source, target = draw(test, TESTED)
    return write(model, variables, source) == target

  source, target = draw(test, 1)
  variables = model.init(start, source, target)
  state, found, began = (variables, rule.init(variables)), [], time.time()
  for i in range(updates // EVERY):
    state = some(state, jax.random.fold_in(stream, i))
    hits = np.asarray(right(state[0]))
    found.append(round(float(hits.mean()), 4))
  return {
    "right": found,
    "rows_right": round(float(hits.all(1).mean()), 4),
    "parameters": models.num_parameters(variables),
    "run_seconds": round(time.time() - began, 1),
  }, state[0]


def run(item: Item) -> dict:
  """Trains a model and scores it."""
  return train(item)[0]


def tell(line: dict) -> str:
  """Returns a line of progress."""
  return (
    f"{MODELS[line['cross']][0]}, seed {line['seed']}: {line['right'][-1]:.1%} "
    f"of the letters, {line['rows_right']:.1%} of the rows"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return grid.main(__doc__, RESULTS, items(), run, tell, words)


if __name__ == "__main__":
  sys.exit(main())
