"""Signals at random moments: SIGKILL, SIGTERM and Ctrl-C, in chains.

A chain is one run, stopped and resumed until it is complete. The moments are

  start    importing, restoring or compiling
  running  during the updates
  writing  while a checkpoint is written
  ending   after the last checkpoint, before result.json
"""

import functools
import signal
import time

from experiments.faults import lab as lab_lib

# Ten kills, half of them while a checkpoint is written.
KILLS = ("start", *["running"] * 3, *["writing"] * 5, "ending")
OTHERS = ("start", "running", "writing", "writing", "ending")


def jobs(lab, kills: int = 100):
  """Yields jobs: chains of each signal, and kills while tokenizing."""
  for i in range(-(-kills // len(KILLS))):
    yield _chain(lab, signal.SIGKILL, i, KILLS)
  for number in (signal.SIGTERM, signal.SIGINT):
    for i in range(2):
      yield _chain(lab, number, i, OTHERS)
  for i in range(5):
    yield lab_lib.Job(
      "SIGKILL while tokenising",
      f"kill {i}",
      functools.partial(tokenizing, lab),
      starts=2,
    )


def _chain(lab, number, i, kinds):
  return lab_lib.Job(
    number.name,
    f"chain {i}",
    functools.partial(chain, lab, number, kinds),
    starts=len(kinds) + 1,
    count=len(kinds),
  )


def chain(lab, number, kinds, rng):
  """Stops a run once at each kind of moment; the last kind stays last."""
  workdir = lab.fresh()
  kinds = list(kinds)
  order = rng.sample(kinds[:-1], len(kinds) - 1) + kinds[-1:]
  records = []
  for i, kind in enumerate(order):
    update = i * lab_lib.UPDATES // (len(kinds) + 1) + rng.randrange(5)
    records.append(stop(lab, rng, workdir, number, kind, update))
  lab.resume(workdir)
  return records


def moment(kind, workdir, update):
  """Returns a test for a kind of moment, at or after an update."""
  rows = workdir / "metrics.jsonl"  # Replaced by every process.
  inode = rows.stat().st_ino if rows.exists() else None
  before = lab_lib.unfinished(workdir)

  def running():
    if not rows.exists() or rows.stat().st_ino == inode:
      return False
    return lab_lib.last_update(workdir) >= update

  def writing():
    new = lab_lib.unfinished(workdir).items() - before.items()
    return any(step >= update for _, step in new)

  def ending():
    return lab_lib.saved(workdir, lab_lib.UPDATES)

  return {"running": running, "writing": writing, "ending": ending}[kind]


def stop(lab, rng, workdir, number, kind, update):
  """Starts a process and stops it at a kind of moment; returns a record."""
  before = lab_lib.unfinished(workdir)
  process = None
  if kind == "start":
    process = lab.start(workdir, anew=True)
    time.sleep(rng.uniform(0.3, lab.start_seconds))
  else:
    reached = moment(kind, workdir, update)
    process = lab.start(workdir)
    lab.wait(process, reached)
    longest = {"running": 0.1, "writing": 0.03, "ending": 0.2}[kind]
    time.sleep(rng.uniform(0, longest))
  process.send_signal(number)
  ended = lab.finish(process)
  line = check(ended, number, kind)
  left = lab_lib.unfinished(workdir).items() - before.items()
  steps = sorted(step for _, step in left)
  detail = f"{kind}, update {lab_lib.last_update(workdir)}"
  if steps:
    detail += f", checkpoint {steps[0]} left unfinished"
  return lab_lib.record(lab_lib.SAME, detail, line)


def check(ended, number, kind) -> str:
  """Returns the line that a stopped process ended with, '' if it needs none."""
  # Before and after the updates there is nothing to save.
  early = number == signal.SIGKILL or kind in ("start", "ending")
  if early and (ended.status, ended.err) == (-number, ""):
    return ""
  if number == signal.SIGKILL:
    raise lab_lib.Unexpected(f"exit {ended.status}: {ended.err}")
  if kind == "ending" and ended.status == 0:
    ended.quiet()  # Everything was saved, so it runs to the end.
    return ""
  line = ended.line(128 + number)
  if f"{number.name}: saved at update " not in line:
    raise lab_lib.Unexpected(line)
  return line


def tokenizing(lab, rng):
  """Kills a run while it writes its token cache."""
  workdir, text = lab.fresh(), lab.fresh()
  process = lab.start(workdir, text=text)
  lab.wait(process, lambda: any(text.glob("*.tmp-*")))
  time.sleep(rng.uniform(0, 0.5))
  process.kill()
  lab.finish(process)
  left = [path for path in text.iterdir() if path.is_dir()]
  lab.resume(workdir, text=text)
  entries = [path for path in text.iterdir() if path.is_dir()]
  if len(entries) != 1:
    raise lab_lib.Unexpected(f"{len(entries)} entries in the token cache")
  whole = not any(".tmp-" in path.name for path in left)
  detail = "entry complete" if whole else "entry unfinished"
  return [lab_lib.record(lab_lib.SAME, detail)]
