"""Injects faults into a process before anything else runs.

Python imports this module by its name if this folder is in PYTHONPATH.

FAULT_CLOCK=SECONDS:FILE  the wall clock is off by SECONDS once FILE exists
FAULT_PICKLE=FILE         nothing can be unpickled; attempts are logged in FILE
"""

import os
import sys


def _jump(seconds: float, trigger: str):
  """Shifts time.time and time.time_ns."""
  import time

  now, now_ns = time.time, time.time_ns

  def shift():
    return seconds if os.path.exists(trigger) else 0.0

  time.time = lambda: now() + shift()
  time.time_ns = lambda: now_ns() + int(shift() * 1e9)


def _refuse_pickles(log: str):
  """Replaces everything that unpickles, in C and in Python.

  This runs before any other import, so no module holds the originals. If one
  did, the audit event of CPython would still report each name looked up.
  """
  import _pickle
  import pickle
  import traceback

  def refuse(*_, **__):
    with open(log, "a") as file:
      file.write("".join(traceback.format_stack()[:-1]) + "\n")
    raise pickle.UnpicklingError("nothing is to be unpickled")

  class Refused(_pickle.Unpickler):
    """Can be subclassed but not instantiated."""

    def __init__(self, *args, **kwargs):
      refuse()

  for module in (pickle, _pickle):
    module.load = module.loads = refuse
    module.Unpickler = Refused
  pickle._load = pickle._loads = refuse
  pickle._Unpickler.__init__ = refuse
  sys.addaudithook(lambda event, _: event == "pickle.find_class" and refuse())


if "FAULT_CLOCK" in os.environ:
  _seconds, _trigger = os.environ["FAULT_CLOCK"].split(":", 1)
  _jump(float(_seconds), _trigger)
if "FAULT_PICKLE" in os.environ:
  _refuse_pickles(os.environ["FAULT_PICKLE"])
