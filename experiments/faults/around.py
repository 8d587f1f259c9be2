"""Faults around a process: its clock, concurrent processes, and unpickling."""

import functools
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

from experiments.faults import damage, disk, stops
from experiments.faults import lab as lab_lib

HOOKS = pathlib.Path(__file__).parent / "hooks"
DAY = 24 * 3600
JUMPS = {"400 days forward": 400 * DAY, "400 days back": -400 * DAY}
JUMPS |= {"an hour back": -3600}
HALF = lab_lib.UPDATES // 2


def hooked(**variables: str) -> dict[str, str]:
  """Returns an environment in which hooks/sitecustomize.py injects faults."""
  before = os.environ.get("PYTHONPATH")
  path = [str(HOOKS), *([before] if before else [])]
  return {"PYTHONPATH": os.pathsep.join(path), **variables}


def jobs(lab):
  """Yields jobs: clock jumps, runs in one folder, and refused pickles."""
  for name, seconds in JUMPS.items():
    for when in ("within a run", "before a kill", "between two runs"):
      run = functools.partial(clock, lab, seconds, when)
      yield lab_lib.Job("clock jump", f"{name}, {when}", run, starts=2)
  for i in range(3):
    for name, function in TOGETHER.items():
      run = functools.partial(function, lab)
      yield lab_lib.Job("two runs at once", f"{name} {i}", run, starts=2)
  run = functools.partial(pickles, lab)
  yield lab_lib.Job("unpickling", "a run's life", run, starts=4, count=5)


def touch(folder: pathlib.Path, seconds: float):
  """Sets the times of all files in a folder to now plus `seconds`."""
  then = time.time() + seconds
  for path in [folder, *folder.rglob("*")]:
    os.utime(path, (then, then))


def clock(lab, seconds, when, rng):
  """Makes the clock and all file times jump, halfway through a run."""
  workdir, trigger = lab.fresh(), lab.fresh()
  environment = hooked(FAULT_CLOCK=f"{seconds}:{trigger}")
  update = HALF + rng.randrange(10)
  process = lab.start(workdir, **environment)
  lab.wait(process, lambda: lab_lib.last_update(workdir) >= update)
  with lab_lib.paused(process):
    touch(workdir, seconds)
    if when != "between two runs":
      trigger.touch()
  if when == "before a kill":
    later = update + 10
    lab.wait(
      process,
      lambda: (
        process.poll() is not None or lab_lib.last_update(workdir) >= later
      ),
    )
  if when != "within a run":
    process.kill()
  ended = lab.finish(process)
  record = lab_lib.record(lab_lib.SAME)
  if ended.status == 1:  # Orbax reads the clock while waiting for a checkpoint.
    record = disk.refused(ended, workdir, 1)
  elif when == "within a run":
    ended.quiet()
  else:
    stops.check(ended, signal.SIGKILL, "running")
  if when == "between two runs":
    trigger.touch()
    lab.resume(workdir, **environment)
  else:
    lab.resume(workdir)
  return [record | {"detail": f"at update {update}"}]


def _training_run(lab, rng):
  """Starts a run and waits until it trains."""
  workdir = lab.fresh()
  reached = stops.moment("running", workdir, rng.randrange(1, HALF))
  process = lab.start(workdir)
  lab.wait(process, reached)
  return workdir, process


def second(lab, rng):
  """A second run is refused, and the first continues undisturbed."""
  workdir, first = _training_run(lab, rng)
  with lab_lib.paused(first):
    line = disk.refused(lab.run(workdir), workdir, 2)["line"]
  if "another process is training in --workdir=RUN" not in line:
    raise lab_lib.Unexpected(line)
  lab.finish(first).quiet()
  lab.same(workdir)
  outcome = "second refused in one line, exit 2; first same bits"
  return [lab_lib.record(outcome, "", line)]


