"""Times blocks of the kernels on a TPU, beside what XLA makes of the layer.

  .venv/bin/python -m experiments.kernels.tune

For each number of slots, all block sizes in turns, forward and with the
backward pass. It takes some minutes, and writes results/tuned.jsonl.
"""

import dataclasses
import functools
import itertools
import pathlib
import sys

import jax
import numpy as np

from experiments import grid, timing
from experiments.kernels import measure
from linformer_jax.attention.ops import flash, xla
from linformer_jax.attention.ops.pallas_tpu import fused, head, slots

RESULTS = pathlib.Path(__file__).parent / "results" / "tuned.jsonl"
ROUNDS = 15


@dataclasses.dataclass(frozen=True)
class Item:
  """What is timed in turns.

  Attributes:
    n: rows of a sequence; there are 8, of width 768.
    k: slots.
    dtype: of rows and products.
    passes: 'forward' or 'both'.
  """

  n: int
  k: int
  dtype: str
  passes: str


def items() -> list[Item]:
  """Returns all items."""
  grid_of = (4_096, 16_384), (128, 256, 1_024), ("bfloat16", "float32")
  return list(
    itertools.starmap(Item, itertools.product(*grid_of, ("forward", "both")))
  )


def layers(item: Item) -> dict:
  """Returns functions of X, parameters, K' and V' by name, all that fit."""
  sizes = measure.Item("", "", "", item.n, item.k, dtype=item.dtype)
  budget, heads = head.budget(), measure.WIDTH // sizes.dim
  found = {
    name: functools.partial(fused.reference, attend=attend)
    for name, attend in (("xla", xla.attend), ("flash", flash.attend))
  }
  for rows in head.ROWS:
    held = fused.needed(rows, measure.WIDTH, measure.WIDTH, item.k, item.dtype)
    if held <= budget:
      found[f"sublayer, {rows} rows"] = functools.partial(
        fused.kernel, rows=rows, budget=budget
      )
    blocks = slots.Blocks(rows, slots.heads_of(heads, sizes.dim), budget)
    attend = functools.partial(slots.kernel, blocks=blocks)
    found[f"slots, {rows} rows"] = functools.partial(
      fused.reference, attend=attend
    )
  return {
    name: measure.by_heads(function, sizes.dim)
    for name, function in found.items()
  }


def run(item: Item) -> dict:
  """Returns the seconds of each call by layer; none if it does not compile."""
  sizes = measure.Item("", "", "", item.n, item.k, dtype=item.dtype)
  drawn = jax.random.key(0)
  args = jax.tree.map(
    lambda a: (jax.random.normal(drawn, a.shape) * 0.02).astype(a.dtype),
    measure.shapes(sizes),
  )
  functions, failed = {}, {}
  for name, layer in layers(item).items():
    call = jax.jit(
      measure.both_passes(layer) if item.passes == "both" else layer
    )
    given = (args[0], *args) if item.passes == "both" else args
    try:
      jax.block_until_ready(call(*given))
    except jax.errors.JaxRuntimeError as error:
      failed[name] = str(error).splitlines()[0][:200]
      continue
    functions[name] = functools.partial(timing.timed, call, *given)
  return {"seconds": timing.rounds(functions, ROUNDS), "failed": failed}


def tell(line: dict) -> str:
  """Returns a line of progress: the fastest layer."""
  medians = {name: np.median(x) for name, x in line["seconds"].items()}
  best = min(medians, key=medians.get)
  return (
    f"n = {line['n']:,}, k = {line['k']}, {line['dtype']}, {line['passes']}: "
    f"{best} {1e3 * medians[best]:.3g} ms, xla {1e3 * medians['xla']:.3g} ms"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  given = grid.parser(__doc__, RESULTS).parse_args(words)
  if jax.default_backend() != "tpu" and not given.list:
    sys.exit(
      f"this times a TPU, and JAX runs on {jax.default_backend()}: run it on a "
      "TPU VM; `python -m experiments kernels` compiles without one"
    )
  grid.work(items(), given, run, tell)
  return 0


if __name__ == "__main__":
  sys.exit(main())
