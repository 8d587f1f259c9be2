"""Stretches our models from 512 tokens to 1,024 and 2,048.

  .venv/bin/python -m experiments.convert.longer --text=FOLDER

FOLDER is one of `python -m experiments.text`. The models are those of
experiments/hybrid on subwords, trained if --hybrid does not hold them. The
held-out text is the same at every length, in blocks of n tokens. Training on
takes 300 updates of 2,048 tokens, 3 to 10 minutes.
"""

import dataclasses
import itertools
import pathlib
import sys

from experiments import documents, grid, runs
from experiments.hybrid import attentions
from experiments.hybrid import measure as hybrid
from experiments.perplexity import sweep
from linformer_jax import convert, exported, loading
from linformer_jax.models import bert_names
from linformer_jax.models import convert as models
from linformer_jax.run import files

RESULTS = pathlib.Path(__file__).parent / "results" / "longer.jsonl"
TRAINED = 512  # tokens of pretraining
LENGTHS = (1_024, 2_048)
MODELS = ("softmax", "hybrid")
UPDATES, RATE = 300, 5e-4  # of training on, at the largest length


@dataclasses.dataclass(frozen=True)
class Item:
  """A model at a length.

  Attributes:
    model: one of `MODELS`, keys of those of experiments/hybrid.
    n: tokens of a block.
    positions: 'trained' at n = 512, or one of `convert.POSITIONS`.
    updates: of training on.
  """

  model: str
  n: int = TRAINED
  positions: str = "trained"
  updates: int = 0

  seed = 0
  tokens = "subwords"

  def point(self):
    """Returns training on as a point of the recipe of experiments/hybrid."""
    updates = self.updates or 1
    found = hybrid.Item(self.tokens, self.n, self.model, 0, updates, updates)
    point = dataclasses.replace(found, rate=RATE).point()
    name = f"{self.model}-n{self.n}-{self.positions}"
    flags = dict(point.flags) | runs.kept(updates)
    flags["optimizer.warmup_steps"] = str(updates // 6)
    if self.model == "softmax":  # written in RoBERTa's format
      flags["model.position_offset"] = str(bert_names.ROBERTA.offset)
    return dataclasses.replace(point, name=name, flags=tuple(flags.items()))


def items() -> list[Item]:
  """Returns all items."""
  found = [Item(model) for model in MODELS]
  found += list(
    itertools.starmap(
      Item, itertools.product(MODELS, LENGTHS, models.POSITIONS)
    )
  )
  found += list(
    itertools.starmap(
      Item,
      itertools.product(MODELS, LENGTHS[-1:], models.POSITIONS, (UPDATES,)),
    )
  )
  return found


class Runs(runs.Runs):
  """The models, and training on."""

  def __init__(self, text: str, workdir: str, pretrained: str):
    super().__init__(text, workdir)
    self._hybrid = runs.Runs(text, pretrained)

  def run(self, item):
    point = item.point()
    start = ()
    if item.updates:
      start = (f"--init_from={self._start(point.name)}",)
    return sweep.Run(point, item.seed, self.text, self.workdir, start)

  def _start(self, name: str) -> pathlib.Path:
    return files.folder(self.workdir).absolute() / f"{name}-start"

  def measure(self, item) -> dict:
    """Evaluates a model on the held-out text."""
    base = self._hybrid.run(hybrid.Item(item.tokens, TRAINED, item.model))
    runs.train(base)
    found = loading.load(base.workdir)
    if item.n > TRAINED:
      found = convert.convert(
        found, convert.Options(length=item.n, positions=item.positions)
      )
    if item.updates:
      exported.write(found, self._start(item.point().name))
      run = self.run(item)
      runs.train(run)
      found = loading.load(run.workdir)
    sums = self.sums(item, found.variables)
    return {
      "nats": round(documents.nats(sums), 5),
      "data_sha256": self.corpus(item).record.sha256,
      "documents": [[round(loss, 3), int(count)] for loss, count in sums],
    }


def tell(line: dict) -> str:
  """Returns a line of progress."""
  return (
    f"{line['model']}, n = {line['n']:,}, positions {line['positions']}, "
    f"{line['updates']:,} updates: {line['nats']:.4f} nats"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  attentions.register()
  parser = grid.parser(__doc__, RESULTS)
  parser.add_argument("--text", help="folder of experiments.text", default="")
  parser.add_argument("--workdir", default="runs/convert")
  parser.add_argument("--hybrid", default="runs/hybrid")
  given = parser.parse_args(words)
  if not given.list and not given.text:
    parser.error("--text=FOLDER is needed: see python -m experiments.text")
  made = Runs(given.text, given.workdir, given.hybrid)
  grid.work(items(), given, made.measure, tell)
  return 0


if __name__ == "__main__":
  sys.exit(main())