def at_once(lab, rng):
  """Two processes start at the same time: one of them trains."""
  del rng
  workdir = lab.fresh()
  both = [lab.start(workdir) for _ in range(2)]
  loser, winner = sorted(map(lab.finish, both), key=lambda e: -e.status)
  winner.quiet()
  line = loser.line(2).replace(str(workdir), "RUN")
  lab.same(workdir)
  outcome = "one refused in one line, exit 2; the other same bits"
  return [lab_lib.record(outcome, "", line)]


def after_a_kill(lab, rng):
  """The first process is killed, and the folder is free immediately."""
  workdir, first = _training_run(lab, rng)
  first.kill()
  lab.resume(workdir)
  return [lab_lib.record(lab_lib.SAME)]


def beside(lab, rng):
  """A run is evaluated while it trains."""
  workdir, first = _training_run(lab, rng)
  with lab_lib.paused(first):
    ended = lab.run(workdir, "evaluate")
  lab.finish(first).quiet()
  lab.same(workdir)
  if ended.status == 0 and "validation perplexity" in ended.quiet().out:
    return [lab_lib.record("evaluated; first same bits")]
  outcome = "one line, exit 1: nothing to evaluate yet; first same bits"
  return [lab_lib.record(outcome, "", ended.line(1))]


TOGETHER = {
  "a second run": second,
  "both started at once": at_once,
  "the first killed": after_a_kill,
  "evaluated meanwhile": beside,
}


def refusals() -> int:
  """Counts the ways of unpickling that the hook allows: 0 if it works."""
  ways = [
    "pickle.loads(data)",
    "_pickle.loads(data)",
    "pickle._loads(data)",
    "pickle.Unpickler(io.BytesIO(data)).load()",
    "pickle._Unpickler(io.BytesIO(data)).load()",
    "type('U', (pickle.Unpickler,), {})(io.BytesIO(data)).load()",
    "pickle.load(open(os.devnull, 'rb'))",
  ]
  start = f"import _pickle, io, os, pickle; data = {pickle.dumps([1])!r}; "
  environment = os.environ | hooked(FAULT_PICKLE=os.devnull)
  passed = 0
  for way in ways:
    done = subprocess.run(
      [sys.executable, "-c", start + way],
      env=environment,
      capture_output=True,
      text=True,
    )
    passed += "nothing is to be unpickled" not in done.stderr
  return passed


def pickles(lab, rng):
  """Runs all commands on a run while every unpickling is refused and logged."""
  if refusals():
    raise lab_lib.Unexpected(f"{refusals()} ways of unpickling are open")
  log, text = lab.fresh(), lab.fresh()
  environment = hooked(FAULT_PICKLE=str(log))
  records = [lab_lib.record("refused", "seven ways of unpickling, as a test")]

  def passed(what):
    if log.exists():
      raise lab_lib.Unexpected(f"unpickled: {log.read_text()[-2000:]}")
    records.append(lab_lib.record("nothing unpickled, same bits", what))

  workdir = lab.fresh()
  reached = stops.moment("running", workdir, HALF)
  process = lab.start(workdir, text=text, **environment)
  lab.wait(process, reached)
  process.kill()
  lab.finish(process)
  passed("tokenised, trained, killed")
  lab.resume(workdir, text=text, **environment)
  passed("resumed to the end")
  lab.run(workdir, "evaluate", text=text, **environment).quiet()
  passed("evaluated")
  workdir = lab.copy()
  newest = workdir / "checkpoints" / str(lab_lib.UPDATES)
  for path in damage.roles(newest).values():
    path.write_bytes(pickle.dumps(path.read_bytes()))
  for path in filter(pathlib.Path.is_file, text.rglob("*")):
    path.write_bytes(pickle.dumps(path.read_bytes()))
  if lab.run(workdir, text=text, **environment).status:
    raise lab_lib.Unexpected("not resumed from the checkpoint before")
  lab.same(workdir)
  passed("the newest checkpoint and the token cache replaced by pickles")
  return records
