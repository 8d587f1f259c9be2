"""Trains Linformers and softmax attention above windows.

  .venv/bin/python -m experiments gap --text=runs/text

Every item is a checkpoint of a run of configs/pretrain_small.py with windows in
the lower layers, evaluated document by document; a run is trained when the
first of its items is measured. `pilots` chose the learning rates. Stop it when
you like; the same command resumes. A run takes 5 minutes to an hour on a core;
to use two, start the command twice with different --only, --results and
`taskset -c`, and concatenate the files.
"""

import dataclasses
import pathlib
import sys

from experiments import runs
from experiments.perplexity import panels

RESULTS = pathlib.Path(__file__).parent / "results" / "runs.jsonl"
N = 512
SPAN = 4  # subwords that are masked in a row in the first pilots
WINDOW = 8
TUNED = 1_200  # updates of the runs that choose learning rates
# n / k of the upper layers; 0 for those that have no k.
PARTS = {"softmax": 0, "local": 0, "n/8": 8, "n/4": 4, "n/2": 2}
LABELS = {
  "softmax": "softmax attention",
  "local": "windows",
  "n/8": f"k = {N // 8}",
  "n/4": f"k = {N // 4}",
  "n/2": f"k = {N // 2}",
}
# Initial E and F, and their learning rate over the others'.
STARTS = {
  "pool": ("mean_pool", "0.0", "0.1"),
  "authors": ("normal", "0.02", "1.0"),
}
RATES = (1e-3, 2e-3, 4e-3)
# The best of the pilots; windows have the rate of softmax attention.
CHOSEN = {
  "softmax": (2e-3, ""),
  "local": (2e-3, ""),
  "linformer": (2e-3, "pool"),
}
AUTHORS_RATE = 2e-3
LENGTHS = (TUNED, 3 * TUNED, 9 * TUNED)  # updates of whole runs
DEPTHS = (8, 12)
WIDER = 256
SEEDS = (0, 1)


@dataclasses.dataclass(frozen=True)
class Item:
  """One checkpoint, the last of its run.

  Attributes:
    model: a key of `PARTS`, the attention of all layers, or with `windows` of
      those above.
    rate: the largest learning rate.
    start: a key of `STARTS`; '' with softmax attention.
    updates: of the run.
    windows: whether the lower half of the layers are windows of 8 rows.
    neighbors: whether heads start on neighbors, as the recipe's do; if not,
      masks cover spans.
    norm: position of the layer norms, 'post' as in the recipe, or 'pre', with
      which deeper models train at the rates of shallow ones.
    layers: of the model.
    width: of the model, M.
    seed: of the training.
  """

  model: str
  rate: float
  start: str = "pool"
  updates: int = TUNED
  windows: bool = True
  neighbors: bool = True
  norm: str = "post"
  layers: int = 4
  width: int = 128
  seed: int = 0

  tokens = "subwords"
  n = N

  @property
  def step(self) -> int:
    return self.updates

  def point(self) -> panels.Point:
    """Returns the run as a point of the recipe."""
    upper = "linformer" if PARTS[self.model] else self.model
    names = [upper] * self.layers
    if self.windows:
      half = self.layers // 2
      names[:half] = ["local"] * half
    flags = runs.kept(self.updates) | dict(runs.TOKENS[self.tokens])
    flags |= {
      "optimizer.learning_rate": f"{self.rate:g}",
      "model.norm_position": self.norm,
      "model.num_layers": str(self.layers),
      "model.embed_dim": str(self.width),
      "model.mlp_dim": str(4 * self.width),
    }
    if not self.neighbors:
      flags["model.position_init"] = "sinusoidal"
      flags["model.initializer_std"] = "0.0"
      flags["task.mask_span"] = str(SPAN)
    if self.windows:
      group = "attention" if upper == "local" else "attention.local"
      flags[f"{group}.window"] = str(WINDOW)
    if upper == "linformer":
      group = "attention.linformer" if self.windows else "attention"
      init, std, rate = STARTS[self.start]
      flags[f"{group}.projection_init"] = init
      flags[f"{group}.projection_std"] = std
      flags["optimizer.projection_rate"] = rate
    name = f"{self.model.replace('/', '')}-u{self.updates}-r{self.rate:g}"
    name += f"-{self.start}" if self.start else ""
    name += "" if self.windows else "-alone"
    name += "" if self.neighbors else "-free"
    name += "" if self.norm == "post" else "-pre"
    if (self.layers, self.width) != (4, 128):
      name += f"-L{self.layers}-M{self.width}"
    k = N // (PARTS[self.model] or 4)
    pattern = "+".join(names if len(set(names)) > 1 else names[:1])
    return panels.Point(
      name,
      LABELS[self.model],
      f"n={N},k={k},attention={pattern},updates={self.updates}",
      tuple(flags.items()),
    )


def pilots() -> list[Item]:
  """Returns the runs that chose the learning rates and the start of E."""
  found = [Item("softmax", rate, "") for rate in RATES]
  found += [Item("n/4", rate, s) for s in STARTS for rate in RATES]
  return [*found, Item("softmax", RATES[1], "", norm="pre")]


def free() -> list[Item]:
  """Returns the first pilots, with spans as masks and no neighbor heads."""
  found = [Item("softmax", rate, "") for rate in RATES[:2]]
  found += [Item("n/4", RATES[0], start) for start in STARTS]
  found.append(Item("softmax", RATES[1], "", LENGTHS[1]))
  free = {"neighbors": False, "norm": "pre"}
  return [dataclasses.replace(item, **free) for item in found]


def chosen(model: str, **more) -> Item:
  """Returns a run of a model at its own rate and start."""
  return Item(model, *CHOSEN["linformer" if PARTS[model] else model], **more)


def authors(updates: int) -> Item:
  """Returns a run of k = n/4 from the authors' start of E and F."""
  return Item("n/4", AUTHORS_RATE, "authors", updates)


def items() -> list[Item]:
  """Returns all evaluations, the pilots and short runs first."""
  found = free() + pilots()
  for updates in LENGTHS:
    found += [chosen(model, updates=updates) for model in PARTS]
  both = ("softmax", "n/4")
  found += [chosen(model, updates=LENGTHS[1], windows=False) for model in both]
  found += [
    chosen(model, layers=depth, norm="pre")
    for depth in (4, *DEPTHS)
    for model in both
  ]
  found += [chosen(model, width=WIDER) for model in both]
  found += [authors(updates) for updates in LENGTHS]
  found += [chosen(model, updates=LENGTHS[1], seed=1) for model in PARTS]
  return list(dict.fromkeys(found))


def tell(line: dict) -> str:
  """Returns a line of progress."""
  where = "above windows" if line["windows"] else "in all layers"
  start = f", E from {line['start']}" if line["start"] else ""
  where += "" if line["neighbors"] else ", no neighbor heads"
  return (
    f"{LABELS[line['model']]} {where}{start}, rate {line['rate']:g}, seed "
    f"{line['seed']}, {line['layers']} layers of {line['width']}, "
    f"{line['updates']:,} updates: {line['nats']:.4f} nats"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return runs.work(
    __doc__, RESULTS, "runs/gap", items(), runs.Runs, tell, words
  )


if __name__ == "__main__":
  sys.exit(main())
