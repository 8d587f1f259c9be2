"""Trains two layers to copy and to recall over a distance.

  .venv/bin/python -m experiments.hybrid.probe

Both tasks have N rows, and ask in the second half for what stood N/2 rows and
more away, so that windows of 8 rows do not reach it:

* copy: the token N/2 rows before.
* recall: rows of the first half hold a key and a value each, all keys differ;
  rows of the second half hold the same keys in another order and ask for their
  values (multi-query associative recall, Arora et al. 2023, arXiv 2312.04927,
  with a key and its value in one row, so that one layer can do it).

All models have the same start, optimizer and batches. A run ends when it has
99.9% of the answers right, or after `UPDATES`. Stop it when you like; the
same command resumes. A run takes up to three minutes on a core.
"""

import dataclasses
import functools
import itertools
import pathlib
import sys

from experiments import grid
from experiments.probes import loop
from experiments.probes import measure as probes
from linformer_jax import models
from linformer_jax.attention import ATTENTIONS

RESULTS = pathlib.Path(__file__).parent / "results" / "probes.jsonl"
N, ASK = probes.N, probes.ASK
SYMBOLS = 64  # tokens that are copied, keys, and values
WINDOW = 8
LENGTHS = (4, 8, 16, 32)  # k
RATE = 1e-3
TRIED = (3e-4, 3e-3)  # other learning rates, for slots of one k
SEEDS = (0, 1)
UPDATES, EVERY = 2_000, 100
TASKS = ("copy", "recall")
LABELS = {
  "softmax": "softmax attention",
  "slots": "slots",
  "both": f"slots and a window of {WINDOW}",
  "windows": f"windows of {WINDOW} alone",
}


@dataclasses.dataclass(frozen=True)
class Item:
  """One run.

  Attributes:
    task: one of `TASKS`.
    model: a key of `LABELS`, the attention of both layers.
    k: slots; 0 without them.
    rate: the largest learning rate.
    seed: of the weights and the batches.
  """

  task: str
  model: str
  k: int
  rate: float
  seed: int = 0

  def config(self) -> models.ModelConfig:
    """Returns the model."""
    return models.ModelConfig(
      vocab_size=SYMBOLS + 1,
      num_segments=SYMBOLS + 1 if self.task == "recall" else 0,
      max_length=N,
      num_layers=2,
      embed_dim=128,
      num_heads=4,
      mlp_dim=256,
      attention=self._attention(),
      norm_position="pre",
      position_init="sinusoidal",
      initializer_std=0.0,
      scan_layers=False,
    )

  def _attention(self):
    if self.model == "softmax":
      return ATTENTIONS["softmax"]()
    if self.model == "windows":
      return ATTENTIONS["local"](window=WINDOW)
    return ATTENTIONS["linformer"](
      projected_length=self.k,
      sharing="none",
      projection_init="mean_pool",
      projection_std=0.0,
      local_window=WINDOW if self.model == "both" else 0,
    )


def items() -> list[Item]:
  """Returns all runs, those of the first seed first."""
  found = []
  for seed, task in itertools.product(SEEDS, TASKS):
    one = functools.partial(Item, task, rate=RATE, seed=seed)
    found += [one("softmax", 0), one("windows", 0)]
    found += [one(m, k) for m in ("slots", "both") for k in LENGTHS]
  found += [
    Item(task, "slots", LENGTHS[-2], rate)
    for task, rate in itertools.product(TASKS, TRIED)
  ]
  return found


def draw(task: str, key, rows: int) -> loop.Batch:
  """Returns a batch, whose second half asks.

  Args:
    task: one of `TASKS`.
    key: of the random numbers.
    rows: sequences, B.
  """
  batch = probes.TASKS[task](key, rows, SYMBOLS)
  # The model that copies has no segments.
  segments = None if task == "copy" else batch.segments
  return batch._replace(segments=segments, distance=None)


def measure(item: Item) -> dict:
  """Trains a model; returns the share of right answers along the run."""
  schedule = loop.Schedule(item.rate, UPDATES, EVERY)
  draw_task = functools.partial(draw, item.task)
  return loop.train(item.config(), draw_task, schedule, item.seed)


def tell(line: dict) -> str:
  """Returns a line of progress."""
  k = f", k = {line['k']}" if line["k"] else ""
  return (
    f"{line['task']}, {LABELS[line['model']]}{k}, rate {line['rate']:g}, seed "
    f"{line['seed']}: {100 * line['right'][-1]:.1f}% right after "
    f"{len(line['right']) * EVERY:,} updates"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return grid.main(__doc__, RESULTS, items(), measure, tell, words)


if __name__ == "__main__":
  sys.exit(main())
