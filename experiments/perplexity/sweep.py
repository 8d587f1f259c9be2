"""Runs the points of a panel one after another, as the command line does.

  .venv/bin/python -m experiments perplexity --panel=a --text='GLOB'
  ... --list               # the launch lines, and what is done
  ... --budget=3600        # save and stop after an hour
  ... --config.train.num_steps=500 --results=DIR --workdir=DIR    # a pilot

Stop it when you like (Ctrl-C, SIGTERM, the budget): the run under way saves,
and the same command resumes from there. Points that are in the results are left
alone. The text is tokenized once for all points. Exit status: 0, all points are
done; 124, the budget is over; 1, some points broke down; 2, a wrong flag; 128 +
a signal.
"""

import argparse
import math
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

from absl import flags
from ml_collections import config_flags

from experiments.perplexity import curves, panels
from linformer_jax.run import report

ROOT = pathlib.Path(__file__).parent.parent.parent
OVER = 124  # the status of timeout(1)
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
# A shorter run is not worth starting.
_LEAST_SECONDS = 30


def config_of(words: list[str]):
  """Returns the config that command line flags give.

  Raises:
    ValueError: in one line, for invalid flags.
  """
  values = flags.FlagValues()
  argv = ["sweep", *words]
  try:
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
  except (flags.Error, AttributeError, KeyError) as error:
    message = str(error).strip().splitlines()[-1]
    raise ValueError(f"{shlex.join(words)}: {message}") from None
  return values.config


def words_of(text: str) -> list[str]:
  """Returns the flags for text: globs, or a folder of `experiments.text`."""
  folder = pathlib.Path(text)
  divided = (folder / "manifest.json").exists()
  files = f"{folder.absolute()}/train/*.jsonl" if divided else text
  words = ["--config.data.source=files", f"--config.data.files={files}"]
  if divided:
    held = f"{folder.absolute()}/valid/*.jsonl"
    words.append(f"--config.data.validation_files={held}")
  return words


class Run:
  """One seed of a point: its command line, folder and config.

  `extra` are further flags, of the config or not.
  """

  def __init__(self, point, seed: int, text: str, workdir: str, extra=()):
    self.point, self.seed = point, seed
    self.name = f"{point.name}-s{seed}"
    self.workdir = os.path.join(workdir, self.name)
    words = [*point.words(seed), *words_of(text), *extra]
    self.words = [*words, f"--workdir={self.workdir}"]
    self.config = config_of([x for x in words if x.startswith("--config")])
    self.flops = curves.update_flops(self.config) * self.config.train.num_steps

  def record(self) -> dict:
    """Returns the record of the run, which must be complete."""
    return curves.record(
      self.name, self.point, self.seed, self.config, self.workdir
    )


def runs(panel: panels.Panel, *places) -> list[Run]:
  """Returns all runs of a panel: all points of one seed, then the next seed."""
  points = dict.fromkeys((*panel.points, *panel.controls))
  return [Run(point, seed, *places) for seed in panel.seeds for point in points]


def launch(words: list[str], seconds: float = math.inf) -> int:
  """Runs the training command, and stops it after some seconds.

  A signal to this process is forwarded to the run, which saves. The run has its
  own session, so that Ctrl-C does not reach it twice.

  Returns:
    The exit status, or 128 + the signal that ended the run.
  """
  environment = os.environ | {
    "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
  }
  process, received = None, []

  def pass_on(number, frame):
    del frame
    received.append(number)
    if process is not None:
      process.send_signal(number)

  numbers = (signal.SIGINT, signal.SIGTERM)
  before = {number: signal.signal(number, pass_on) for number in numbers}
  try:
    process = subprocess.Popen(
      [sys.executable, "-m", "linformer_jax.main", "train", *words],
      cwd=ROOT,
      env=environment,
      start_new_session=True,
    )
    for number in received:  # Before the process was started.
      process.send_signal(number)
    status = process.wait(None if math.isinf(seconds) else seconds)
  except subprocess.TimeoutExpired:
    process.terminate()
    status = process.wait()
  finally:
    for number in numbers:
      signal.signal(number, before[number])
  return status if status >= 0 else 128 - status


