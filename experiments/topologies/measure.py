"""Compiles the update of RoBERTa-sized Linformers for TPU slices.

  PYTHONPATH=.venv/plan .venv/bin/python -m experiments topologies

One row of `rows` is one line of results/compiled.jsonl: memory of a chip, FLOPs
and bytes moved by the compiler's count, and bytes exchanged. Stop it when you
like; the same command resumes. Nothing is run: these are the compiler's figures
(`./launch.sh plan` first, which fetches the TPU compiler).
"""

import dataclasses
import pathlib
import time

import jax
import numpy as np

from configs import linformer, transformer
from experiments import grid
from experiments.speed import cells
from linformer_jax import step
from linformer_jax.parallel import sharding
from linformer_jax.tools import aot, plan

RESULTS = pathlib.Path(__file__).parent / "results" / "compiled.jsonl"
TOKENS = 4096  # per chip and update
MILLION = 2**20
POD = "v5e:16x16"
GROUPS = ("lengths", "chips", "million")


@dataclasses.dataclass(frozen=True)
class Row:
  """One compile.

  Attributes:
    group: 'lengths', many sequence lengths on one slice; 'chips', one length on
      slices of many sizes; 'million', one sequence of 2^20 tokens; 'float32',
      a row of 'chips' with `mesh.float32_gradients`.
    topology: the slice.
    size: 'base' or 'large'.
    attention: 'linformer' or 'softmax'.
    n: sequence length in tokens.
    k: projected length, 0 for softmax attention.
    sequence: the number of chips that a sequence is sharded over.
    sharing: how E and F are shared.
  """

  group: str
  topology: str
  size: str
  attention: str
  n: int
  k: int
  sequence: int = 1
  sharing: str = "headwise"


def rows() -> list[Row]:
  """Returns all rows, the fastest first."""
  found = [
    Row("chips", topology, "base", "linformer", 512, 128)
    for topology in ("v5e:2x4", "v5e:8x8", POD, "v5p:2x2x2", "v5p:4x4x4")
  ]
  found += [
    Row("chips", topology, "base", "linformer", 16_384, 256, sequence=4)
    for topology in ("v5e:2x4", "v5e:8x8", POD)
  ]
  for size in ("base", "large"):
    found += [
      Row("lengths", POD, size, "linformer", n, min(256, n // 4), chips_of(n))
      for n in cells.LENGTHS
    ]
  found += [
    # E and F per layer would be 26 GB of parameters; shared by all, 1 GB.
    Row(
      "million", topology, "base", "linformer", MILLION, 256, chips, "layerwise"
    )
    for topology, chips in (("v5e:4x4", 16), ("v5e:8x8", 64), (POD, 256))
  ]
  found.append(Row("float32", POD, "base", "linformer", 512, 128))
  return found


def chips_of(n: int) -> int:
  """Returns the number of chips that hold n tokens at `TOKENS` per chip."""
  return max(1, n // TOKENS)


def make_config(row: Row, num_devices: int):
  """Returns the config of a row: bfloat16, without attention dropout."""
  if row.attention == "softmax":
    config = transformer.get_config(f"n={row.n},size={row.size}")
  else:
    config = linformer.get_config(
      f"n={row.n},k={row.k},size={row.size},sharing={row.sharing}"
    )
  config.model.dtype = "bfloat16"
  # Without dropout, attention weights need not be stored.
  config.attention.dropout_rate = 0.0
  config.model.remat = row.n > 65_536
  config.mesh.sequence = row.sequence
  config.mesh.float32_gradients = row.group == "float32"
  sequences = max(1, TOKENS // row.n) * num_devices // row.sequence
  config.train.batch_size = config.run.eval_batch_size = sequences
  return config


def measure(row: Row) -> dict:
  """Returns the compiler's report on a row."""
  devices = aot.devices(row.topology)
  config = make_config(row, len(devices))
  start = time.perf_counter()
  report = plan.compile_update(config, devices)
  seconds = time.perf_counter() - start
  counted = None  # Takes two more compiles; needed only to estimate speed.
  if row.group == "chips" and not report.exhausted:
    counted = plan.counts(config, devices)
  mesh = sharding.make_mesh(config.mesh, devices)
  steps = step.build_steps(config, mesh)
  size, needed = steps.batch_size, steps.flops
  fields = dataclasses.asdict(report)
  fields["peak"] = None if np.isinf(report.peak) else report.peak
  return {
    **fields,
    "device": devices[0].device_kind,
    "devices": len(devices),
    "mesh": dict(mesh.shape),
    "batch": size,
    "capacity": aot.capacity(devices[0]),
    "state_bytes": plan.bytes_per_device(steps.abstract_state),
    "flops_needed": needed / len(devices),
    "flops_compiled": counted and counted[0],
    "bytes_accessed": counted and counted[1],
    "compile_seconds": round(seconds, 1),
  }


def records(path: pathlib.Path = RESULTS) -> dict[Row, dict]:
  """Returns the records of a file by row; the last one wins."""
  return grid.records(path, Row)


def tell(line: dict) -> str:
  """Formats a record as one line."""
  peak = "more" if line["peak"] is None else f"{line['peak'] / 2**30:.2f} GiB"
  told = (
    f"{line['topology']} {line['size']} n={line['n']:,} k={line['k']}: {peak} "
    f"of {line['capacity'] / 2**30:.2f}"
  )
  if line["collectives"]:
    told += f", {sum(line['collectives'].values()) / 1e9:.2f} GB exchanged"
  return told


def main():
  """Compiles the missing rows."""
  given = grid.parser(__doc__, RESULTS).parse_args()
  grid.work(rows(), given, measure, tell)


if __name__ == "__main__":
  jax.config.update("jax_platforms", "cpu")
  try:
    main()
  except ValueError as error:
    raise SystemExit(f"topologies: {error}") from error
  except KeyboardInterrupt:
    raise SystemExit("stopped; the same command resumes") from None
