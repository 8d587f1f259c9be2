"""Trains two layers to copy and to count, as each token's flag says.

  .venv/bin/python -m experiments adamra

Half of the tokens of a row carry flag 0 and ask for the token `BACK` places
before, which needs rows; the others carry flag 1 and ask for the most frequent
token of their block of `BLOCK`, for which a window's mean is enough. Does the
router of AdaMRA send each to the resolution that it needs?

All models have the same start of the shared weights, optimizer and batches.
Stop it when you like; the same command resumes. A run takes up to two minutes
on a core.
"""

import dataclasses
import functools
import itertools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import grid
from linformer_jax import models
from linformer_jax.attention import ATTENTIONS
from linformer_jax.tasks import auxiliary

RESULTS = pathlib.Path(__file__).parent / "results" / "runs.jsonl"
N, BLOCK, BACK = 64, 16, 2
SYMBOLS = 8  # tokens
FAVORITE = 0.3  # share of a block's tokens that are its favorite by design
RATIOS = (1, 4, 16)
SLOTS = N // 4  # k of Linformer
SEEDS = (0, 1, 2)
RATE, BATCH = 2e-3, 32
UPDATES, EVERY = 1_000, 100
TESTED = 256  # rows of an evaluation
FLAGS = ("copy", "count")
# name: (label, attention, its fields)
MODELS = {
  "soft": ("AdaMRA, soft", "adamra", {"ratios": RATIOS}),
  "hard": ("AdaMRA, hard", "adamra", {"ratios": RATIOS, "route": "hard"}),
  "uniform": (
    "AdaMRA, uniform",
    "adamra",
    {"ratios": RATIOS, "route": "uniform"},
  ),
  "exact": (
    "AdaMRA, soft, softmax over slots",
    "adamra",
    {"ratios": RATIOS, "kernel": "softmax"},
  ),
  "coarse": (f"windows of {BLOCK} alone", "adamra", {"ratios": (BLOCK,)}),
  "linear": ("linear attention: rows alone", "linear", {}),
  "linformer": (
    f"Linformer, k = {SLOTS}",
    "linformer",
    {
      "projected_length": SLOTS,
      "sharing": "none",
      "projection_init": "mean_pool",
      "projection_std": 0.0,
    },
  ),
}


@dataclasses.dataclass(frozen=True)
class Item:
  """One run.

  Attributes:
    model: a key of `MODELS`, the attention of both layers.
    seed: of the weights and the batches.
  """

  model: str
  seed: int = 0

  def config(self) -> models.ModelConfig:
    """Returns the model."""
    _, name, fields = MODELS[self.model]
    return models.ModelConfig(
      vocab_size=SYMBOLS,
      num_segments=len(FLAGS),
      max_length=N,
      num_layers=2,
      embed_dim=64,
      num_heads=4,
      mlp_dim=128,
      attention=ATTENTIONS[name](**fields),
      norm_position="pre",
      position_init="sinusoidal",
      initializer_std=0.0,
      scan_layers=False,
    )


def items() -> list[Item]:
  """Returns all runs, those of the first seed first."""
  return [Item(name, seed) for seed, name in itertools.product(SEEDS, MODELS)]


def draw(key, rows: int):
  """Returns a batch: tokens, flags and answers, int32 [rows, N].

  The first `BACK` tokens have flag 1, as nothing stands before them.
  """
  favorites, chosen, others, flags = jax.random.split(key, 4)
  shape = rows, N // BLOCK, BLOCK
  favorite = jax.random.randint(favorites, (*shape[:2], 1), 0, SYMBOLS)
  tokens = jnp.where(
    jax.random.bernoulli(chosen, FAVORITE, shape),
    favorite,
    jax.random.randint(others, shape, 0, SYMBOLS),
  )
  counts = jax.nn.one_hot(tokens, SYMBOLS).sum(2)
  most = jnp.argmax(counts, -1)  # the first of several
  tokens = tokens.reshape(rows, N)
  flags = jax.random.bernoulli(flags, 0.5, (rows, N)).at[:, :BACK].set(True)
  answers = jnp.where(
    flags, jnp.repeat(most, BLOCK, axis=1), jnp.roll(tokens, BACK, axis=1)
  )
  return tokens, flags.astype(jnp.int32), answers.astype(jnp.int32)


