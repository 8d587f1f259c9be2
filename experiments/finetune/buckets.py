"""Times updates on texts that are padded to one length, and in buckets.

  taskset -c 0 .venv/bin/python -m experiments.finetune.buckets

Takes models that `measure` has fine-tuned, with their data. Batches of one
stream are padded to 128 tokens, and those of the other to 32, 64 or 128, the
shortest that fits; in turns. Run it on an idle machine; it takes some minutes.
"""

import dataclasses
import pathlib
import sys
import time

import jax
import numpy as np

from experiments import grid
from experiments.finetune import data, measure
from linformer_jax import loading, step
from linformer_jax.data import pipeline
from linformer_jax.parallel import sharding

RESULTS = pathlib.Path(__file__).parent / "results" / "buckets.jsonl"
UPDATES = 40  # of each stream
MODELS = ("softmax",)


@dataclasses.dataclass(frozen=True)
class Item:
  """What is timed.

  Attributes:
    task: a key of `data.TASKS`.
    model: one of `MODELS`.
  """

  task: str
  model: str


def items() -> list[Item]:
  """Returns all items."""
  return [Item(task, model) for task in data.TASKS for model in MODELS]


def streams(config, task) -> dict[str, list]:
  """Returns `UPDATES` batches of each stream by name."""
  corpus = pipeline.prepare(pipeline.DataConfig(**config.data.to_dict()))
  found = {}
  for name, buckets in (("padded", 0), ("buckets", measure.BUCKETS)):
    iterator = pipeline.train_iterator(
      corpus, task, config.data.seed, config.train.batch_size, buckets=buckets
    )
    found[name] = [next(iterator) for _ in range(UPDATES)]
  return found


def run(item: Item, folder: pathlib.Path) -> dict:
  """Returns the seconds of each update by stream, and tokens with padding."""
  config = loading.stored_config(folder)
  steps = step.build_steps(config, sharding.make_mesh(config.mesh))
  batches = streams(config, steps.task)
  state, known = steps.init(), set()

  def update(batch) -> float:
    nonlocal state  # It is donated.
    began = time.perf_counter()
    state, _ = jax.block_until_ready(steps.train(state, batch))
    return time.perf_counter() - began

  for batch in (x for stream in batches.values() for x in stream):
    if batch["tokens"].shape not in known:  # compile
      update(batch)
      known.add(batch["tokens"].shape)
  seconds = {name: [] for name in batches}
  for pair in zip(*batches.values(), strict=True):
    for name, batch in zip(batches, pair, strict=True):
      seconds[name].append(round(update(batch), 6))
  tokens = {
    name: int(sum(x["tokens"].size for x in stream))
    for name, stream in batches.items()
  }
  return {"seconds": seconds, "tokens": tokens}


def speedup(line: dict, seed: int = 0) -> tuple[float, float, float]:
  """Returns padded seconds over those in buckets, and a 95% interval of it.

  By a bootstrap over the updates of each stream.
  """
  rng = np.random.default_rng(seed)
  padded, short = (np.array(x) for x in line["seconds"].values())
  draws = rng.integers(len(padded), size=(2, 2_000, len(padded)))
  found = padded[draws[0]].mean(1) / short[draws[1]].mean(1)
  low, high = np.quantile(found, [0.025, 0.975])
  return padded.mean() / short.mean(), low, high


def tell(line: dict) -> str:
  """Returns a line of progress."""
  ratio, low, high = speedup(line)
  return (
    f"{line['task']}, {line['model']}: {ratio:.2f} ({low:.2f} to {high:.2f}) "
    "times as fast in buckets"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = grid.parser(__doc__, RESULTS)
  parser.add_argument("--workdir", default="runs/finetune")
  given = parser.parse_args(words)
  root = pathlib.Path(given.workdir)

  def folder(item):
    name = f"{item.task}-{item.model}-r{measure.CHOSEN:g}-s0-test"
    return root / name

  def timed(item):
    if not folder(item).exists():
      sys.exit(f"{folder(item)} is missing: run python -m experiments finetune")
    return run(item, folder(item))

  grid.work(items(), given, timed, tell)
  return 0


if __name__ == "__main__":
  sys.exit(main())
