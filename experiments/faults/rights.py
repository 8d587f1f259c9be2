"""Folders that cannot be written: by permissions, or by a read-only mount.

chmod removes the write permission. Root ignores permissions, so the command
drops the capability to do so (CAP_DAC_OVERRIDE) before it starts.
"""

import contextlib
import functools
import pathlib
import shutil
import subprocess
import sys

from experiments.faults import disk, stops
from experiments.faults import lab as lab_lib

# Runs the command that follows without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
# (prctl.h: 24 is PR_CAPBSET_DROP). It has no effect for users other than root.
OBEDIENT = (
  sys.executable,
  "-c",
  "import ctypes, os, sys; c = ctypes.CDLL(None);"
  "[c.prctl(24, capability, 0, 0, 0) for capability in (1, 2)];"
  "os.execv(sys.argv[1], sys.argv[1:])",
)


def jobs(lab):
  """Yields jobs: folders of runs and of tokens without write permission."""
  for name, function in CASES.items():
    run = functools.partial(function, lab)
    yield lab_lib.Job("read-only", f"chmod, {name}", run, starts=2)
  if not disk.can_mount(lab.fresh()):
    print("no right to mount: without read-only mounts")
    return
  for name in ("stopped run", "complete run"):
    run = functools.partial(read_only_mount, lab, name)
    yield lab_lib.Job("read-only", f"mount, {name}", run, starts=2)


@contextlib.contextmanager
def unwritable(folder: pathlib.Path):
  """Removes the write permission of a folder and its files within a context."""
  paths = [folder, *folder.rglob("*")]
  for path in paths:
    path.chmod(path.stat().st_mode & ~0o222)
  try:
    yield
  finally:
    for path in filter(pathlib.Path.exists, paths):
      path.chmod(path.stat().st_mode | 0o200)


def content(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
  """Returns the content of each file in a folder."""
  return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextlib.contextmanager
def _unchanged(folder):
  before = content(folder)
  yield
  if content(folder) != before:
    raise lab_lib.Unexpected("files were changed")


def new_run(lab, rng):
  """Trains in a folder that cannot be made."""
  del rng
  parent = lab.fresh()
  parent.mkdir()
  with unwritable(parent):
    ended = lab.run(parent / "run", before=OBEDIENT)
    record = disk.refused(ended, parent, 2)
  lab.resume(parent / "run")
  return [record]


def half_run(lab, rng):
  """Resumes a stopped run in a folder that cannot be written."""
  del rng
  workdir = lab.copy(lab_lib.UPDATES - lab_lib.EVERY)
  with _unchanged(workdir), unwritable(workdir):
    record = disk.refused(lab.run(workdir, before=OBEDIENT), workdir, 2)
  lab.resume(workdir)
  return [record]


def within(lab, rng):
  """Removes the write permission while the run trains."""
  workdir = lab.fresh()
  update = rng.randrange(10, lab_lib.UPDATES // 2)
  reached = stops.moment("running", workdir, update)
  process = lab.start(workdir, before=OBEDIENT)
  lab.wait(process, reached)
  with contextlib.ExitStack() as stack:
    with lab_lib.paused(process):
      stack.enter_context(unwritable(workdir))
    record = disk.refused(lab.finish(process), workdir, 1)
  lab.resume(workdir)
  return [record | {"detail": f"from update {update}"}]


def tokens(lab, rng):
  """Reads tokens from a cache that cannot be written, or fails to add to it."""
  del rng
  workdir, text = lab.fresh(), lab.fresh()
  text.mkdir()
  with unwritable(text):
    ended = lab.run(workdir, text=text, before=OBEDIENT)
    record = disk.refused(ended, text, 2)
  with unwritable(lab.text):
    lab.resume(workdir, before=OBEDIENT)
  return [record]


def readable(lab, rng):
  """Evaluates and summarizes a complete run without writing."""
  del rng
  workdir = shutil.copytree(lab.whole, lab.fresh())
  with _unchanged(workdir), unwritable(workdir):
    _read(lab, workdir, before=OBEDIENT)
  return [lab_lib.record(lab_lib.HARMLESS)]


def _read(lab, workdir, **kwargs):
  """Evaluates a complete run, and runs train on it."""
  ended = lab.run(workdir, "evaluate", **kwargs).quiet()
  value = f"perplexity {lab.expected.result['perplexity']:.2f}"
  if value not in ended.out:
    raise lab_lib.Unexpected(f"{value} is not in {ended.out}")
  ended = lab.run(workdir, **kwargs).quiet()
  if "This run was complete" not in ended.out:
    raise lab_lib.Unexpected(ended.out)


CASES = {
  "new run": new_run,
  "stopped run": half_run,
  "while it runs": within,
  "token cache": tokens,
  "complete run": readable,
}


def read_only_mount(lab, what, rng):
  """Resumes or evaluates a run on a read-only mount."""
  del rng
  if what == "stopped run":
    workdir = lab.copy(lab_lib.UPDATES - lab_lib.EVERY)
  else:
    workdir = shutil.copytree(lab.whole, lab.fresh())
  with disk.mounted(lab.fresh(), "--bind", str(workdir)) as seen:
    change = ["mount", "-o", "remount,bind,ro", str(seen)]
    subprocess.run(change, check=True)
    if what == "complete run":
      _read(lab, seen)
      return [lab_lib.record(lab_lib.HARMLESS)]
    record = disk.refused(lab.run(seen), seen, 2)
  lab.resume(workdir)
  return [record]
