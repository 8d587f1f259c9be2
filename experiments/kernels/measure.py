"""Compiles the kernels for TPUs, and counts the bytes they move.

  PYTHONPATH=.venv/plan .venv/bin/python -m experiments kernels

Nothing is run: the figures are the compiler's (`./launch.sh plan` first, which
fetches it). On a TPU, `python -m experiments.kernels.tune` times block sizes.
"""

import dataclasses
import functools
import itertools
import pathlib
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import grid
from linformer_jax.attention.ops import flash, xla
from linformer_jax.attention.ops.pallas_tpu import (
  Weights,
  fused,
  head,
  slots,
  stream,
)
from linformer_jax.parallel import layout
from linformer_jax.tools import aot

RESULTS = pathlib.Path(__file__).parent / "results" / "compiled.jsonl"
CHIPS = ("v4:1", "v5e:1", "v5p:1", "v6e:1")
SLOTS, DIMS = (16, 256, 2_048), (32, 64, 128)
HEADS, WIDTH, BATCH = 12, 768, 8
# Implementations of the sublayer whose traffic is compared.
LAYERS = ("sublayer", "slots", "flash", "xla")
PROJECTIONS = ("projection", "einsum")  # E X and F X, in the same way


@dataclasses.dataclass(frozen=True)
class Item:
  """One compile of both passes.

  Attributes:
    group: 'compile' or 'traffic'.
    layer: 'sublayer' and 'slots' are kernels; 'flash' and 'xla' are left to
      XLA. All have W_Q, attention to slots and W_O. Of E X and F X,
      'projection' is a kernel, and 'einsum' is left to XLA.
    chip: the slice.
    n: rows of a sequence; there are 8.
    k: slots.
    dim: D; the width is 768.
    dtype: of rows and products.
    passes: 'forward' or 'both'.
  """

  group: str
  layer: str
  chip: str
  n: int
  k: int
  dim: int = 64
  dtype: str = "bfloat16"
  passes: str = "both"


def items() -> list[Item]:
  """Returns all items, the traffic first."""
  found = [
    Item("traffic", layer, "v5e:1", n, k, passes=passes)
    for n, k, passes, layer in itertools.product(
      (1_024, 4_096, 16_384),
      (128, 256),
      ("forward", "both"),
      LAYERS + PROJECTIONS,
    )
  ]
  for layer, chip, k in itertools.product(LAYERS[:2], CHIPS, SLOTS):
    found += [Item("compile", layer, chip, 4_096, k, dim) for dim in DIMS]
    found.append(Item("compile", layer, chip, 4_096, k, 64, "float32"))
  return found


def shapes(item: Item):
  """Returns X, parameters, K' and V' as shapes, as dense layers make them.

  Of a projection, X, E and F.
  """
  x = jax.ShapeDtypeStruct((BATCH, item.n, WIDTH), item.dtype)
  if item.layer in PROJECTIONS:
    e = jax.ShapeDtypeStruct((item.k, item.n), jnp.float32)
    return x, e, e
  slot = jax.ShapeDtypeStruct((BATCH, item.k, WIDTH), item.dtype)
  matrix, bias = (
    jax.ShapeDtypeStruct(shape, jnp.float32)
    for shape in ((WIDTH, WIDTH), (WIDTH,))
  )
  return x, Weights(matrix, bias, matrix, bias), slot, slot


def floor(item: Item) -> int:
  """Returns the bytes of what must be read and written, each once.

  Forward X, Y, parameters, K' and V'; backward X, dY, dX, parameters and their
  gradients, K' and V' and theirs. Parameters are float32. Of a projection,
  forward X, E, F, E X and F X; backward X, dX, E, F and the gradients of all.
  """

  def size(tree):
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))

  x, *rest = shapes(item)
  rows, rest = size(x), size(rest)
  if item.layer in PROJECTIONS:
    slots_of = 2 * rows * item.k // item.n
    forward = rows + rest + slots_of
    both = forward + 2 * rows + 2 * rest + slots_of
    return forward if item.passes == "forward" else both
  forward = 2 * rows + rest
  return forward if item.passes == "forward" else forward + 3 * rows + 2 * rest


