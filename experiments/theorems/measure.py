"""Checks theorems 1 and 2 on the grid: one setting, one line of JSON.

  .venv/bin/python -m experiments.theorems.measure
  .venv/bin/python -m experiments.theorems.measure --only='"theorem2"'
  .venv/bin/python -m experiments.theorems.measure --list   # what would run

Settings that are in the file already are left alone: stop it when you like, the
same command goes on. Minutes on two CPU cores in all. Then render.py.
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import sys
import time

from experiments.theorems import draws, practice, settings
from linformer_jax import benchmark

RESULTS = pathlib.Path(__file__).parent / "results" / "checks.jsonl"


def records(path: pathlib.Path = RESULTS) -> dict[settings.Setting, dict]:
  """Records of a file by their setting; a later line wins."""
  if not path.exists():
    return {}
  found = {}
  names = [field.name for field in dataclasses.fields(settings.Setting)]
  for line in path.read_text().splitlines():
    try:
      record = json.loads(line)
    except json.JSONDecodeError:
      continue  # cut short by a kill; the setting is measured again
    setting = settings.Setting(**{name: record[name] for name in names})
    found[setting] = record
  return found


def measure(setting: settings.Setting) -> dict:
  """The record of a setting."""
  if setting.check == "practice":
    return practice.measure(setting)
  return draws.measure(setting)


def tell(line: dict) -> str:
  """A record in a line."""
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
  """Runs what is missing, and tells how far it is."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
  parser.add_argument(
    "--only",
    default="",
    help="words that a setting's JSON must hold, comma separated",
  )
  parser.add_argument("--list", action="store_true", help="only tell them")
  given = parser.parse_args()
  words = [word.strip() for word in given.only.split(",") if word.strip()]
  wanted = [
    setting
    for setting in settings.every_setting()
    if all(word in setting.key for word in words)
  ]
  if not wanted:
    sys.exit(f"no setting holds all of {words}; --list tells them")
  known = records(given.results)
  missing = [setting for setting in wanted if setting not in known]
  if given.list:
    for setting in missing:
      print(setting.key)
    return
  print(f"{len(wanted) - len(missing)} are there, {len(missing)} to go")
  given.results.parent.mkdir(parents=True, exist_ok=True)
  environment = benchmark.environment()
  start = time.time()
  for i, setting in enumerate(missing):
    began = time.time()
    line = {
      **dataclasses.asdict(setting),
      **measure(setting),
      **environment,
      "time": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
      "wall_seconds": round(time.time() - began, 2),
    }
    with given.results.open("a") as file:
      file.write(json.dumps(line) + "\n")
    left = (time.time() - start) / (i + 1) * (len(missing) - i - 1)
    print(f"[{i + 1}/{len(missing)}, {left:.0f} s] {tell(line)}", flush=True)


if __name__ == "__main__":
  try:
    main()
  except KeyboardInterrupt:
    sys.exit("stopped; the same command goes on")
