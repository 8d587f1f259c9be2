"""Trains two layers of every attention on four small tasks.

  .venv/bin/python -m experiments probes

Each row has 64 tokens. Stop it when you like; the same command resumes. A run
takes up to two minutes on a core.
"""

import dataclasses
import itertools
import pathlib
import sys

import jax
import jax.numpy as jnp

from experiments import grid
from experiments.probes import loop
from linformer_jax import attention, models

RESULTS = pathlib.Path(__file__).parent / "results" / "runs.jsonl"
N, HALF = 64, 32
SYMBOLS = 32
ASK = 0  # the token of a row that asks
BLOCKS = (4, 16)  # of the majority
SEEDS = (0, 1)
SCHEDULE = loop.Schedule(rate=1e-3, updates=1_000)
SLOTS, WINDOW = 16, 4
_WINDOWS = {"window": WINDOW}
_K = {"projected_length": SLOTS}
_MEANS = {
  "sharing": "none",
  "projection_init": "mean_pool",
  "projection_std": 0.0,
}
# name: (label, attentions of the two layers)
MODELS = {
  "softmax": ("softmax attention", [("softmax", {})]),
  "local": (f"windows of {WINDOW}", [("local", _WINDOWS)]),
  "linformer": (f"Linformer, k = {SLOTS}", [("linformer", _K | _MEANS)]),
  "mixed": (
    f"windows of {WINDOW} below, k = {SLOTS} above",
    [("local", _WINDOWS), ("linformer", _K | _MEANS)],
  ),
  "transformer_ls": (
    "Transformer-LS", [("transformer_ls", _K | _WINDOWS)]
  ),
  "nystrom": ("Nystromformer", [("nystrom", {"num_landmarks": SLOTS})]),
  "luna": ("Luna", [("luna", _K)]),
  "adamra": ("AdaMRA", [("adamra", {"ratios": (1, 4, 16)})]),
  "linear": ("Linear Transformer", [("linear", {})]),
  "performer": ("Performer", [("performer", {"num_features": 64})]),
  "cosformer": ("cosFormer", [("cosformer", {})]),
  "fnet": ("FNet", [("fnet", {})]),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Item:
  """One run.

  Attributes:
    task: a key of `TASKS`.
    model: a key of `MODELS`.
    seed: of the weights and the batches.
  """

  task: str
  model: str
  seed: int = 0

  def config(self) -> models.ModelConfig:
    """Returns the model."""
    _, layers = MODELS[self.model]
    return models.ModelConfig(
      vocab_size=SYMBOLS + 1,
      num_segments=SYMBOLS + 1,
      max_length=N,
      num_layers=2,
      embed_dim=64,
      num_heads=4,
      mlp_dim=128,
      attention=[attention.ATTENTIONS[name](**f) for name, f in layers],
      norm_position="pre",
      position_init="sinusoidal",
      initializer_std=0.0,
      scan_layers=False,
    )


def items() -> list[Item]:
  """Returns all runs, those of the first seed first."""
  return [
    Item(task, model, seed)
    for seed, task, model in itertools.product(SEEDS, TASKS, MODELS)
  ]


def _second_half(rows: int):
  """Returns the positions of the second half, int [rows, N / 2]."""
  return jnp.broadcast_to(jnp.arange(HALF, N), (rows, HALF))


def _symbols(key, shape, symbols: int = SYMBOLS):
  return jax.random.randint(key, shape, 1, symbols + 1)


def _permuted(key, rows: int, size: int):
  """Returns permutations of `size` numbers from 0, int [rows, size]."""
  keys = jax.random.split(key, rows)
  return jax.vmap(lambda key: jax.random.permutation(key, size))(keys)


def copy(key, rows: int, symbols: int = SYMBOLS) -> loop.Batch:
  """The token half a row before."""
  drawn = _symbols(key, (rows, HALF), symbols)
  tokens = jnp.pad(drawn, [(0, 0), (0, HALF)], constant_values=ASK)
  asked = _second_half(rows)
  return loop.Batch(
    tokens, jnp.zeros_like(tokens), asked, drawn, jnp.full_like(drawn, HALF)
  )


def recall(key, rows: int, symbols: int = SYMBOLS) -> loop.Batch:
  """The value that stands with a key, anywhere in the first half.

  Multi-query associative recall (Arora et al. 2023, arXiv 2312.04927), with a
  key and its value in one row.
  """
  keys, values, order = jax.random.split(key, 3)
  names = 1 + _permuted(keys, rows, symbols)[:, :HALF]
  held = _symbols(values, (rows, HALF), symbols)
  place = _permuted(order, rows, HALF)
  queries = jnp.take_along_axis(names, place, 1)
  asked = _second_half(rows)
  return loop.Batch(
    jnp.concatenate([names, queries], 1),
    jnp.pad(held, [(0, 0), (0, HALF)]),
    asked,
    jnp.take_along_axis(held, place, 1),
    asked - place,
  )


def majority(key, rows: int) -> loop.Batch:
  """The most frequent token of a row's block, of 4 or of 16 rows.

  A fifth of the symbols are used. The segment tells which block is asked for,
  and the first of several tokens counts.
  """
  first, second = jax.random.split(key)
  count = SYMBOLS // 5
  tokens = jax.random.randint(first, (rows, N), 1, count + 1)
  which = jax.random.randint(second, (rows, N), 0, len(BLOCKS))
  found = []
  for block in BLOCKS:
    blocks = tokens.reshape(rows, N // block, block)
    counts = jax.nn.one_hot(blocks, count + 1).sum(2)
    found.append(jnp.repeat(counts.argmax(-1), block, axis=1))
  answers = jnp.where(which == 0, *found)
  asked = jnp.broadcast_to(jnp.arange(N), (rows, N))
  return loop.Batch(tokens, 1 + which, asked, answers)


def needle(key, rows: int) -> loop.Batch:
  """The one marked token of the first half, asked for by all of the second."""
  first, second = jax.random.split(key)
  drawn = _symbols(first, (rows, HALF))
  place = jax.random.randint(second, (rows, 1), 0, HALF)
  tokens = jnp.pad(drawn, [(0, 0), (0, HALF)], constant_values=ASK)
  marks = (jnp.arange(N) == place).astype(jnp.int32)
  asked = _second_half(rows)
  answers = jnp.broadcast_to(jnp.take_along_axis(drawn, place, 1), asked.shape)
  return loop.Batch(tokens, marks, asked, answers, asked - place)


TASKS = {"copy": copy, "recall": recall, "majority": majority, "needle": needle}


def floors(task: str, rows: int = 512) -> float:
  """Returns the share that the most frequent answer of a task has."""
  answers = TASKS[task](jax.random.key(0), rows).answers
  return float(jnp.bincount(answers.ravel()).max() / answers.size)


def measure(item: Item) -> dict:
  """Trains a model; returns the share of right answers along the run."""
  return loop.train(item.config(), TASKS[item.task], SCHEDULE, item.seed)


def tell(line: dict) -> str:
  """Returns a line of progress."""
  return (
    f"{line['task']}, {MODELS[line['model']][0]}, seed {line['seed']}: "
    f"{line['right'][-1]:.1%} right after "
    f"{len(line['right']) * SCHEDULE.every:,} updates, in "
    f"{line['run_seconds']:.0f} s"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return grid.main(__doc__, RESULTS, items(), measure, tell, words)


if __name__ == "__main__":
  sys.exit(main())
