"""Starts commands quickly, as forks of a process with everything imported.

A campaign starts hundreds of processes, and each spends most of its time on
importing JAX and TensorFlow. A fork of a process that has only imported them
runs the command's main() as python -m would.
"""

import logging
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
  [
    "linformer_jax.main",
    "linformer_jax.train",
    "linformer_jax.run.workdir",
    "matplotlib.pyplot",
    "experiments.faults.forked",
  ]
)


def _main(words, environment, files):
  """Runs the command in the forked process."""
  from linformer_jax import main

  for number, file in files.items():
    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  logging.getLogger().handlers.clear()  # The command sets its own.
  os.environ.update(environment)
  sys.argv = ["main", *words]
  sys.exit(main.main())


class Forked:
  """Like subprocess.Popen with pipes, for arguments of linformer_jax.main."""

  def __init__(self, words, environment, folder: pathlib.Path):
    """Starts the command, with output to files in an existing folder."""
    self._files = {1: str(folder / "out"), 2: str(folder / "err")}
    self._process = _CONTEXT.Process(
      target=_main, args=(words, environment, self._files), daemon=True
    )
    self._process.start()
    self.pid = self._process.pid

  @property
  def returncode(self) -> int | None:
    """The exit status, -N for signal N, or None while it runs."""
    return self._process.exitcode

  poll = returncode.fget

  def send_signal(self, number: int):
    """Sends a signal unless the process has ended."""
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self):
    """Sends SIGKILL."""
    self.send_signal(signal.SIGKILL)

  def communicate(self, timeout=None) -> tuple[str, str]:
    """Waits for the process to end; returns its output."""
    self._process.join(timeout)
    if self.poll() is None:
      raise subprocess.TimeoutExpired("main", timeout)
    texts = []
    for path in map(pathlib.Path, self._files.values()):
      texts.append(path.read_text() if path.exists() else "")
    return texts[0], texts[1]