def known(wanted: list[Run], results: pathlib.Path) -> dict[str, dict]:
  """Returns the records of these runs from the files of all panels."""
  found = {}
  for path in sorted(results.glob("*.jsonl")):
    there = curves.records(path)
    for run in wanted:
      record = there.get(run.name)
      if record and curves.is_of(record, run.config):
        found[run.name] = record
  return found


def go_through(
  wanted: list[Run],
  path: pathlib.Path,
  budget: float = math.inf,
  launch=launch,
) -> int:
  """Makes the missing runs, and writes each record once its run is complete.

  Args:
    wanted: the runs of a panel.
    path: the panel's file of results.
    budget: the most seconds to spend.
    launch: (words, seconds) -> exit status; see `launch`.

  Returns:
    An exit status; the module's docstring lists them.
  """
  start, broken = time.monotonic(), []
  found = known(wanted, path.parent)
  old = curves.records(path)
  if old | found != old:
    curves.save(path, old | found)
  missing = [run for run in wanted if run.name not in found]
  print(f"{len(found)} of {len(wanted)} runs are done", flush=True)
  for i, run in enumerate(missing):
    left = budget - (time.monotonic() - start)
    if left < _LEAST_SECONDS:
      return _stopped(OVER)
    print(
      f"\n[{len(wanted) - len(missing) + i + 1}/{len(wanted)}] {run.name}: "
      f"{run.point.label}{_time_left(missing[i:], found)}",
      flush=True,
    )
    status = launch(run.words, left)
    if status in _STOPPED:
      over = time.monotonic() - start >= budget
      return _stopped(OVER if over else status)
    if status == 2:  # The flags are wrong for all runs.
      return 2
    if status:
      broken.append(run.name)
      continue
    found[run.name] = run.record()
    curves.save(path, curves.records(path) | {run.name: found[run.name]})
  if broken:
    print(f"sweep: broke down: {', '.join(broken)}", file=sys.stderr)
  return 1 if broken else 0


def _stopped(status):
  print("stopped; the same command resumes", flush=True)
  return status


def _time_left(missing, found):
  """Estimates the time of the missing runs from the speed of complete ones."""
  needed = sum(record["evaluations"][-1][3] for record in found.values())
  if not needed:
    return ""
  spent = sum(record["wall_seconds"] for record in found.values())
  left = sum(run.flops for run in missing) * spent / needed
  return f"; about {report.clock(left)} left in the panel"


def _arguments(argv):
  parser = argparse.ArgumentParser(
    prog="sweep",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--panel", choices=panels.PANELS, required=True)
  parser.add_argument(
    "--text", help="globs of text or JSON lines, comma separated"
  )
  parser.add_argument("--list", action="store_true", help="only tell the runs")
  parser.add_argument(
    "--budget", type=float, default=math.inf, help="seconds, then save and stop"
  )
  parser.add_argument(
    "--workdir", default="runs/perplexity", help="folder of the runs' folders"
  )
  parser.add_argument(
    "--results",
    type=pathlib.Path,
    help="folder of the curves (default experiments/perplexity/results)",
  )
  given, extra = parser.parse_known_args(argv)
  wrong = [word for word in extra if not word.startswith("--config.")]
  if wrong:
    parser.error(f"{wrong[0]} is not understood")
  if extra and not given.results:
    parser.error("flags of the config make another recipe: add --results=DIR")
  if not given.text and not given.list:
    parser.error("--text=GLOB is needed")
  given.results = given.results or curves.RESULTS
  return given, extra


def main(argv=None) -> int:
  """Parses the flags and runs a panel; returns the exit status."""
  given, extra = _arguments(argv)
  panel = panels.PANELS[given.panel]
  try:
    wanted = runs(panel, given.text or "GLOB", given.workdir, extra)
  except ValueError as error:
    print(f"sweep: {error}", file=sys.stderr)
    return 2
  if given.list:
    found = known(wanted, given.results)
    for run in wanted:
      mark = "# done: " if run.name in found else ""
      print(f"{mark}./launch.sh train {shlex.join(run.words)}")
    return 0
  return go_through(
    wanted, given.results / f"{given.panel}.jsonl", given.budget
  )


if __name__ == "__main__":
  try:
    sys.exit(main())
  except KeyboardInterrupt:
    sys.exit("stopped; the same command resumes")
