"""What a command prints, on streams that may be closed; a leaf."""

import os
import sys


def open_streams():
  """Makes closed streams lead nowhere, and unprintable characters escapes.

  Without it, the next file that is opened gets the number of a closed stream,
  and with it what a library writes there.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")


def say(line: str):
  """Prints a line; where nobody reads on, as after `| head`, prints no more."""
  try:
    print(line, flush=True)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str, status: int) -> int:
  """Prints an error on one line; returns the status to exit with."""
  try:
    print(f"linformer_jax: {' '.join(message.split())}", file=sys.stderr)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
  return status
