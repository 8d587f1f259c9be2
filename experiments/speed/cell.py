"""Measures one cell, in a separate process, and prints one JSON line.

python -m experiments.speed.cell '{"scope": "layer", ...}' SECONDS BYTES
"""

import json
import math
import pathlib
import resource
import sys
import time

import jax
import jax.numpy as jnp

from configs import base
from experiments.speed import cells
from linformer_jax import attention, hardware, models, step
from linformer_jax.parallel import sharding

# Queries at a time, per sequence and in total, so that their rows and scores
# stay in the cache.
QUERY_BLOCK, QUERY_ROWS = 1024, 2048
# The most bytes of scores for plain attention that fit into 24 GB of memory.
# The forward pass needs one buffer for the scores and one for the weights;
# forward and backward need three for each of two layers.
PLAIN_BYTES = {"forward": 4 * 2**30, "forward_backward": 2 * 2**30}
PLAIN_BLOCK_BYTES = 2**30


def _blocks(cell):
  """Returns query_block and implementation for a cell of this library."""
  if cell.implementation != "softmax":
    return min(QUERY_BLOCK, QUERY_ROWS // cell.batch), "flash"
  row = 4 * cells.HEADS * cell.batch * cell.n
  if cell.n * row <= PLAIN_BYTES.get(cell.what, math.inf):
    return 0, "xla"
  return 2 ** ((PLAIN_BLOCK_BYTES // row).bit_length() - 1), "xla"


def _layer(cell):
  query_block, implementation = _blocks(cell)
  common = dict(query_block=query_block, implementation=implementation)
  if cell.implementation in cells.SOFTMAX:
    module = attention.SoftmaxSelfAttention(cells.HEADS, **common)
  else:
    sharing = cell.implementation.removeprefix("linformer_")
    module = attention.LinformerSelfAttention(
      cells.HEADS,
      cell.n,
      cell.k,
      "key_value" if sharing == "layerwise" else sharing,
      **common,
    )
  shape = (cell.batch, cell.n, cells.WIDTH)
  return module, jax.random.normal(jax.random.key(1), shape)


def _attention(cell, implementation="xla"):
  """Returns the AttentionConfig of a cell of this library."""
  if not cell.k:
    return attention.SoftmaxConfig(implementation=implementation)
  return attention.LinformerConfig(
    projected_length=cell.k,
    sharing=cell.implementation.removeprefix("linformer_"),
    implementation=implementation,
  )


def model_config(cell, dtype="float32", **changes):
  """Returns the ModelConfig of a stack."""
  query_block, implementation = _blocks(cell)
  return models.ModelConfig(
    **dict(
      vocab_size=1024,
      max_length=cell.n,
      num_layers=cell.depth,
      embed_dim=cells.WIDTH,
      num_heads=cells.HEADS,
      mlp_dim=cells.MLP,
      attention=_attention(cell, implementation),
      query_block=query_block,
      scan_layers=False,
      dtype=dtype,
    )
    | changes
  )


def _stack(cell):
  module = models.TokenEncoder(model_config(cell))
  shape = (cell.batch, cell.n)
  return module, jax.random.randint(jax.random.key(1), shape, 0, 1024)


def _jax_call(cell):
  """Returns a compiled call without arguments, and the compiler's report."""
  module, x = _stack(cell) if cell.scope == "stack" else _layer(cell)
  variables = jax.jit(module.init)(jax.random.key(0), x[:1])
  function, arguments = module.apply, (variables, x)
  if cell.what == "forward_backward":
    shape = (*x.shape[:2], cells.WIDTH)
    toward = jax.random.normal(jax.random.key(2), shape)

    def loss(variables, x, toward):
      return jnp.sum(module.apply(variables, x) * toward)

    wanted = 0 if cell.scope == "stack" else (0, 1)  # Tokens have no gradient.
    function = jax.grad(loss, wanted)
    arguments = (variables, x, toward)
  compiled = jax.jit(function).lower(*arguments).compile()
  memory = compiled.memory_analysis()
  report = {
    "argument_bytes": memory.argument_size_in_bytes,
    "output_bytes": memory.output_size_in_bytes,
    "temporary_bytes": memory.temp_size_in_bytes,
    "input_bytes": x.nbytes,
    "query_block": _blocks(cell)[0],
  }
  return lambda: jax.block_until_ready(compiled(*arguments)), report


def _compile_seconds(cell):
  """Returns the seconds to trace and to compile the train step, uncached."""
  config = base.get_config()
  config.model.num_layers = cell.depth
  if cell.implementation == "softmax":
    base.set_attention(config, "softmax")
  config.train.batch_size = config.run.eval_batch_size = 8
  start = time.perf_counter()
  steps = step.build_steps(config, sharding.make_mesh(config.mesh))
  lowered = steps.train.lower(steps.abstract_state, steps.abstract_batch)
  traced = time.perf_counter()
  lowered.compile()
  return [time.perf_counter() - start], {"trace_seconds": traced - start}


def needed(cell: cells.Cell) -> int:
  """Returns the FLOPs that a cell needs; the PyPI layers need more."""
  n, k, m = cell.n, cell.k, cells.WIDTH
  if cell.implementation in cells.PYPI:  # They apply E and F after W_K and W_V.
    layer = 8 * n * m * m + 8 * n * k * m
  else:
    sizes = attention.Sizes(embed_dim=m, num_heads=cells.HEADS, max_length=n)
    layer = _attention(cell).flops(sizes, n)
  return cell.flops(layer)


def measure(cell: cells.Cell, budget: float) -> dict:
  """Returns a cell's record: raw seconds, FLOPs, bytes, product rate."""
  rate = hardware.matrix_product_rate()
  if cell.scope == "compile":
    times, report = _compile_seconds(cell)
  else:
    if cell.implementation in (*cells.PYPI, cells.TORCH):
      from experiments.speed import torch_layers

      call, threads = torch_layers.calls(cell)
      report = {"threads": threads}
    else:
      call, report = _jax_call(cell)
    times = hardware.seconds(call, repeats=7, budget=budget)
    report["flops_needed"] = needed(cell)
  return {
    "seconds": times,
    "product_rate": max(rate, hardware.matrix_product_rate()),
    "peak_resident_bytes": 1024
    * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    **report,
  }


if __name__ == "__main__":
  # Fail in this process when memory runs out, instead of on the whole machine.
  limit = int(sys.argv[3])
  resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
  pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
  which = cells.Cell(**json.loads(sys.argv[1]))
  print(json.dumps(measure(which, float(sys.argv[2]))))
