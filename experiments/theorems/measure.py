"""Checks theorems 1 and 2 on the grid: one setting, one line of JSON.

  .venv/bin/python -m experiments theorems
  .venv/bin/python -m experiments theorems --only='"theorem2"'
  .venv/bin/python -m experiments theorems --list   # what would run

Settings of MiniLM need its files: --weights, --vocab and --text, as
experiments/spectrum says. Settings that are in the file already are left alone:
stop it when you like, the same command resumes. Minutes on two CPU cores in
all. Then render.py.
"""

import pathlib
import sys

from experiments import grid
from experiments.theorems import draws, minilm, practice, settings

RESULTS = pathlib.Path(__file__).parent / "results" / "checks.jsonl"


def records(path: pathlib.Path = RESULTS) -> dict[settings.Setting, dict]:
  """Returns the records of a file by setting; the last one wins."""
  return grid.records(path, settings.Setting)


def measure(setting: settings.Setting, files: tuple = ()) -> dict:
  """Returns the record of a setting.

  Args:
    setting: what to measure.
    files: MiniLM's weights, vocabulary and text, for a setting of MiniLM.
  """
  fits = setting.check == "practice"
  layer = minilm.layer_of(setting.values)
  heads, digests = None, {}
  if layer is not None:
    found, digests = minilm.load(*files)
    parts = [minilm.heads(found[layer], part) for part in minilm.PARTS]
    heads = parts if fits else parts[0]
  return digests | (practice if fits else draws).measure(setting, heads)


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
  parser = grid.parser(__doc__, RESULTS)
  for name, what in minilm.FILES.items():
    parser.add_argument(f"--{name}", default="", help=what)
  given = parser.parse_args()
  files = tuple(getattr(given, name) for name in minilm.FILES)
  grid.work(
    settings.every_setting(), given, lambda item: measure(item, files), tell
  )


if __name__ == "__main__":
  try:
    main()
  except KeyboardInterrupt:
    sys.exit("stopped; the same command resumes")
  except (ValueError, OSError) as error:
    print(f"theorems: {error}", file=sys.stderr)
    sys.exit(2)
