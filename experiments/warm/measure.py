"""Trains Linformers from the weights of a trained softmax model.

  .venv/bin/python -m experiments warm --text=runs/text

A softmax model is trained for `BASE` updates. Then its attention is replaced,
with k = n/4, and all is trained for `UPDATES` more: 'pool' has the recipe's
window means as E and F, 'fitted' an E and an F fitted to the attention of each
head (`experiments.warm.fit`). 'softmax' goes on as it is; 'scratch' is a
Linformer that is trained for all updates from the recipe's start. Stop it when
you like; the same command resumes. A run takes 6 to 12 minutes on a core.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import sys

from experiments import runs
from experiments.hybrid import measure as hybrid
from experiments.perplexity import panels, sweep
from experiments.warm import fit
from linformer_jax import loading, origin, step
from linformer_jax.data import pipeline
from linformer_jax.parallel import sharding
from linformer_jax.run import checkpoint, files, workdir

RESULTS = pathlib.Path(__file__).parent / "results" / "runs.jsonl"
N, K = 128, 32
BASE = UPDATES = 3_600
KEEP = 1_200
ARMS = {
  "softmax": "softmax attention, trained on",
  "pool": "k = n/4 from its weights, E and F window means",
  "fitted": "k = n/4 from its weights, E and F fitted to its attention",
  "scratch": "k = n/4 from the start",
}
# (the largest learning rate, that of E and F over it) that are tried
RATES = ((1e-3, 0.1), (2e-3, 0.1), (1e-3, 1.0))
SEEDS = (0, 1)
ROWS = 8  # of a batch of the fit


@dataclasses.dataclass(frozen=True)
class Item:
  """One checkpoint.

  Attributes:
    arm: a key of `ARMS`.
    rate: the largest learning rate.
    e_rate: that of E and F over it; 0 without E.
    seed: of the training, and of the softmax model that it starts from.
    step: updates that it was trained for, without those of the softmax model.
  """

  arm: str
  rate: float
  e_rate: float
  seed: int = 0
  step: int = UPDATES

  tokens = "bytes"
  n = N

  @property
  def updates(self) -> int:
    """Updates of the whole run."""
    return UPDATES + (BASE if self.arm == "scratch" else 0)

  def point(self, start: str = "") -> panels.Point:
    """Returns the run as a point of the recipe.

    Args:
      start: the absolute path of the run to start from.
    """
    softmax = self.arm == "softmax"
    flags = {"optimizer.learning_rate": f"{self.rate:g}"} | runs.kept(KEEP)
    if not softmax:
      flags["optimizer.projection_rate"] = f"{self.e_rate:g}"
    if start:
      # Other blocks and masks than those that the weights have seen.
      flags |= {"train.init_from": start, "data.seed": str(100 + self.seed)}
    name = f"{self.arm}-r{self.rate:g}-e{self.e_rate:g}"
    return panels.Point(
      name,
      ARMS[self.arm],
      f"n={N},k={K},attention={'softmax' if softmax else 'linformer'},"
      f"updates={self.updates}",
      tuple(flags.items()),
    )


def base(seed: int) -> hybrid.Item:
  """Returns the softmax model."""
  return hybrid.Item("bytes", N, "softmax", seed, updates=BASE, rate=1e-3)


def items() -> list[Item]:
  """Returns all evaluations, those of the first seed first."""
  found = []
  for seed, arm, (rate, e_rate) in itertools.product(SEEDS, ARMS, RATES):
    one = functools.partial(Item, arm, rate, e_rate, seed)
    if arm == "softmax":
      one = functools.partial(Item, arm, rate, 0.0, seed)
    found += [one(at) for at in range(0, one().updates + 1, KEEP)]
  return list(dict.fromkeys(found))


class Runs(runs.Runs):
  """The runs, the softmax models and the fits."""

  def run(self, item):
    if isinstance(item, hybrid.Item):
      return super().run(item)
    if item.arm == "scratch":
      start = ""
    elif item.arm == "fitted":
      start = self._fitted(item.seed)
    else:
      start = self._softmax(item.seed)
    point = item.point(start)
    return sweep.Run(point, item.seed, self.text, self.workdir)

  def _softmax(self, seed: int) -> str:
    """Returns the folder of the softmax model, after training it."""
    run = super().run(base(seed))
    runs.train(run)
    return str(files.folder(run.workdir).absolute())

  def _fitted(self, seed: int) -> str:
    """Returns a folder with the softmax model's weights and fitted E and F."""
    folder = files.folder(self.workdir).absolute() / f"fitted-s{seed}"
    if (folder / "errors.json").exists():
      return str(folder)
    print(f"fitting E and F of seed {seed}", flush=True)
    item = Item("pool", *RATES[0], seed)
    config = self.run(item).config
    mesh = sharding.make_mesh(config.mesh)
    steps = step.build_steps(config, mesh)
    softmax = self._softmax(seed)
    state, _ = origin.start(
      origin.find(softmax), steps.init(), mesh, steps.model
    )
    found = loading.load(softmax)
    corpus = self.corpus(base(seed))
    batches = pipeline.train_iterator(corpus, steps.task, 200 + seed, ROWS)
    weights, errors = fit.fit(
      found.model,
      found.variables,
      fit.projections(state.params),
      (batch["tokens"] for batch in batches),
    )
    params = fit.with_projections(state.params, weights)
    workdir.claim(folder, config, corpus).close()
    with checkpoint.Checkpoints(folder) as saved:
      saved.save(0, state.replace(params=params), {})
    (folder / "errors.json").write_text(json.dumps(errors, indent=1))
    return str(folder)

  def measure(self, item: Item) -> dict:
    """Evaluates a checkpoint; that of 0 updates also tells the fit's errors."""
    found = super().measure(item)
    if item.arm == "fitted" and item.step == 0:
      folder = files.folder(self._fitted(item.seed))
      found["fit"] = json.loads((folder / "errors.json").read_text())
    return found


def tell(line: dict) -> str:
  """Returns a line of progress."""
  return (
    f"{line['arm']}, rate {line['rate']:g}, of E {line['e_rate']:g}, seed "
    f"{line['seed']}: {line['step']:,} updates: {line['nats']:.4f} nats"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return runs.work(__doc__, RESULTS, "runs/warm", items(), Runs, tell, words)


if __name__ == "__main__":
  sys.exit(main())
