"""Prints to streams that may be closed."""

import os
import sys


def open_streams():
  """Redirects closed streams to /dev/null and escapes unprintable characters.

  Otherwise the next file to be opened would get the number of a closed stream,
  and with it whatever a library prints there.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # Takes the lowest free number.
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")


def say(line: str, end: str = "\n"):
  """Prints a line; silent once the pipe is closed, as by `| head`."""
  try:
    print(line, end=end, flush=True)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str, status: int) -> int:
  """Prints an error on one line; returns the exit status."""
  try:
    print(f"linformer_jax: {' '.join(message.split())}", file=sys.stderr)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
  return status
