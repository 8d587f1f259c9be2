"""Grids of measurements: what their file of JSON lines does not hold yet.

An item is a frozen dataclass, and says what is measured. A line of the file is
its fields, what was found, on what and when. Stop a grid when you like; the
same command goes on.
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
  """The lines of a file, without what a kill cut short."""
  found = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      found.append(json.loads(line))
    except json.JSONDecodeError:
      continue  # it is measured again
  return found


def append(path: pathlib.Path, line: dict):
  """Adds a line to a file, and makes its folder where there is none."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a+b") as file:
    if file.tell():  # a kill may have cut the last line short
      file.seek(-1, os.SEEK_END)
      if file.read(1) != b"\n":
        file.write(b"\n")
    file.write(json.dumps(line).encode() + b"\n")


def records(path: pathlib.Path, kind: type) -> dict:
  """The lines of a file by their item, of class `kind`; a later one wins."""
  names = [field.name for field in dataclasses.fields(kind)]
  return {
    kind(**{name: line[name] for name in names}): line for line in lines(path)
  }


def key(item) -> str:
  """An item as JSON."""
  return json.dumps(dataclasses.asdict(item), sort_keys=True)


def parser(doc: str, results: pathlib.Path) -> argparse.ArgumentParser:
  """The flags that all grids have."""
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


def work(items: list, given, measure: Callable, tell: Callable):
  """Measures what is missing, a line each, and tells how far it is.

  Args:
    items: all of the grid.
    given: flags of `parser`.
    measure: item -> dict, what was found.
    tell: line -> text, a record on the terminal.
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
