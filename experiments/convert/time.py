"""Times the forward pass of MiniLM-L6, with softmax attention and with slots.

  taskset -c 1 .venv/bin/python -m experiments.convert.time --model=FOLDER

Texts of n random tokens, batch 1, float32; calls in turns. Seconds are those of
the process on its core, so other processes count little. Beyond 512 tokens the
position table is stretched. Softmax attention is also taken in blocks of keys
(implementation 'cpu'), and only so where its scores would be large.
"""

import dataclasses
import os
import pathlib
import statistics
import sys
import time

import jax
import numpy as np

from experiments import grid
from experiments.convert import measure
from linformer_jax import attention, models
from linformer_jax.models import convert, weights

RESULTS = pathlib.Path(__file__).parent / "results" / "time.jsonl"
K = 128
CALLS = {512: 7, 2_048: 3, 8_192: 1}


@dataclasses.dataclass(frozen=True)
class Item:
  """What is timed in turns.

  Attributes:
    n: tokens.
  """

  n: int


def encoders(folder: str, n: int) -> dict:
  """Returns jitted encoders by name, and their variables."""
  config, variables = weights.load(folder)
  config, variables = convert.stretch(config, variables, n, "stretch")
  layers = dict.fromkeys(range(config.num_layers))
  flash = attention.SoftmaxConfig(implementation="cpu")
  found = {
    "softmax": (config, variables),
    "softmax in blocks": (
      dataclasses.replace(config, attention=flash),
      variables,
    ),
    "slots": convert.convert(config, variables, K, layers),
  }
  if n > 4_096:  # 12 heads of 8,192 x 8,192 scores take 3 GB
    del found["softmax"]
  return {
    name: (jax.jit(models.TokenEncoder(config).apply), jax.device_put(values))
    for name, (config, values) in found.items()
  }


def run(folder: str, item: Item) -> dict:
  """Returns the seconds of each call by encoder, and the load of the host."""
  made = encoders(folder, item.n)
  tokens = np.random.default_rng(0).integers(1_000, 30_000, (1, item.n))
  seconds = {name: [] for name in made}
  for done in range(CALLS[item.n] + 1):
    for name, (apply, variables) in made.items():
      start = time.process_time()
      jax.block_until_ready(apply(variables, tokens))
      if done:  # the first compiles
        seconds[name].append(round(time.process_time() - start, 5))
  return {"seconds": seconds, "load": round(os.getloadavg()[0], 1)}


def ratio(line: dict) -> float:
  """Returns the median time of the faster softmax over that of slots."""
  medians = {name: statistics.median(x) for name, x in line["seconds"].items()}
  slots = medians.pop("slots")
  return min(medians.values()) / slots


def tell(line: dict) -> str:
  """Returns a line of progress."""
  return f"n = {line['n']:,}: {ratio(line):.2f} times as fast"


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = grid.parser(__doc__, RESULTS)
  measure.add_flags(parser, "model")
  given = parser.parse_args(words)
  if not given.list and not given.model:
    parser.error("--model=FOLDER is needed")
  found = [Item(n) for n in CALLS]
  grid.work(found, given, lambda item: run(given.model, item), tell)
  return 0


if __name__ == "__main__":
  sys.exit(main())
