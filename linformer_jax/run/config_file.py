"""Runs config files, and reports errors in them in one line."""

import os
import pathlib
import re
import sys
import traceback
import types

from ml_collections import config_dict

from linformer_jax.run import paths

_CHECKOUT = pathlib.Path(__file__).parents[2]


class UsageError(Exception):
  """The user's request cannot be fulfilled; the message says why."""


def _config_file(given: str) -> tuple[str, list[str]]:
  """Returns the file that --config names, and its argument if it has one.

  A path that does not exist in the current folder is looked up in the checkout.
  """
  argument = re.fullmatch(r"(?s)(.*?\.py):(.*)", given)
  if argument and not os.path.exists(given):
    given, argument = argument[1], [argument[2]]
  else:
    argument = []
  try:
    path = paths.expand(given, "--config")
  except ValueError as error:
    raise UsageError(str(error)) from None
  if not os.path.exists(path) and os.path.isfile(_CHECKOUT / path):
    path = str(_CHECKOUT / path)
  problem = None
  if not path:
    problem = "is empty: name a file, e.g. configs/smoke.py"
  elif os.path.isdir(path):
    problem = "is a folder, not a Python file (.py)"
  elif not os.path.isfile(path):
    problem = ": there is no such file"
  elif not path.endswith(".py"):
    problem = "is not a Python file (.py)"
  if problem:
    raise UsageError(f"--config={given} {problem}".replace(" : ", ": "))
  return path, argument


def _problem(path, error):
  """Describes an exception from a config file in one line, with its place."""
  if isinstance(error, SyntaxError):
    place, lines, text = error.filename or path, [error.lineno], error.msg
  else:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    place, text = path, str(error)
    if type(error) is not ValueError:
      text = f"{type(error).__name__}: {text}"
  if any(lines):
    place += f", line {lines[-1]}"
  return f"{place}: {text.split('. Other fields present')[0][:300]}"


def load_config(given: str) -> config_dict.ConfigDict:
  """Runs get_config() of a config file.

  Args:
    given: FILE.py or FILE.py:ARGUMENT.

  Raises:
    UsageError: for any error in the file, naming its line.
  """
  from linformer_jax.run import config_fields

  path, argument = _config_file(given)
  module = types.ModuleType("config_file")
  module.__file__ = path
  sys.modules[module.__name__] = module  # Dataclasses look it up there.
  try:
    exec(compile(pathlib.Path(path).read_bytes(), path, "exec"), vars(module))
    if not callable(getattr(module, "get_config", None)):
      raise UsageError(f"--config={path} has no function get_config()")
    config = module.get_config(*argument)
  except UsageError:
    raise
  except (Exception, SystemExit) as error:  # The file may raise anything.
    raise UsageError(f"--config={_problem(path, error)}") from error
  if not isinstance(config, config_dict.ConfigDict):
    raise UsageError(
      f"--config={path}: get_config() returns {type(config).__name__}, not an "
      "ml_collections ConfigDict"
    )
  try:
    # Flags can change the copy even if the original is frozen.
    config = config_dict.ConfigDict(config)
    config_fields.check_names_and_types(config)
  except (ValueError, config_dict.RequiredValueError) as error:
    raise UsageError(f"--config={path}: {error}") from None
  return config.lock()
