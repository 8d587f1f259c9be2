"""Trains stacks of linear cost and softmax attention on the same updates.

  .venv/bin/python -m experiments hybrid --text=runs/text

Every item is a checkpoint of a run of configs/pretrain_small.py, evaluated
document by document; a run is trained when the first of its items is measured,
and its checkpoints stay in --workdir. `pilots` chose the learning rates. Stop
it when you like; the same command resumes. A run takes 10 minutes to an hour on
a core; to use two, start the command twice with different --only, --results
and `taskset -c`, and concatenate the files.
"""

import dataclasses
import itertools
import pathlib
import sys

from experiments import runs
from experiments.hybrid import attentions
from experiments.perplexity import panels

RESULTS = pathlib.Path(__file__).parent / "results" / "runs.jsonl"
UPDATES, KEEP = 3_600, 1_200  # of a run, and between its checkpoints
STEPS = range(KEEP, UPDATES + 1, KEEP)
PILOT = 1_200
LENGTHS = (512, 1_024, 128)
SEEDS = (0, 1)
SPANS = (8,)  # tokens that are masked in a row, but for one at a time
# From the cuts of experiments/mechanism, first seed: the smallest band that
# loses less than 0.01 nats in all layers at once on bytes, and the first rank
# above 1, which loses less than 0.02 in either of the upper two layers.
WINDOW, SLOTS = 8, 8
# name: (attention of the layers, fields of the config)
MODELS = {
  "softmax": ("softmax", {}),
  "hybrid": (
    "local+local+linformer+linformer",
    {"attention.local.window": str(WINDOW)},
  ),
  "local": ("local", {"attention.window": str(WINDOW)}),
  "above": (
    "local+local+softmax+softmax",
    {"attention.local.window": str(WINDOW)},
  ),
  "quarter": ("linformer", {}),
  "both": ("linformer", {"attention.local_window": str(WINDOW)}),
}
_NEAR_FAR = {
  "attention.sharing": "none",
  "attention.projected_length": str(SLOTS),
  "attention.projection_init": "mean_pool",
  "attention.projection_std": "0.0",
  "attention.local_window": str(WINDOW),
}
MODELS |= {
  "dual": ("near_far", _NEAR_FAR | {"attention.dual_norm": "True"}),
  "dropped": ("near_far", _NEAR_FAR | {"attention.dropout_rate": "0.5"}),
}
LABELS = {
  "softmax": "softmax attention",
  "hybrid": f"windows of {WINDOW} below, {SLOTS} slots above",
  "local": f"windows of {WINDOW} alone",
  "above": f"windows of {WINDOW} below, softmax attention above",
  "quarter": "k = n/4 in all layers",
  "both": f"a window of {WINDOW} and {SLOTS} slots in all layers",
  "dual": "these, each normalized apart",
  "dropped": "these, the windows dropped from half of the sequences",
}
# The largest learning rates that were tried, the best one in the middle; a
# model that is not named has the stack's.
RATES = {
  "softmax": (1e-3, 2e-3, 4e-3),
  "hybrid": (1e-3, 2e-3, 4e-3),
  "quarter": (5e-4, 1e-3, 2e-3),
}
TRIED = (("bytes", 512), ("bytes", 128), ("subwords", 512))
CONFIG = "experiments/hybrid/config.py"


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

  def point(self) -> panels.Point:
    """Returns the run as a point of the recipe."""
    n, (names, fields) = self.n, MODELS[self.model]
    k = n // 4 if self.model == "quarter" else SLOTS
    flags = {"optimizer.learning_rate": f"{self.rate:g}"} | runs.kept(KEEP)
    flags |= dict(runs.TOKENS[self.tokens]) | fields
    name = f"{self.tokens}-n{n}-{self.model}-u{self.updates}-r{self.rate:g}"
    if self.span > 1:
      flags["task.mask_span"] = str(self.span)
      name += f"-span{self.span}"
    return panels.Point(
      name,
      LABELS[self.model],
      f"n={n},k={k},attention={names},updates={self.updates}",
      tuple(flags.items()),
      CONFIG if names == attentions.NearFarConfig.name else panels.CONFIG,
    )


def pilots(tokens: str, n: int) -> list[Item]:
  """Returns the runs that chose the learning rates."""
  models = RATES if (tokens, n) == TRIED[0] else ("softmax", "hybrid")
  return [
    Item(tokens, n, model, step=PILOT, updates=PILOT, rate=rate)
    for model in models
    for rate in RATES[model]
  ]


def items() -> list[Item]:
  """Returns all evaluations, those of the first seed first."""
  found = [item for where in TRIED for item in pilots(*where)]
  main = ("softmax", "hybrid", "local", "above")
  for seed, tokens, n, at in itertools.product(
    SEEDS, runs.TOKENS, LENGTHS, STEPS
  ):
    found += [Item(tokens, n, model, seed, at) for model in main]
  for model, at in itertools.product(MODELS, STEPS):
    if model not in main:
      found.append(Item("bytes", 512, model, 0, at))
  for span, model, at in itertools.product(SPANS, (*main, "both"), STEPS):
    found.append(Item("bytes", 512, model, 0, at, span=span))
  return found


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  attentions.register()
  return runs.work(
    __doc__, RESULTS, "runs/hybrid", items(), runs.Runs, tell, words
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
