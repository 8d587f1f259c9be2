"""Measures the speed grid: one cell, one process, one line of JSON.

  ./launch.sh speed                      # all that is not in the file yet
  ./launch.sh speed --only='"scope": "layer", "what": "forward"'
  ./launch.sh speed --list               # what would run

Cells that are in the file already are left alone: stop it when you like, the
same command resumes. A cell that runs out of memory says so in its line. Leave
the machine alone meanwhile; what else runs is in the numbers.
"""

import json
import os
import pathlib
import subprocess
import sys

from experiments import grid
from experiments.speed import cells

RESULTS = pathlib.Path(__file__).parent / "results" / "time.jsonl"
# How XLA, torch and the C++ runtime report that memory has run out.
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "allocate memory", "bad_alloc")


def records(path: pathlib.Path = RESULTS) -> dict[cells.Cell, dict]:
  """Returns the records of a file by cell; the last one wins."""
  return grid.records(path, cells.Cell)


def run(cell: cells.Cell, budget: float, limit: int) -> dict:
  """Measures a cell in a separate process; returns its record."""
  command = [sys.executable, "-m", "experiments.speed.cell", grid.key(cell)]
  # Huge pages avoid a page fault for every 4 kB of a fresh buffer. No cache of
  # compiled programs, as earlier cells would shorten a compile.
  environment = os.environ | {
    "GLIBC_TUNABLES": os.environ.get(
      "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
    ),
    "JAX_ENABLE_COMPILATION_CACHE": "0",
  }
  done = subprocess.run(
    [*command, str(budget), str(limit)],
    capture_output=True,
    text=True,
    env=environment,
  )
  if done.returncode == 0:
    return json.loads(done.stdout.splitlines()[-1])
  if out_of_memory(done):
    return {"out_of_memory": True, "limit_bytes": limit}
  raise RuntimeError(f"{grid.key(cell)} failed:\n{done.stderr}")


def out_of_memory(done: subprocess.CompletedProcess) -> bool:
  """Returns whether a process failed because memory ran out."""
  killed = done.returncode == -9
  return killed or any(word in done.stderr for word in _NO_MEMORY)


def main():
  """Measures the missing cells."""
  parser = grid.parser(__doc__, RESULTS)
  parser.add_argument(
    "--budget",
    type=float,
    default=6.0,
    help="seconds a cell; calls that take long are made fewer times, see "
    "linformer_jax/hardware.py (default 6)",
  )
  parser.add_argument(
    "--memory_gb",
    type=float,
    default=22.0,
    help="a cell that asks for more is out of memory (default 22)",
  )
  given = parser.parse_args()
  limit = int(given.memory_gb * 1e9)
  grid.work(
    cells.every_cell(),
    given,
    lambda cell: run(cell, given.budget, limit),
    tell,
  )


def tell(line: dict) -> str:
  """Formats a record as one line."""
  name = "{scope} {implementation} n={n} k={k} {what}".format(**line)
  if line.get("out_of_memory"):
    return f"{name}: out of memory"
  middle = line["seconds"][len(line["seconds"]) // 2]
  share = ""
  if "flops_needed" in line:
    rate = line["flops_needed"] / middle
    share = f", {rate / line['product_rate']:.0%} of the product rate"
  return f"{name}: {1e3 * middle:.1f} ms of {len(line['seconds'])}{share}"


if __name__ == "__main__":
  try:
    main()
  except KeyboardInterrupt:
    sys.exit("stopped; the same command resumes")
