"""The largest batch that fits one accelerator, by its compiler, without it.

  PYTHONPATH=.venv/plan .venv/bin/python -m experiments memory
  .venv/bin/python -m experiments memory --topology=h100   # jax[cuda13]

Compiles the forward pass of a 12-layer RoBERTa-base encoder in bfloat16 at one
batch after another, each compile a line of results/memory.jsonl, until the
largest batch that fits is known within 3%. Stop it when you like; the same
command resumes. These are the compiler's figures: nothing is run.
"""

import argparse
import math
import pathlib
import time

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from experiments import grid
from experiments.speed import cell as cell_lib
from experiments.speed import cells
from linformer_jax import hardware, models
from linformer_jax.tools import aot

RESULTS = pathlib.Path(__file__).parent / "results" / "memory.jsonl"
LAYERS = 12
QUERY_BLOCK = 256  # for Linformer and for blockwise exact attention
NAMES = ("linformer_layerwise", *cells.SOFTMAX)
MOST = 65_536  # sequences


def records(path: pathlib.Path = RESULTS) -> list[dict]:
  """Returns all compiles in a file."""
  return grid.lines(path)


def configuration(name: str, n: int, k: int) -> models.ModelConfig:
  """Returns the encoder of a row; plain attention takes all queries at once."""
  plain = name == "softmax"
  return cell_lib.model_config(
    cells.Cell("stack", name, n, k, depth=LAYERS),
    dtype="bfloat16",
    scan_layers=True,
    query_block=0 if plain else QUERY_BLOCK,
  )


def report(name, n, k, batch, device) -> aot.Report:
  """Returns the compiler's report on a forward pass."""
  encoder = models.TokenEncoder(configuration(name, n, k))
  on = SingleDeviceSharding(device)
  tokens = jax.ShapeDtypeStruct((batch, n), jnp.int32, sharding=on)
  variables = jax.eval_shape(
    encoder.init, jax.random.key(0), jnp.zeros((1, n), jnp.int32)
  )
  # In the dtype of the matrix products, as for serving.
  variables = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=on),
    variables,
  )
  return aot.compile_report(jax.jit(encoder.apply), variables, tokens)


def search(bytes_of, limit: float, start: int) -> int:
  """Returns the largest batch that fits, within 3%; 0 if one sequence does not.

  Args:
    bytes_of: batch -> bytes.
    limit: the bytes available.
    start: the first batch to try, a power of two.
  """
  while start > 1 and bytes_of(start) > limit:
    start //= 2
  known = {start: bytes_of(start)}
  return aot.largest(bytes_of, limit, MOST, known, max(1, start // 32))


def rows():
  """Returns (name, n, k) of every row."""
  for n in cells.LENGTHS:
    for name in NAMES:
      of_k = [0]
      if name.startswith("linformer"):
        of_k = [k for at, k in cells.grid() if at == n]
      for k in of_k:
        yield name, n, k


def measure(topology: str, path: pathlib.Path):
  """Compiles the missing rows."""
  device = aot.devices(topology)[0]
  limit = aot.capacity(device)
  known = {
    (r["implementation"], r["n"], r["k"], r["batch"]): r["peak_bytes"]
    for r in records(path)
    if r["topology"] == topology
  }
  versions = hardware.environment()
  versions["device"] = device.device_kind
  every = list(rows())
  for i, (name, n, k) in enumerate(every):

    def bytes_of(batch, name=name, n=n, k=k):
      if (name, n, k, batch) not in known:
        start = time.time()
        found = report(name, n, k, batch, device)
        peak = None if math.isinf(found.peak) else found.peak
        line = {
          "topology": topology,
          "implementation": name,
          "n": n,
          "k": k,
          "batch": batch,
          "peak_bytes": peak,
          "exhausted": found.exhausted,
          "temporary_bytes": found.temporaries,
          "limit_bytes": limit,
          "compile_seconds": round(time.time() - start, 1),
          **versions,
        }
        grid.append(path, line)
        known[name, n, k, batch] = peak
      peak = known[name, n, k, batch]
      return math.inf if peak is None else peak

    most = search(bytes_of, limit, max(1, 65_536 // n))
    print(
      f"[{i + 1}/{len(every)}] {topology} {name} n={n} k={k}: {most} "
      "sequences fit",
      flush=True,
    )


def largest(found: list[dict], topology: str, name: str, n: int, k: int):
  """Returns the largest batch that fits; None if the search is unfinished."""
  row = [
    r
    for r in found
    if (r["topology"], r["implementation"], r["n"], r["k"])
    == (topology, name, n, k)
  ]
  fits = {
    r["batch"]: r["peak_bytes"] is not None
    and r["peak_bytes"] <= r["limit_bytes"]
    for r in row
  }
  most = max((batch for batch in fits if fits[batch]), default=0)
  above = min((batch for batch in fits if batch > most), default=math.inf)
  ended = most >= MOST or above - most <= max(1, most / 16)
  return most if ended else None


def table(found: list[dict], topology: str = "v5e:1") -> str:
  """Returns Table 3 (right): ratios of largest batches, with the paper's."""
  paper = cells.paper_table("table3_memory")
  lines = [
    "| n | softmax | exact in blocks | "
    + " | ".join(f"k = {k}" for k in cells.PROJECTED)
    + " |",
    "|---|" + "---:|" * 7,
  ]
  for n in cells.LENGTHS:
    others = [largest(found, topology, name, n, 0) for name in cells.SOFTMAX]
    texts = ["–" if x is None else f"{x:,}" for x in others]
    for k in cells.PROJECTED:
      ours = largest(found, topology, "linformer_layerwise", n, k)
      if k >= n:
        texts.append("")
      elif ours is None or others[0] is None:
        texts.append("–")
      else:
        ratio = f"{ours / others[0]:.3g}×" if others[0] else "∞"
        texts.append(f"{ours:,} = **{ratio}** ({paper[n, k]:g})")
    lines.append(f"| {n:,} | " + " | ".join(texts) + " |")
  return "\n".join(lines)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--topology", default="v5e:1", help="v5e:1 (default), another chip, h100"
  )
  parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
  given = parser.parse_args()
  try:
    measure(given.topology, given.results)
  except ValueError as error:
    raise SystemExit(f"memory: {error}") from error
  except KeyboardInterrupt:
    raise SystemExit("stopped; the same command resumes") from None
