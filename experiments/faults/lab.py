"""The setup for injecting faults: a tiny run, its commands, their outcomes.

One scratch folder holds the token cache, compiled programs, an undisturbed run
to compare with, and a folder for each run with a fault. Runs are processes of
the real command line, or forks that run it, see `forked`.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from experiments.faults import compare, forked
from linformer_jax.run import metrics
from linformer_jax.run import result as result_lib

ROOT = pathlib.Path(__file__).parent.parent.parent
UPDATES, EVERY, KEPT = 100, 5, 8
# Updates take milliseconds. Dropout shows whether the random state is restored.
FIELDS = {
  "data.source": "synthetic",
  "model.vocab_size": 300,
  "model.max_length": 16,
  "attention.projected_length": 8,
  "model.embed_dim": 16,
  "model.position_dims": 8,
  "model.num_heads": 2,
  "model.mlp_dim": 32,
  "model.dropout_rate": 0.1,
  "optimizer.warmup_steps": 10,
  "train.batch_size": 4,
  "train.num_steps": UPDATES,
  "run.log_every_steps": 1,
  "run.eval_every_steps": 20,
  "run.eval_batch_size": 256,
  "run.checkpoint_every_steps": EVERY,
  "run.keep_checkpoints": KEPT,
}
# Progress lines about tokenizing, which are not complaints.
_NEWS = re.compile(r"(Reading|Training a tokenizer|Tokenizing|Waiting for) .*")
_LONGEST = 300  # the most seconds that a command may take

SAME = "resumed, same bits"
HARMLESS = "no effect, same bits"
REPORTED = "reported in one line, same bits"
REFUSED = "one line, exit {}; then resumed, same bits"


class Unexpected(Exception):
  """A fault did not end as it must; the message says how."""


@dataclasses.dataclass(frozen=True)
class Job:
  """Trials of one fault that are run together.

  Attributes:
    fault: a key of `campaign.FAULTS`.
    trial: the trial's name, unique within the fault.
    run: takes a random generator, injects the fault and returns a `record` per
      trial. Raises Unexpected.
    starts: the number of process starts, to estimate the remaining time.
    count: the number of records.
  """

  fault: str
  trial: str
  run: Callable[[random.Random], list[dict]]
  starts: int = 1
  count: int = 1


def record(outcome: str, detail: str = "", line: str = "") -> dict:
  """Returns how a trial ended: the outcome, a detail, and the printed line."""
  return {"outcome": outcome, "detail": detail, "line": line}


@dataclasses.dataclass(frozen=True)
class Ended:
  """The exit status of a command and its output, without progress lines."""

  status: int
  out: str
  err: str

  def quiet(self):
    """Raises Unexpected unless the command succeeded without complaints."""
    if self.status or self.err:
      raise Unexpected(f"exit {self.status}: {self.err}")
    return self

  def line(self, *statuses: int) -> str:
    """Returns the error line; raises Unexpected for any other status."""
    good = self.err.startswith("linformer_jax: ") and self.err.count("\n") == 0
    if not good or self.status not in statuses:
      raise Unexpected(f"exit {self.status}: {self.err[-2000:]}")
    return self.err


class Lab:
  """A scratch folder, see the module.

  Attributes:
    whole: the folder of the undisturbed, complete run; change only copies.
    text: the token cache of that run.
    expected: the outcome of that run.
    start_seconds: seconds from the start of a process to its first update.
  """

  def __init__(self, root: pathlib.Path):
    self.root = root
    self.whole, self.text = root / "whole", root / "text"
    self._runs = root / "runs"
    self._made = 0
    self._processes = []
    os.environ.update(
      {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      }
    )

  def prepare(self):
    """Makes the undisturbed run, twice: the second needs no compilation."""
    for folder in (self.root / "first", self.whole):
      began = time.monotonic()
      process = self.start(folder, anew=True)
      self.wait(process, lambda folder=folder: last_update(folder) > 0)
      self.start_seconds = time.monotonic() - began
      self.finish(process).quiet()
    self._reader = compare.Reader(self.whole, self.text)
    self.expected = self._reader.read(self.whole)
    self.same(self.root / "first")

  def fresh(self) -> pathlib.Path:
    """Returns an unused path, which is removed after the job."""
    self._made += 1
    self._runs.mkdir(exist_ok=True)
    return self._runs / str(self._made)

  def copy(self, newest: int = UPDATES) -> pathlib.Path:
    """Copies the undisturbed run as if it was killed after saving `newest`."""
    folder = shutil.copytree(self.whole, self.fresh())
    (folder / result_lib.RESULT).unlink()
    for step in range(newest + EVERY, UPDATES + 1, EVERY):
      shutil.rmtree(folder / "checkpoints" / str(step))
    return folder

  def start(
    self, workdir, *words, text=None, anew=False, before=(), **environment
  ):
    """Starts a command on a folder: train, unless the words say otherwise.

    Args:
      workdir: the run's folder.
      *words: 'evaluate', or flags.
      text: the folder of the token cache, if not the lab's.
      anew: start python -m instead of a fork; `before` and `environment` imply
        it.
      before: a command prefix.
      **environment: additional environment variables.
    """
    words = [*words, f"--workdir={workdir}"]
    if "evaluate" not in words:
      fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
      words += ["--config=configs/smoke.py", *fields]
    tokens = {"LINFORMER_CACHE": str(text or self.text)}
    if not (before or environment or anew):
      folder = self.fresh()
      folder.mkdir()
      process = forked.Forked(words, tokens, folder)
    else:
      process = subprocess.Popen(
        [*before, sys.executable, "-m", "linformer_jax.main", *words],
        cwd=ROOT,
        env=os.environ | tokens | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    self._processes.append(process)
    return process

  def finish(self, process) -> Ended:
    """Waits for a command to end."""
    try:
      out, err = process.communicate(timeout=_LONGEST)
    except subprocess.TimeoutExpired:
      raise Unexpected(f"still running after {_LONGEST} s") from None
    err = "\n".join(x for x in err.splitlines() if not _NEWS.fullmatch(x))
    return Ended(process.returncode, out, err)

  def run(self, workdir, *words, **kwargs) -> Ended:
    """Starts a command and waits for it to end."""
    return self.finish(self.start(workdir, *words, **kwargs))

  def wait(self, process, moment: Callable[[], bool]):
    """Waits until `moment()` holds while the process is running."""
    deadline = time.monotonic() + _LONGEST
    while not moment():
      if process.poll() is not None:
        ended = self.finish(process)
        raise Unexpected(f"too early, exit {ended.status}: {ended.err}")
      if time.monotonic() > deadline:
        raise Unexpected(f"nothing happened for {_LONGEST} s")
      time.sleep(0.002)

  def same(self, workdir):
    """Raises Unexpected if a complete run differs from the undisturbed one."""
    difference = compare.difference(self._reader.read(workdir), self.expected)
    left = unfinished(workdir)
    if difference or left:
      raise Unexpected(difference or f"unfinished checkpoints: {left}")

  def resume(self, workdir, **kwargs):
    """Resumes a run to its end and compares it with the undisturbed one."""
    self.run(workdir, **kwargs).quiet()
    self.same(workdir)

  def clean(self):
    """Ends the processes that a job left running, and removes its folders."""
    for process in self._processes:
      if process.poll() is None:
        process.kill()
        process.communicate()
    self._processes.clear()
    shutil.rmtree(self._runs, ignore_errors=True)


@contextlib.contextmanager
def paused(process):
  """Pauses a process within a context."""
  process.send_signal(signal.SIGSTOP)
  try:
    yield
  finally:
    process.send_signal(signal.SIGCONT)


def unfinished(workdir) -> dict[int, int]:
  """Returns {inode: step} of checkpoints that are unfinished."""
  folder = workdir / "checkpoints"
  if not folder.exists():
    return {}
  return {
    entry.inode(): int(entry.name.split(".")[0])
    for entry in os.scandir(folder)
    if "tmp" in entry.name
  }


def last_update(workdir) -> int:
  """Returns the update of the last row in metrics.jsonl, or 0."""
  rows = metrics.read_json_lines(workdir)
  return rows[-1]["step"] if rows else 0


def saved(workdir, step: int) -> bool:
  """Returns whether a checkpoint is complete."""
  return (workdir / "checkpoints" / str(step)).exists()
