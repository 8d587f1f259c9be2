"""Does faults to runs, one after another: one line of JSON a trial.

  .venv/bin/python -m experiments faults          # all not done yet
  .venv/bin/python -m experiments faults --list   # faults and counts
  .venv/bin/python -m experiments faults --only=SIGKILL,disk

Each trial has to end as a run that nothing happened to, to the last bit, or in
one clear line and then, by the same command, so. Trials that are in the file
and ended well are left alone: stop it when you like, the same command resumes.
The exit status is 1 where any trial did not end well. It takes about half an
hour on one core; what cannot be done by this user (mounting) is left out.
"""

import argparse
import collections
import datetime
import pathlib
import random
import sys
import tempfile
import time

import absl.logging
import jax

from experiments import grid
from experiments.faults import around, damage, disk, rights, stops
from experiments.faults import lab as lab_lib
from linformer_jax import hardware

RESULTS = pathlib.Path(__file__).parent / "results" / "faults.jsonl"
# The description of each fault on the page, by its name in the file.
FAULTS = {
  "SIGKILL": "SIGKILL at a random moment, half of them while a checkpoint is "
  "written",
  "SIGKILL while tokenising": "SIGKILL while the token cache is written",
  "SIGTERM": "SIGTERM at a random moment",
  "SIGINT": "Ctrl-C at a random moment",
  "disk full": "disk full, or a file too large (quota), at a random moment",
  "checkpoint damaged": "a file of the newest checkpoint damaged, each in "
  "turn: a byte flipped (first, middle, last, random), cut to half, emptied, "
  "deleted",
  "every checkpoint damaged": "every checkpoint damaged",
  "token cache damaged": "a file of the token cache damaged, each in turn, "
  "likewise",
  "file of the run damaged": "`config.json`, `corpus.json` or `result.json` "
  "cut, emptied, deleted, or with a byte that is not text",
  "read-only": "a folder that cannot be written",
  "clock jump": "the clock and the times of files jump",
  "two runs at once": "two runs in one folder",
  "unpickling": "everything that unpickles refused",
}


def records(path: pathlib.Path = RESULTS) -> dict[tuple[str, str], list[dict]]:
  """Returns the lines of a file by fault and trial; a trial's last ones win."""
  found = {}
  for record in grid.lines(path):
    key = record["fault"], record["trial"]
    if record["part"] == 0:
      found[key] = []
    found.setdefault(key, []).append(record)
  return found


def done(lines: list[dict] | None) -> bool:
  """Returns whether a trial is complete and ended well."""
  whole = lines and len(lines) == lines[0]["parts"]
  return bool(whole) and all(line["ok"] for line in lines)


def of_fault(found: dict, fault: str) -> list[dict]:
  """Returns all lines about a fault."""
  jobs = [lines for (name, _), lines in found.items() if name == fault]
  return [line for lines in jobs for line in lines]


def attempt(lab, job: lab_lib.Job, seed: int) -> list[dict]:
  """Runs a job's trials; returns their records."""
  rng = random.Random(f"{seed} {job.fault} {job.trial}")
  began = time.time()
  try:
    made = [record | {"ok": True} for record in job.run(rng)]
  except lab_lib.Unexpected as error:
    made = [lab_lib.record(str(error)) | {"ok": False}]
  finally:
    lab.clean()
  common = {"fault": job.fault, "trial": job.trial, "seed": seed}
  counted = {"parts": len(made), "seconds": round(time.time() - began, 1)}
  return [
    common | {"part": i} | record | counted for i, record in enumerate(made)
  ]


def table(found: dict) -> str:
  """Returns a Markdown table of faults, trials and outcomes."""
  rows = ["| fault | trials | how they ended |", "|---|---:|---|"]
  for fault, text in FAULTS.items():
    lines = of_fault(found, fault)
    if not lines:
      continue
    ends = collections.Counter(
      x["outcome"] if x["ok"] else "**not as it has to**" for x in lines
    )
    told = [f"{count} {outcome}" for outcome, count in ends.most_common()]
    if len(told) == 1:
      told = list(ends)
    rows.append(f"| {text} | {len(lines)} | {'; '.join(told)} |")
  return "\n".join(rows)


def every_job(lab, kills: int):
  """Yields all jobs, in the order in which they are run."""
  yield from damage.jobs(lab)
  yield from disk.jobs(lab)
  yield from rights.jobs(lab)
  yield from around.jobs(lab)
  yield from stops.jobs(lab, kills)


def _arguments():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--only",
    default="",
    help="parts of names of faults or trials, comma separated",
  )
  parser.add_argument(
    "--list", action="store_true", help="only tell the faults and what is done"
  )
  parser.add_argument(
    "--again", action="store_true", help="do trials that ended well, too"
  )
  parser.add_argument(
    "--seed",
    type=int,
    default=0,
    help="of moments and bytes (default 0); another goes with other --results",
  )
  parser.add_argument(
    "--kills",
    type=int,
    default=100,
    help="SIGKILLs, in chains of ten (default 100)",
  )
  parser.add_argument(
    "--results", type=pathlib.Path, default=RESULTS, help="file of JSON lines"
  )
  return parser.parse_args()


def work(given, words, lab) -> bool:
  """Runs the missing jobs; returns whether all trials ended well."""
  lab.prepare()
  known = records(given.results)
  wanted = [
    job
    for job in every_job(lab, given.kills)
    if not words or any(w in f"{job.fault}, {job.trial}" for w in words)
  ]
  if not wanted:
    sys.exit(f"no trial's name holds one of {words}; --list tells the faults")
  undone = [
    job
    for job in wanted
    if given.again or not done(known.get((job.fault, job.trial)))
  ]
  print(f"{len(wanted) - len(undone)} are there, {len(undone)} to go")
  environment = hardware.environment()
  left, started, began = sum(job.starts for job in undone), 0, time.time()
  good = True
  for job in undone:
    lines = attempt(lab, job, given.seed)
    when = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    for line in lines:
      grid.append(given.results, line | environment | {"time": when})
    started += job.starts
    seconds = (time.time() - began) / started * (left - started)
    well = all(line["ok"] for line in lines)
    good &= well
    said = lines[-1]["outcome"] if well else f"NOT OK: {lines[-1]['outcome']}"
    print(f"[{seconds / 60:.0f} min left] {job.fault}, {job.trial}: {said}")
  return good


def main() -> int:
  """Runs the campaign; returns the exit status."""
  given = _arguments()
  words = [word.strip() for word in given.only.split(",") if word.strip()]
  if given.list:
    known = records(given.results)
    for fault in FAULTS:
      trials = of_fault(known, fault)
      print(f"{fault}: {len(trials)} trials, {sum(x['ok'] for x in trials)} ok")
    return 0
  jax.config.update("jax_platforms", "cpu")
  absl.logging.set_verbosity(absl.logging.FATAL)  # Silences Orbax, as in a run.
  with tempfile.TemporaryDirectory(prefix="faults-") as folder:
    lab = lab_lib.Lab(pathlib.Path(folder))
    try:
      good = work(given, words, lab)
    finally:
      lab.clean()
  print(table(records(given.results)))
  return 0 if good else 1


if __name__ == "__main__":
  try:
    sys.exit(main())
  except KeyboardInterrupt:
    sys.exit("stopped; the same command resumes")