def by_flag(values, flags) -> list:
  """Returns the means of values [B, N, ...] over the tokens of each flag."""
  rows = np.asarray(values, np.float64).reshape(flags.size, -1)
  return [
    np.round(rows[np.ravel(flags) == flag].mean(0), 4).tolist()
    for flag in range(len(FLAGS))
  ]


def floor(seed: int = 0) -> list[float]:
  """Returns what the block's most frequent token scores, by flag."""
  tokens, flags, answers = jax.device_get(draw(jax.random.key(seed), TESTED))
  blocks = np.eye(SYMBOLS)[tokens].reshape(TESTED, -1, BLOCK, SYMBOLS)
  most = np.repeat(blocks.sum(2).argmax(-1), BLOCK, axis=1)
  return [share for (share,) in by_flag(most == answers, flags)]


def measure(item: Item, updates: int = UPDATES) -> dict:
  """Trains a model; returns its answers, and its router's, by flag."""
  config = item.config()
  module = models.MaskedLM(config)
  start, stream, test = jax.random.split(jax.random.key(item.seed), 3)
  rate = optax.warmup_cosine_decay_schedule(0.0, RATE, EVERY, updates)
  rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

  def loss(params, batch):
    tokens, flags, answers = batch
    with auxiliary.collected() as sown:
      logits = auxiliary.apply(
        module, {"params": params}, tokens, segments=flags
      )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, answers)
    return losses.mean() + sum(map(jnp.sum, sown))

  @functools.partial(jax.jit, donate_argnums=0)
  def some(state, keys):
    def update(state, key):
      params, memory = state
      change = jax.grad(loss)(params, draw(key, BATCH))
      change, memory = rule.update(change, memory)
      return (optax.apply_updates(params, change), memory), None

    return jax.lax.scan(update, state, keys)[0]

  @jax.jit
  def answer(params):
    tokens, flags, answers = draw(test, TESTED)
    logits, found = module.apply(
      {"params": params},
      tokens,
      segments=flags,
      capture_intermediates=lambda module, _: module.name == "router",
    )
    routers = [
      jax.nn.softmax(layer["block"]["attention"]["router"]["__call__"][0])
      for _, layer in sorted(
        found.get("intermediates", {}).get("encoder", {}).items()
      )
    ]
    return logits.argmax(-1) == answers, flags, routers

  tokens, flags, _ = draw(test, 1)
  params = module.init(start, tokens, segments=flags)["params"]
  state, right, began = (params, rule.init(params)), [], time.time()
  for i in range(updates // EVERY):
    keys = jax.random.split(jax.random.fold_in(stream, i), EVERY)
    state = some(state, keys)
    correct, flags, routers = jax.device_get(answer(state[0]))
    right.append([share for (share,) in by_flag(correct, flags)])
  return {
    "right": right,
    "weights": [by_flag(weights, flags) for weights in routers],
    "chosen": [
      by_flag(np.eye(len(RATIOS))[weights.argmax(-1)], flags)
      for weights in routers
    ],
    "parameters": models.num_parameters(state[0]),
    "run_seconds": round(time.time() - began, 1),
  }


def tell(line: dict) -> str:
  """Returns a line of progress."""
  copied, counted = line["right"][-1]
  return (
    f"{MODELS[line['model']][0]}, seed {line['seed']}: copies "
    f"{100 * copied:.1f}%, counts {100 * counted:.1f}%, in "
    f"{line['run_seconds']:.0f} s"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return grid.main(__doc__, RESULTS, items(), measure, tell, words)


if __name__ == "__main__":
  sys.exit(main())