def blocks(item: Item, budget: int) -> int | None:
  """Returns the rows of a block, or None if the kernel does not fit."""
  heads, dtype = WIDTH // item.dim, jnp.dtype(item.dtype)
  if item.layer == "sublayer":
    x, k = (BATCH, item.n, WIDTH), (BATCH, heads, item.k, item.dim)
    return fused.choose(x, k, dtype, budget)
  made = slots.choose(item.n, heads, item.dim, item.k, dtype, budget)
  return None if made is None else made.rows


def layer(item: Item):
  """Returns the function of the arrays of `shapes`."""
  if item.layer == "projection":
    return lambda x, e, f: stream.kernel(jnp.concatenate([e, f]), x)
  if item.layer == "einsum":
    return lambda x, *by: tuple(stream.reference(e, x) for e in by)
  ways = {"slots": slots.kernel, "flash": flash.attend, "xla": xla.attend}
  function = fused.kernel
  if item.layer in ways:
    function = functools.partial(fused.reference, attend=ways[item.layer])
  return by_heads(function, item.dim)


def by_heads(function, dim: int):
  """Returns a function that takes K' and V' as dense layers make them."""

  def apply(x, weights, k, v):
    k, v = (a.reshape(*a.shape[:2], -1, dim).swapaxes(1, 2) for a in (k, v))
    return function(x, weights, k, v)

  return apply


def both_passes(function):
  """Returns a function of dY and arguments: Y, and their gradients."""

  def both(dy, *args):
    y, back = jax.vjp(function, *args)
    return y, back(dy)

  return both


def run(item: Item) -> dict:
  """Compiles an item, and returns the compiler's figures."""
  mesh = Mesh(np.array(aot.devices(item.chip))[:1], ("x",))
  place = NamedSharding(mesh, PartitionSpec())
  function, args = layer(item), shapes(item)
  if item.passes == "both":
    dy = jax.eval_shape(function, *args)
    function, args = both_passes(function), (dy, *args)
  args = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), args
  )
  found = {
    "rows": None,
    "budget": None,
    "needed": None,
    "floor": floor(item),
    "message": None,
  }
  with layout.on_mesh(mesh, {}):
    if item.layer in LAYERS[:2]:  # kernels that may not fit
      budget = head.budget()
      found |= {"rows": blocks(item, budget), "budget": budget}
      if found["rows"] is None:
        return found | {"compiled": False, "message": "does not fit"}
      if item.layer == "sublayer":
        found["needed"] = fused.needed(
          found["rows"], WIDTH, WIDTH, item.k, item.dtype
        )
    began = time.time()
    try:
      compiled = jax.jit(function).lower(*args).compile()
    except (jax.errors.JaxRuntimeError, ValueError) as error:
      line = re.sub(r"\s+", " ", str(error))[:200]
      return found | {"compiled": False, "message": line}
  costs = compiled.cost_analysis()
  return found | {
    "compiled": True,
    "compile_seconds": round(time.time() - began, 1),
    "bytes": int(costs["bytes accessed"]),
    "temporaries": compiled.memory_analysis().temp_size_in_bytes,
  }


def tell(line: dict) -> str:
  """Returns a line of progress."""
  what = (
    f"{line['layer']} on {line['chip']}, n = {line['n']:,}, k = {line['k']}, "
    f"D = {line['dim']}, {line['dtype']}, {line['passes']}"
  )
  if not line["compiled"]:
    return f"{what}: {line['message']}"
  ratio = line["bytes"] / line["floor"]
  return f"{what}: {ratio:.2f} of the floor, {line['compile_seconds']} s"


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return grid.main(__doc__, RESULTS, items(), run, tell, words)


if __name__ == "__main__":
  sys.exit(main())
