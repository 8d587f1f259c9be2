"""SIGTERM and SIGINT end a run at the next update, with everything saved."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
  """SIGTERM or SIGINT: the run has saved and stops.

  Attributes:
    number: of the signal.
    step: updates completed, all of them saved.
  """

  def __init__(self, number: int, step: int):
    super().__init__(f"{signal.Signals(number).name}: saved at update {step}")
    self.number, self.step = number, step


class Signals:
  """Remembers SIGTERM and SIGINT until an update is done.

  Where several processes run, all of them learn of it at the same update.
  """

  def __init__(self):
    self._number = None
    self._before = {}

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._before[number] = signal.signal(number, self._remember)
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _remember(self, number, frame):
    del frame
    if self._number is not None:  # asked twice: stop at once
      signal.signal(number, self._before[number])
      signal.raise_signal(number)
    self._number = number

  def received(self, step: int) -> int | None:
    """The signal that came, or None."""
    if jax.process_count() > 1:
      if multihost_utils.reached_preemption_sync_point(step):
        return signal.SIGTERM
      return None
    return self._number
