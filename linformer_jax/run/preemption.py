"""Makes SIGTERM and SIGINT stop a run after the current update, saved."""

import os
import signal
import threading

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
  """The run has saved a checkpoint and stops because of SIGTERM or SIGINT.

  Attributes:
    number: the signal's number.
    step: updates completed, all of them saved.
  """

  def __init__(self, number: int, step: int):
    super().__init__(f"{signal.Signals(number).name}: saved at update {step}")
    self.number, self.step = number, step


class Signals:
  """Defers SIGTERM and SIGINT until an update is done; a context manager.

  A second signal is handled as it was outside this context: it stops at once.

  With several processes, JAX's preemption service makes all of them stop at the
  same update. It handles SIGTERM itself, and SIGINT is forwarded as SIGTERM.
  """

  def __init__(self):
    self._number = None
    self._before = {}
    self._many = jax.process_count() > 1

  def __enter__(self):
    numbers = [signal.SIGINT] if self._many else [signal.SIGTERM, signal.SIGINT]
    if threading.current_thread() is threading.main_thread():
      for number in numbers:
        self._before[number] = signal.signal(number, self._remember)
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _remember(self, number, frame):
    del frame
    if self._number is not None:
      signal.signal(number, self._before[number])
      signal.raise_signal(number)
      return
    self._number = number
    if self._many:
      os.kill(os.getpid(), signal.SIGTERM)

  def received(self, step: int) -> int | None:
    """Returns the signal or None; all processes must ask at the same steps."""
    if self._many:
      reached = multihost_utils.reached_preemption_sync_point(step)
      return signal.SIGTERM if reached else None
    return self._number
