"""Measures the speed grid: one cell, one process, one line of JSON.

  ./launch.sh speed                      # all that is not in the file yet
  ./launch.sh speed --only='"scope": "layer", "what": "forward"'
  ./launch.sh speed --list               # what would run

Cells that are in the file already are left alone: stop it when you like, the
same command goes on. A cell that runs out of memory says so in its line. Leave
the machine alone meanwhile; what else runs is in the numbers.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

from experiments.speed import cells
from linformer_jax import benchmark

RESULTS = pathlib.Path(__file__).parent / "results" / "time.jsonl"
# Words of the ways in which XLA, torch and the kernel say it.
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "allocate memory", "bad_alloc")


def records(path: pathlib.Path = RESULTS) -> dict[str, dict]:
  """Records of a file by the key of their cell; a later line wins."""
  if not path.exists():
    return {}
  found = {}
  for line in path.read_text().splitlines():
    try:
      record = json.loads(line)
    except json.JSONDecodeError:
      continue  # cut short by a kill; the cell is measured again
    fields = {f.name: record[f.name] for f in dataclasses.fields(cells.Cell)}
    found[cells.Cell(**fields).key] = record
  return found


def run(cell: cells.Cell, budget: float, limit: int) -> dict:
  """Measures a cell in a process of its own; returns its record."""
  command = [sys.executable, "-m", "experiments.speed.cell", cell.key]
  # Huge pages: a fresh buffer of 25 MB costs a page fault each 4 kB otherwise.
  # The compiled programs of earlier cells would make a compile look short.
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
  raise RuntimeError(f"{cell.key} failed:\n{done.stderr}")


def out_of_memory(done: subprocess.CompletedProcess) -> bool:
  """Whether that is why a process broke down."""
  killed = done.returncode == -9
  return killed or any(word in done.stderr for word in _NO_MEMORY)


def _arguments():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--only",
    default="",
    help="words that a cell's JSON must hold, comma separated",
  )
  parser.add_argument("--list", action="store_true", help="only tell the cells")
  parser.add_argument(
    "--again",
    action="store_true",
    help="measure cells that are there too; the later line counts",
  )
  parser.add_argument(
    "--budget",
    type=float,
    default=6.0,
    help="seconds a cell; calls that take long are made fewer times, see "
    "linformer_jax/benchmark.py (default 6)",
  )
  parser.add_argument(
    "--memory_gb",
    type=float,
    default=22.0,
    help="a cell that asks for more is out of memory (default 22)",
  )
  parser.add_argument(
    "--results", type=pathlib.Path, default=RESULTS, help="file of JSON lines"
  )
  return parser.parse_args()


def main():
  """Runs what is missing, and tells how far it is."""
  given = _arguments()
  words = [word.strip() for word in given.only.split(",") if word.strip()]
  wanted = [
    cell
    for cell in cells.every_cell()
    if all(word in cell.key for word in words)
  ]
  if not wanted:
    sys.exit(f"no cell holds all of {words}; --list tells them")
  known = records(given.results)
  missing = [cell for cell in wanted if given.again or cell.key not in known]
  if given.list:
    for cell in missing:
      print(cell.key)
    return
  print(f"{len(wanted) - len(missing)} cells are there, {len(missing)} to go")
  given.results.parent.mkdir(parents=True, exist_ok=True)
  environment = benchmark.environment()
  start = time.time()
  for i, cell in enumerate(missing):
    began = time.time()
    record = run(cell, given.budget, int(given.memory_gb * 1e9))
    line = {
      **dataclasses.asdict(cell),
      **record,
      **environment,
      "time": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
      "wall_seconds": round(time.time() - began, 1),
    }
    with given.results.open("a") as file:
      file.write(json.dumps(line) + "\n")
    left = (time.time() - start) / (i + 1) * (len(missing) - i - 1)
    print(f"[{i + 1}/{len(missing)}, {left / 60:.0f} min] {tell(line)}")
  if given.results == RESULTS:
    from experiments.speed import render

    render.main()


def tell(line: dict) -> str:
  """A record in a line."""
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
    sys.exit("stopped; the same command goes on")
