"""Full disks, for files of a run and for the token cache.

There are two kinds, named in the trial: a limit on the file size (RLIMIT_FSIZE)
and, if mounting is allowed, a small tmpfs that is filled up.
"""

import contextlib
import errno
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import time

from experiments.faults import lab as lab_lib
from experiments.faults import stops

# Runs the command that follows with a file size limit.
_LIMITED = (
  sys.executable,
  "-c",
  "import os, resource, sys; size = int(sys.argv[1]);"
  "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size));"
  "os.execv(sys.argv[2], sys.argv[2:])",
)


def limited(size: int) -> tuple[str, ...]:
  """Returns a command prefix that limits the file size to `size` bytes."""
  return (*_LIMITED, str(size))


@contextlib.contextmanager
def mounted(folder: pathlib.Path, *options: str):
  """Mounts something on a new folder within a context."""
  folder.mkdir(parents=True)
  subprocess.run(["mount", *options, str(folder)], check=True)
  try:
    yield folder
  finally:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def can_mount(folder: pathlib.Path) -> bool:
  """Returns whether this user may mount."""
  if os.geteuid() or not shutil.which("mount"):
    return False
  try:
    with mounted(folder, "-t", "tmpfs", "tmpfs"):
      return True
  except subprocess.CalledProcessError:
    return False


def fill(path: pathlib.Path):
  """Appends to a file until the disk is full."""
  with path.open("ab", buffering=0) as file:
    for size in (2**20, 2**12, 1):
      try:
        while True:
          file.write(bytes(size))
      except OSError as error:
        if error.errno != errno.ENOSPC:
          raise


def jobs(lab):
  """Yields jobs: file size limits, and disks filled at random moments."""
  for name, size in _limits(lab).items():
    run = functools.partial(large_file, lab, size)
    yield lab_lib.Job("disk full", f"RLIMIT_FSIZE, as of {name}", run, starts=2)
  run = functools.partial(large_tokens, lab)
  yield lab_lib.Job("disk full", "RLIMIT_FSIZE, token cache", run, starts=2)
  if not can_mount(lab.fresh()):
    print("no right to mount: without a tmpfs")
    return
  for i, kind in enumerate(["start", *["running"] * 3, *["writing"] * 5]):
    run = functools.partial(full_disk, lab, kind)
    yield lab_lib.Job("disk full", f"tmpfs, {kind} {i}", run, starts=2)
  run = functools.partial(full_of_tokens, lab)
  yield lab_lib.Job("disk full", "tmpfs, token cache", run, starts=2)


def _limits(lab):
  """Returns file size limits that some file of a run exceeds."""
  newest = lab.whole / "checkpoints" / str(lab_lib.UPDATES)
  files = [path for path in newest.rglob("*") if path.is_file()]
  arrays = max(path.stat().st_size for path in files)
  sizes = {
    name: (lab.whole / name).stat().st_size
    for name in ("config.json", "metrics.jsonl", "curve.png")
  }
  return {
    "config.json": sizes["config.json"] - 1,
    "arrays": arrays - 1,
    "metrics.jsonl": sizes["metrics.jsonl"] // 2,
    "curve.png": sizes["curve.png"] - 1,
  }


def refused(ended, workdir, *statuses):
  """Returns a record of an error line and its exit status."""
  line = ended.line(*statuses).replace(str(workdir), "RUN")
  outcome = lab_lib.REFUSED.format(ended.status)
  return lab_lib.record(outcome, "", line)


def large_file(lab, size, rng):
  """Limits the file size while a run trains."""
  del rng
  workdir = lab.fresh()
  ended = lab.run(workdir, before=limited(size))
  record = refused(ended, workdir, 1, 2)
  lab.resume(workdir)
  return [record | {"detail": f"no file above {size:,} bytes"}]


def large_tokens(lab, rng):
  """Limits the file size while text is tokenized."""
  del rng
  workdir, text = lab.fresh(), lab.fresh()
  ended = lab.run(workdir, text=text, before=limited(20_000))
  record = refused(ended, text, 2)
  lab.resume(workdir, text=text)
  return [record]


def full_disk(lab, kind, rng):
  """Fills a small disk at a random moment and keeps it full."""
  with mounted(lab.fresh(), "-t", "tmpfs", "-o", "size=32m", "tmpfs") as disk:
    workdir, filler = disk / "run", disk / "filler"
    update = rng.randrange(lab_lib.UPDATES - 2 * lab_lib.EVERY)
    reached = None
    if kind != "start":
      reached = stops.moment(kind, workdir, update)
    process = lab.start(workdir)
    if reached:
      lab.wait(process, reached)
      time.sleep(rng.uniform(0, 0.05))
    while process.poll() is None:
      fill(filler)  # Again, as deleted checkpoints free space.
      time.sleep(0.01)
    record = refused(lab.finish(process), workdir, 1, 2)
    filler.unlink()
    lab.resume(workdir)
  return [record | {"detail": f"{kind}, from update {update}"}]


def full_of_tokens(lab, rng):
  """Tokenizes on a disk that is too small, and again on a larger one."""
  del rng
  workdir = lab.fresh()
  with mounted(lab.fresh(), "-t", "tmpfs", "-o", "size=64k", "tmpfs") as text:
    record = refused(lab.run(workdir, text=text), text, 2)
    larger = ["mount", "-o", "remount,size=32m", str(text)]
    subprocess.run(larger, check=True)
    lab.resume(workdir, text=text)
  return [record]
