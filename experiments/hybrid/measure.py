"""Trains stacks of linear cost and softmax attention on the same updates.

  .venv/bin/python -m experiments hybrid --text=runs/text

Every item is a checkpoint of a run of configs/pretrain_small.py, evaluated
document by document; a run is trained when the first of its items is measured,
and its checkpoints stay in --workdir. `PILOTS` chose the learning rates. Stop
it when you like; the same command resumes. A run takes 10 minutes to an hour on
a core; to use two, start the command twice with different --only, --results
and `taskset -c`, and concatenate the files.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
from flax import traverse_util

from experiments import documents
from experiments.mechanism import measure as mechanism
from experiments.perplexity import curves, sweep
from experiments.perplexity.panels import Point
from linformer_jax import load, optimizer, step
from linformer_jax.attention import initializers
from linformer_jax.data import pipeline
from linformer_jax.run import files, report

RESULTS = pathlib.Path(__file__).parent / "results" / "runs.jsonl"
UPDATES, KEEP = 3_600, 1_200  # of a run, and between its checkpoints
PILOT = 1_200
LENGTHS = (512, 1_024, 128)
SEEDS = (0, 1)
# From the cuts of experiments/mechanism: the smallest band that loses less
# than 0.01 nats in all layers at once on bytes, and the first rank above 1,
# which loses less than 0.02 in either of the upper two layers.
WINDOW, SLOTS = 8, 8
MODELS = {
  "softmax": "softmax",
  "hybrid": "local+local+linformer+linformer",
  "local": "local",
  "quarter": "linformer",
}
LABELS = {
  "softmax": "softmax attention",
  "hybrid": f"windows of {WINDOW} below, {SLOTS} slots above",
  "local": f"windows of {WINDOW} alone",
  "quarter": "k = n/4 in all layers",
}
TOKENS = {"bytes": (), "subwords": mechanism.SUBWORDS}
# The largest learning rates that were tried, the best one in the middle.
RATES = {
  "softmax": (5e-4, 1e-3, 2e-3),
  "hybrid": (1e-3, 2e-3, 4e-3),
  "quarter": (5e-4, 1e-3, 2e-3),
}
# Held-out blocks per evaluated one: about 40,000 targets of each.
EVERY = {"bytes": 4, "subwords": 1}


@dataclasses.dataclass(frozen=True)
class Item:
  """One checkpoint.

  Attributes:
    tokens: a key of `TOKENS`.
    n: sequence length; an update has 1,024 tokens at each.
    model: a key of `MODELS`.
    seed: of the training.
    step: updates that it was trained for.
    updates: of the whole run; the learning rate decays to 0 at the last.
    rate: the largest learning rate; 0 for the model's own of `RATES`.
    span: tokens that are masked in a row.
  """

  tokens: str
  n: int
  model: str
  seed: int = 0
  step: int = UPDATES
  updates: int = UPDATES
  rate: float = 0.0
  span: int = 1

  def __post_init__(self):
    if not self.rate:
      rates = RATES.get(self.model, RATES["hybrid"])
      object.__setattr__(self, "rate", rates[1])

  def point(self) -> Point:
    """Returns the run as a point of the recipe."""
    n, names = self.n, MODELS[self.model]
    k = n // 4 if self.model == "quarter" else SLOTS
    flags = {
      "optimizer.learning_rate": f"{self.rate:g}",
      "run.checkpoint_every_steps": str(KEEP),
      "run.keep_checkpoints": "100",
      "run.eval_every_steps": "0",
    } | dict(TOKENS[self.tokens])
    parts = names.split("+")
    for part in set(parts):
      group = "attention" if len(set(parts)) == 1 else f"attention.{part}"
      if part == "local":
        flags[f"{group}.window"] = str(WINDOW)
    if self.span > 1:
      flags["task.mask_span"] = str(self.span)
    name = f"{self.tokens}-n{n}-{self.model}-u{self.updates}-r{self.rate:g}"
    if self.span > 1:
      name += f"-span{self.span}"
    return Point(
      name,
      LABELS[self.model],
      f"n={n},k={k},attention={names},updates={self.updates}",
      tuple(flags.items()),
    )


def pilots() -> list[Item]:
  """Returns the runs that chose the learning rates."""
  return [
    Item("bytes", 512, model, step=PILOT, updates=PILOT, rate=rate)
    for model, rates in RATES.items()
    for rate in rates
  ]


def items() -> list[Item]:
  """Returns all evaluations, those of the first seed first."""
  found = pilots()
  for seed, tokens, n, model in itertools.product(
    SEEDS, TOKENS, LENGTHS, MODELS
  ):
    for at in range(KEEP, UPDATES + 1, KEEP):
      found.append(Item(tokens, n, model, seed, at))
  return found


class Runs:
  """The runs, each trained when it is first asked for."""

  def __init__(self, text: str, workdir: str):
    self._text, self._workdir = text, workdir

  @functools.lru_cache(maxsize=1)  # noqa: B019
  def corpus(self, item: Item):
    """Returns the tokenized text of a run."""
    fields = self._run(item).config.data.to_dict()
    return pipeline.prepare(pipeline.DataConfig(**fields))

  def _run(self, item: Item) -> sweep.Run:
    return sweep.Run(item.point(), item.seed, self._text, self._workdir)

  def measure(self, item: Item) -> dict:
    """Evaluates a checkpoint, after training if there is none."""
    run = self._run(item)
    mechanism.train(run)
    found = load.run(run.workdir, item.step)
    corpus = self.corpus(dataclasses.replace(item, step=item.updates))
    rows = max(1, 8 * 1_024 // item.n)
    sums = documents.losses(
      step.task_of(run.config),
      found.variables,
      corpus,
      rows,
      EVERY[item.tokens],
    )
    result = json.loads((files.folder(run.workdir) / report.RESULT).read_text())
    return {
      "nats": round(documents.nats(sums), 5),
      "parameters": result["parameters"],
      "update_flops": curves.update_flops(run.config),
      "run_seconds": round(result["busy_seconds"], 1),
      "data_sha256": corpus.record.sha256,
      "moved": moved(found.variables),
      "documents": [[round(loss, 3), int(n)] for loss, n in sums],
    }


def moved(variables) -> dict[str, float]:
  """Returns how far each E and F is from the window means that it began as.

  Args:
    variables: of a model with `projection_init` 'mean_pool' and no noise.

  Returns:
    The Frobenius norm of the difference over that of the start, by path.
  """
  found = {}
  leaves = traverse_util.flatten_dict(variables["params"], sep="/")
  for name, leaf in leaves.items():
    if optimizer.is_projection(name):
      start = initializers.window_mean(0.0)(jax.random.key(0), leaf.shape)
      change = jnp.linalg.norm(leaf - start) / jnp.linalg.norm(start)
      found[name] = round(float(change), 4)
  return found


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return mechanism.work(
    __doc__, RESULTS, "runs/hybrid", items(), Runs, tell, words
  )


def tell(line: dict) -> str:
  """Returns a line of progress."""
  return (
    f"{line['tokens']}, n = {line['n']:,}, {LABELS[line['model']]}, seed "
    f"{line['seed']}, rate {line['rate']:g}, {line['step']:,} of "
    f"{line['updates']:,} updates: {line['nats']:.4f} nats"
  )


if __name__ == "__main__":
  sys.exit(main())
