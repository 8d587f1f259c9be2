"""Measures the items of a grid that its file of JSON lines does not hold yet.

An item is a frozen dataclass that describes a measurement. A line of the file
has its fields, the result, the hardware and the time. A grid may be stopped at
any time; the same command resumes it.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable

from linformer_jax import hardware


def lines(path: pathlib.Path) -> list[dict]:
  """Returns the lines of a file, without lines that a kill truncated."""
  found = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      found.append(json.loads(line))
    except json.JSONDecodeError:
      continue  # It is measured again.
  return found


def append(path: pathlib.Path, line: dict):
  """Appends a line to a file, creating its folder if necessary.

  Raises:
    ValueError: for NaN or infinity, which no result holds.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a+b") as file:
    if file.tell():  # A kill may have truncated the last line.
      file.seek(-1, os.SEEK_END)
      if file.read(1) != b"\n":
        file.write(b"\n")
    file.write(json.dumps(line, allow_nan=False).encode() + b"\n")


def records(path: pathlib.Path, kind: type) -> dict:
  """Returns the lines of a file by item, of class `kind`; the last one wins."""
  names = [field.name for field in dataclasses.fields(kind)]
  return {
    kind(**{name: line[name] for name in names}): line for line in lines(path)
  }


def key(item) -> str:
  """Returns an item as JSON."""
  return json.dumps(dataclasses.asdict(item), sort_keys=True)


def parser(doc: str, results: pathlib.Path) -> argparse.ArgumentParser:
  """Returns a parser with the flags that all grids have."""
  made = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  made.add_argument(
    "--only",
    default="",
    help="words that an item's JSON must hold, comma separated",
  )
  made.add_argument("--list", action="store_true", help="only tell the items")
  made.add_argument(
    "--again",
    action="store_true",
    help="measure items that are there too; the later line counts",
  )
  made.add_argument(
    "--results", type=pathlib.Path, default=results, help="file of JSON lines"
  )
  return made


def main(doc, results, items, measure, tell, words=None) -> int:
  """Runs the command line of a grid that has no flags of its own.

  Args:
    doc: help of the command.
    results: default of --results.
    items, measure, tell: as of `work`.
    words: the flags; by default, those of the process.

  Returns:
    The exit status.
  """
  work(items, parser(doc, results).parse_args(words), measure, tell)
  return 0


def work(items: list, given, measure: Callable, tell: Callable):
  """Measures the missing items, appends a line for each, and prints progress.

  Args:
    items: all items of the grid.
    given: the parsed flags of `parser`.
    measure: item -> dict, the result.
    tell: line -> text to print.
  """
  words = [word.strip() for word in given.only.split(",") if word.strip()]
  wanted = [item for item in items if all(word in key(item) for word in words)]
  if not wanted:
    sys.exit(f"nothing holds all of {words}; --list tells what there is")
  known = () if given.again else records(given.results, type(wanted[0]))
  missing = [item for item in wanted if item not in known]
  if given.list:
    for item in missing:
      print(key(item))
    return
  there = len(wanted) - len(missing)
  print(f"{there} are there, {len(missing)} to go", flush=True)
  environment = hardware.environment()
  start = time.time()
  for i, item in enumerate(missing):
    began = time.time()
    line = dataclasses.asdict(item) | environment | measure(item)
    now = datetime.datetime.now(datetime.UTC)
    line["time"] = now.isoformat("T", "seconds")
    line["wall_seconds"] = round(time.time() - began, 2)
    append(given.results, line)
    left = (time.time() - start) / (i + 1) * (len(missing) - i - 1)
    print(
      f"[{i + 1}/{len(missing)}, {left / 60:.0f} min] {tell(line)}", flush=True
    )
