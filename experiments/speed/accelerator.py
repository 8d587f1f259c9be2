"""Times RoBERTa-base on one GPU or TPU chip, in bfloat16: Table 3 there.

  python -m experiments accelerator          # all that is not in the file yet
  python -m experiments accelerator --list   # what would run

An item is one sequence length and one pass, or one train step: everything that
the page compares is compiled first, and then timed in turns within a process.
"""

import concurrent.futures
import dataclasses
import math
import statistics
import time

import jax
import jax.numpy as jnp

from configs import base, linformer
from experiments import grid
from experiments import page as page_lib
from experiments.speed import cell as cell_lib
from experiments.speed import cells
from linformer_jax import hardware, models, step
from linformer_jax.parallel import sharding

RESULTS = page_lib.ROOT / "experiments/speed/results/accelerator.jsonl"
TOKENS = 32_768  # per batch, unless one sequence is longer
DEPTH = 2
ROUNDS = 9
SAMPLE = 0.02  # seconds; shorter calls are repeated within a sample
# The most bytes of scores [B, H, n, n] of plain attention, of the 80 GB of an
# H100; it runs in blocks of queries beyond. XLA holds scores in bfloat16 and
# float32 at once, and both passes keep those of every layer.
PLAIN_BYTES, SCORE_BYTES = 56e9, {"forward": 6, "forward_backward": 14}
QUERY_BLOCK = 1024
STEP = "train_step"
KERNELS = ("xla", "cudnn")


