"""Where faults are done: a tiny run, its commands, and how they have to end.

Everything happens in one scratch folder: the token cache, compiled programs, an
undisturbed run to compare with, and a folder for each run that a fault is done
to. Runs are processes of the real command line, or forks that run it: `forked`.
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
from linformer_jax.run import metrics, report

ROOT = pathlib.Path(__file__).parent.parent.parent
UPDATES, EVERY, KEPT = 100, 5, 8
# Updates of milliseconds, with dropout, so that a place in it can be lost.
FIELDS = {
  "data.source": "synthetic",
  "model.vocab_size": 300,
  "model.max_length": 16,
  "model.projected_length": 8,
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
# What is told about text that is tokenised, and is no complaint.
_NEWS = re.compile(r"(Reading|Training a tokenizer|Tokenizing|Waiting for) .*")
_LONGEST = 300  # seconds that a command may take

SAME = "resumed, same bits"
HARMLESS = "no effect, same bits"
REPORTED = "reported in one line, same bits"
REFUSED = "one line, exit {}; then resumed, same bits"


class Unexpected(Exception):
  """A fault did not end as it has to; the message says how."""


@dataclasses.dataclass(frozen=True)
class Job:
  """Trials of one fault that are done together.

  Attributes:
    fault: a name of `campaign.FAULTS`.
    trial: names it among those of the fault.
    run: given a random generator, does the fault and returns a record a trial:
      of `record`. Raises Unexpected.
    starts: of processes, for the time that is left.
    count: of records.
  """

  fault: str
  trial: str
  run: Callable[[random.Random], list[dict]]
  starts: int = 1
  count: int = 1


def record(outcome: str, detail: str = "", line: str = "") -> dict:
  """How a trial ended: one of the outcomes, at what, and what was printed."""
  return {"outcome": outcome, "detail": detail, "line": line}


@dataclasses.dataclass(frozen=True)
class Ended:
  """What a command left: its status, and its output without news."""

  status: int
  out: str
  err: str

  def quiet(self):
    """Raises Unexpected unless all went well and nothing was complained of."""
    if self.status or self.err:
      raise Unexpected(f"exit {self.status}: {self.err}")
    return self

  def line(self, *statuses: int) -> str:
    """The one line of an error with one of the statuses, else Unexpected."""
    good = self.err.startswith("linformer_jax: ") and self.err.count("\n") == 0
    if not good or self.status not in statuses:
      raise Unexpected(f"exit {self.status}: {self.err[-2000:]}")
    return self.err


class Lab:
  """A scratch folder, see the module.

  Attributes:
    whole: folder of the undisturbed run, complete; copy it, change the copy.
    text: its token cache.
    expected: what the undisturbed run ended as.
    start_seconds: from the start of a process to its first update.
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
    """Makes the undisturbed run; the second one finds all compiled."""
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
    """A path where there is nothing yet; gone after the job."""
    self._made += 1
    self._runs.mkdir(exist_ok=True)
    return self._runs / str(self._made)

  def copy(self, newest: int = UPDATES) -> pathlib.Path:
    """A copy of the undisturbed run, as killed once `newest` was saved."""
    folder = shutil.copytree(self.whole, self.fresh())
    (folder / report.RESULT).unlink()
    for step in range(newest + EVERY, UPDATES + 1, EVERY):
      shutil.rmtree(folder / "checkpoints" / str(step))
    return folder

  def start(
    self, workdir, *words, text=None, anew=False, before=(), **environment
  ):
    """Starts a command on a folder: train, or what the words say.

    Args:
      workdir: folder of the run.
      *words: 'evaluate', or flags.
      text: folder of the token cache, if not the lab's.
      anew: python -m, and not a fork of a process that has imported all; so
        does each of the following.
      before: words before the command, which becomes theirs to start.
      **environment: variables besides.
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
    """Starts a command and waits for its end."""
    return self.finish(self.start(workdir, *words, **kwargs))

  def wait(self, process, moment: Callable[[], bool]):
    """Returns once `moment()` holds, while the process is running."""
    deadline = time.monotonic() + _LONGEST
    while not moment():
      if process.poll() is not None:
        ended = self.finish(process)
        raise Unexpected(f"too early, exit {ended.status}: {ended.err}")
      if time.monotonic() > deadline:
        raise Unexpected(f"nothing happened for {_LONGEST} s")
      time.sleep(0.002)

  def same(self, workdir):
    """Raises Unexpected where a complete run is not the undisturbed one."""
    difference = compare.difference(self._reader.read(workdir), self.expected)
    left = unfinished(workdir)
    if difference or left:
      raise Unexpected(difference or f"unfinished checkpoints: {left}")

  def resume(self, workdir, **kwargs):
    """The same command goes on to the end, and all is as undisturbed."""
    self.run(workdir, **kwargs).quiet()
    self.same(workdir)

  def clean(self):
    """Ends what a job left running, and removes its folders."""
    for process in self._processes:
      if process.poll() is None:
        process.kill()
        process.communicate()
    self._processes.clear()
    shutil.rmtree(self._runs, ignore_errors=True)


@contextlib.contextmanager
def paused(process):
  """Holds a process still, wherever it is, for a while."""
  process.send_signal(signal.SIGSTOP)
  try:
    yield
  finally:
    process.send_signal(signal.SIGCONT)


def unfinished(workdir) -> dict[int, int]:
  """{inode: step} of checkpoints that are, or were, being written."""
  folder = workdir / "checkpoints"
  if not folder.exists():
    return {}
  return {
    entry.inode(): int(entry.name.split(".")[0])
    for entry in os.scandir(folder)
    if "tmp" in entry.name
  }


def last_update(workdir) -> int:
  """The update of the last row of metrics.jsonl, 0 without any."""
  rows = metrics.read_json_lines(workdir)
  return rows[-1]["step"] if rows else 0


def saved(workdir, step: int) -> bool:
  """Whether a checkpoint is complete."""
  return (workdir / "checkpoints" / str(step)).exists()
