"""The flags of the command line, and one line for what is wrong with them."""

import os
import re

from absl import flags
from ml_collections import config_flags


class UsageError(Exception):
  """What the user asked for cannot be done; the message says why."""


def make_flags() -> flags.FlagValues:
  """The flags, unparsed, in a set of their own and not absl's global one."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, and its argument after a colon.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: checkpoints, metrics, curve.png.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "topology",
    None,
    "For plan: a TPU slice such as v5e:4x4, v5p:2x2x1 or v5e:1, or h100.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "new",
    False,
    "Start a new run in DIR-2, DIR-3, ... if DIR holds one.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "extend",
    False,
    "Train a complete run further, to --config.train.num_steps: the learning "
    "rate warms up and decays once more, from the update it had ended at.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "init_from",
    None,
    "Folder of a run: start a new one from its newest weights, with its "
    "tokenizer and a fresh optimizer.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "distributed",
    False,
    "Join the processes of a TPU pod or a cluster "
    "(jax.distributed.initialize).",
    flag_values=values,
  )
  return values


def parse(given: flags.FlagValues, argv: list[str]) -> list[str]:
  """Reads the flags; returns the words that are none.

  Raises:
    UsageError: in one line, for what config_flags reports with a traceback.
  """
  for word in argv[1:]:
    path = re.match(r"--?config=([^:]*)", word)
    if path and not os.path.isfile(path[1]):
      raise UsageError(f"--config={path[1]}: there is no such file")
    if path and not path[1].endswith(".py"):
      raise UsageError(f"--config={path[1]} is not a Python file (.py)")
  try:
    return given(argv)[1:]
  except flags.Error as error:
    # Of an exception inside the config file, only its own message.
    message = re.sub(r"(?s)Traceback.*\n\w+: ", "", str(error))
    raise UsageError(message) from None
  except SyntaxError as error:
    raise UsageError(
      f"{error.filename}, line {error.lineno}: {error.msg}"
    ) from None
  except (AttributeError, KeyError) as error:
    field = re.search(r"\w+", str(error))[0]
    meant = re.search(r'Did you mean "\w+"', str(error))
    by_field = re.compile(rf"--?config\..*\b{re.escape(field)}\b")
    raise UsageError(
      f"{' '.join(filter(by_field.match, argv))}: the config has no field "
      f"{field!r}; {f'{meant[0]}?' if meant else 'configs/base.py lists them'}"
    ) from None
