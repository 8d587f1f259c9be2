"""Checks theorems 1 and 2 on the grid: one setting, one line of JSON.

  .venv/bin/python -m experiments theorems
  .venv/bin/python -m experiments theorems --only='"theorem2"'
  .venv/bin/python -m experiments theorems --list   # what would run

Settings that are in the file already are left alone: stop it when you like, the
same command resumes. Minutes on two CPU cores in all. Then render.py.
"""

import pathlib
import sys

from experiments import grid
from experiments.theorems import draws, practice, settings

RESULTS = pathlib.Path(__file__).parent / "results" / "checks.jsonl"


def records(path: pathlib.Path = RESULTS) -> dict[settings.Setting, dict]:
  """Returns the records of a file by setting; the last one wins."""
  return grid.records(path, settings.Setting)


def measure(setting: settings.Setting) -> dict:
  """Returns the record of a setting."""
  if setting.check == "practice":
    return practice.measure(setting)
  return draws.measure(setting)


def tell(line: dict) -> str:
  """Formats a record as one line."""
  if line["check"] == "practice":
    errors = line["relative"]
  else:
    names = draws.CLAIMS[line["check"]]
    middle = draws.QUANTILES.index(0.5)
    errors = {name: line["quantiles"][name][middle] for name in names}
  texts = ", ".join(f"{name} {x:.3g}" for name, x in errors.items())
  return (
    "{check} n={n} d={d} k={k} {values} scale={scale} delta={delta}: ".format(
      **line
    )
    + texts
  )


def main():
  """Measures the missing settings."""
  given = grid.parser(__doc__, RESULTS).parse_args()
  grid.work(settings.every_setting(), given, measure, tell)


if __name__ == "__main__":
  try:
    main()
  except KeyboardInterrupt:
    sys.exit("stopped; the same command resumes")