@dataclasses.dataclass(frozen=True)
class Item:
  """What is timed in turns.

  Attributes:
    what: one of `cells.PASSES`, a stack of two layers; or 'train_step', an
      update of the whole RoBERTa-base model.
    n: sequence length in tokens.
  """

  what: str
  n: int

  @property
  def batch(self) -> int:
    """The number of sequences."""
    return max(1, TOKENS // self.n)

  def rows(self) -> list[tuple[int, str]]:
    """Returns (k, implementation) of each row; k = 0 is softmax attention."""
    of_k = [0, *(k for n, k in cells.grid() if n == self.n)]
    if self.what == STEP:
      of_k = [0, 128, 256]
    return [(k, kernel) for k in of_k for kernel in KERNELS]


def every_item() -> list[Item]:
  """Returns all items."""
  passes = [Item(what, n) for what in cells.PASSES for n in cells.LENGTHS]
  return passes + [Item(STEP, n) for n in (512, 4096)]


def name(k: int, kernel: str) -> str:
  """Returns the name of a row in a record."""
  return f"k={k} {kernel}" if k else f"softmax {kernel}"


def _blocks(item, k, kernel) -> int:
  """Returns the queries per block; 0 is all at once."""
  scores = item.batch * cells.HEADS * item.n**2 * SCORE_BYTES.get(item.what, 14)
  return 0 if k or kernel != "xla" or scores < PLAIN_BYTES else QUERY_BLOCK


def _drawn(shapes, below: int):
  """Returns random arrays of shapes; integers are less than `below`."""

  def draw(x):
    if jnp.issubdtype(x.dtype, jnp.floating):
      return jax.random.normal(jax.random.key(1), x.shape, x.dtype) / 50
    return jax.random.randint(jax.random.key(2), x.shape, 0, below, x.dtype)

  return jax.tree.map(draw, shapes)


def _pass(item, k, kernel):
  """Returns (call, compiled program, FLOPs) of a pass of a stack."""
  kind = "linformer_layerwise" if k else "softmax"
  cell = cells.Cell("stack", kind, item.n, k, item.what, DEPTH)
  config = cell_lib.model_config(cell, "bfloat16")
  config = dataclasses.replace(
    config,
    attention=dataclasses.replace(config.attention, implementation=kernel),
    query_block=_blocks(item, k, kernel),
  )
  module = models.TokenEncoder(config)
  tokens = jax.ShapeDtypeStruct((item.batch, item.n), jnp.int32)
  shapes = [jax.eval_shape(module.init, jax.random.key(0), tokens), tokens]
  function = module.apply
  if item.what == "forward_backward":
    shapes.append(jax.eval_shape(function, *shapes))

    def loss(variables, x, toward):
      return jnp.vdot(module.apply(variables, x), toward).astype(jnp.float32)

    function = jax.grad(loss)
  compiled = jax.jit(function).lower(*shapes).compile()
  arguments = _drawn(shapes, min(item.n, config.vocab_size))
  needed = cell_lib.needed(cell) // cell.batch * item.batch
  return lambda: compiled(*arguments), compiled, needed


def _update(item, k, kernel):
  """Returns (call, compiled program, FLOPs) of an update of RoBERTa-base."""
  config = linformer.get_config(f"n={item.n},k={k or 1}")
  if not k:
    base.set_attention(config, "softmax")
  config.attention.implementation = kernel
  config.attention.dropout_rate = 0.0  # cuDNN's kernel is used without it
  config.model.query_block = _blocks(item, k, kernel)
  config.model.dtype = "bfloat16"
  config.train.batch_size = config.run.eval_batch_size = item.batch
  steps = step.build_steps(config, sharding.make_mesh(config.mesh))
  compiled = steps.train.lower(
    steps.abstract_state, steps.abstract_batch
  ).compile()
  state, batch = steps.init(), _drawn(steps.abstract_batch, item.n)

  def call():
    nonlocal state  # It is donated.
    state, metrics = compiled(state, batch)
    return metrics

  return call, compiled, steps.flops


def _prepare(item, k, kernel):
  """Returns a call, or None if it cannot run, and its part of the record."""
  make = _update if item.what == STEP else _pass
  start = time.perf_counter()
  try:
    call, compiled, needed = make(item, k, kernel)
  except (RuntimeError, ValueError) as error:
    return None, {"error": str(error).splitlines()[0][:200]}
  memory = compiled.memory_analysis()
  return call, {
    "prepare_seconds": round(time.perf_counter() - start, 2),
    "flops_needed": needed,
    "argument_bytes": memory.argument_size_in_bytes,
    "temporary_bytes": memory.temp_size_in_bytes,
    "query_block": _blocks(item, k, kernel),
  }


def _sample(call, repeats: int) -> float:
  """Returns the mean seconds of calls without a pause between them."""
  start = time.perf_counter()
  for _ in range(repeats):
    out = call()
  jax.block_until_ready(out)
  return (time.perf_counter() - start) / repeats


def measure(item: Item) -> dict:
  """Returns the record of an item: for each row its seconds, FLOPs, bytes."""
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    made = list(pool.map(lambda row: _prepare(item, *row), item.rows()))
  rows, calls = {}, {}
  for row, (call, report) in zip(item.rows(), made, strict=True):
    rows[name(*row)] = report
    if call is None:
      continue
    try:
      _sample(call, 1)
      report["repeats"] = math.ceil(SAMPLE / _sample(call, 2))
    except RuntimeError as error:
      report["error"] = str(error).splitlines()[0][:200]
      continue
    report["seconds"] = []
    calls[name(*row)] = call
  for _ in range(ROUNDS):
    for which, call in calls.items():
      report = rows[which]
      report["seconds"].append(_sample(call, report["repeats"]))
  return {
    "batch": item.batch,
    "rows": rows,
    "product_rate": hardware.matrix_product_rate(8192, 8192, 8192, "bfloat16"),
  }


def speedup(line: dict, k: int, kernel: str) -> float:
  """Returns how many times faster Linformer is than softmax attention."""
  rows = line["rows"]
  softmax, ours = (
    statistics.median(rows[name(of_k, kernel)]["seconds"]) for of_k in (0, k)
  )
  return softmax / ours


def tell(line: dict) -> str:
  """Formats a record as lines: milliseconds, and the share of the peak."""
  texts = [f"{line['what']} n={line['n']}"]
  for which, row in line["rows"].items():
    if "seconds" not in row:
      texts.append(f"  {which}: {row['error']}")
      continue
    middle = statistics.median(row["seconds"])
    rate = row["flops_needed"] / middle / 1e12
    texts.append(
      f"  {which}: {1e3 * middle:.3g} ms, {rate:.0f} TFLOP/s, "
      f"{row['temporary_bytes'] / 1e9:.2f} GB"
    )
  return "\n".join(texts)


def main():
  """Measures the missing items."""
  given = grid.parser(__doc__, RESULTS).parse_args()
  grid.work(every_item(), given, measure, tell)


if __name__ == "__main__":
  main()
