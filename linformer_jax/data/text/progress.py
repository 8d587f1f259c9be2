"""Logs progress while the user waits."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

_log = logging.getLogger(__name__)

SECONDS_BETWEEN_REPORTS = 5.0


class Progress:
  """Counts documents and bytes, and logs one line every few seconds."""

  def __init__(self, label: str, documents: int = 0, size: int = 0):
    """Starts the clock.

    Args:
      label: the beginning of each line.
      documents: the number expected; 0 if unknown.
      size: bytes expected; 0 if unknown.
    """
    self._label = label
    self._expected = (documents, size)
    self._documents = self._size = 0
    self._start = self._last = time.monotonic()

  def add(self, documents: int, size: int) -> None:
    self._documents += documents
    self._size += size
    now = time.monotonic()
    if now - self._last >= SECONDS_BETWEEN_REPORTS:
      self._last = now
      self.report()

  def report(self) -> None:
    elapsed = max(time.monotonic() - self._start, 1e-9)
    documents, size = self._expected
    rates = (
      f"{self._documents / elapsed:.0f} documents/s,"
      f" {self._size / elapsed / 1e6:.1f} MB/s"
    )
    if not size:
      _log.info(
        "%s: %d documents, %.1f MB, %s",
        self._label,
        self._documents,
        self._size / 1e6,
        rates,
      )
      return
    left = elapsed * max(size / max(self._size, 1) - 1, 0)
    _log.info(
      "%s: %d of %d documents, %.1f of %.1f MB, %s, %d:%02d left",
      self._label,
      self._documents,
      documents,
      self._size / 1e6,
      size / 1e6,
      rates,
      *divmod(round(left), 60),
    )


@contextlib.contextmanager
def heartbeat(label: str) -> Iterator[None]:
  """Logs a line every few seconds during a call that reports nothing."""
  done = threading.Event()
  start = time.monotonic()

  def beat() -> None:
    while not done.wait(SECONDS_BETWEEN_REPORTS):
      _log.info("%s: %.0f s", label, time.monotonic() - start)

  thread = threading.Thread(target=beat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
