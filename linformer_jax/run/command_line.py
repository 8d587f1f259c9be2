"""Parses the flags of the command line, and reports errors in one line."""

import itertools
import os
import pathlib
import re
import sys
import traceback
import types

from absl import flags
from ml_collections import config_dict, config_flags

from linformer_jax.run import console, paths

MODES = ("train", "evaluate", "plan")
_CHECKOUT = pathlib.Path(__file__).parents[2]
# Lists of globs: a repeated flag would silently replace the first.
_LISTS = ("config.data.files", "config.data.validation_files")
# Fields that have moved; a flag of the old name is understood for now.
_MOVED = {
  "data.mask_rate": "task.mask_rate",
  "model.attention": "attention.name",
  "model.attention_dropout_rate": "attention.dropout_rate",
  "model.attention_implementation": "attention.implementation",
} | {
  f"model.{name}": f"attention.{name}"
  for name in ("projected_length", "projected_lengths", "sharing", "projection")
  + ("projection_init", "projection_std", "local_window")
}


class UsageError(Exception):
  """The user's request cannot be fulfilled; the message says why."""


def make_flags() -> flags.FlagValues:
  """Returns the unparsed flags, separate from absl's global ones."""
  values = flags.FlagValues()
  flags.DEFINE_string(
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
    "verify",
    False,
    "Hash all of the token cache before it is used; without the flag, only "
    "files that were touched since they were written.",
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


def _take_config(words):
  """Returns the last value of --config, or None, and all other words."""
  value, rest = None, []
  words = iter(words)
  for word in words:
    if word == "--":
      rest += [word, *words]
    elif match := re.fullmatch(r"(?s)--?config=(.*)", word):
      value = match[1]
    elif word in ("--config", "-config"):
      value = next(words, None)
      if value is None or value.startswith("--"):
        raise UsageError("--config needs a value: a file, as configs/smoke.py")
    else:
      rest.append(word)
  return value, rest


def _renamed(word):
  """Returns a flag under the name that its field has today."""
  match = re.match(r"(--?(?:no)?config\.)([^=]*)(.*)", word, re.S)
  if not match or match[2] not in _MOVED:
    return word
  start, name, value = match.groups()
  console.say(f"--config.{name} is --config.{_MOVED[name]} now")
  return start + _MOVED[name] + value


def _check_fields(words, config):
  """Raises a UsageError for an unknown field or a repeated list of globs."""
  from linformer_jax.run import config_fields

  names, seen = config_fields.flatten(config), set()
  for word in itertools.takewhile(lambda word: word != "--", words):
    match = re.match(r"--?(?:no)?config\.([^=]*)", word)
    if not match:
      continue
    name = match[1]
    if f"config.{name}" in _LISTS and name in seen:
      raise UsageError(
        f"--config.{name} is given twice: write one, with commas between globs"
      )
    seen.add(name)
    if name in names:
      continue
    group, parts = config, name.split(".")
    while parts and isinstance(group, config_dict.ConfigDict):
      if parts[0] not in group:
        break
      group = group[parts.pop(0)]
    if not parts:
      raise UsageError(
        f"{word}: {name!r} is a group; set a field of it, such as "
        f"--config.{name}.{min(group)}=..."
      )
    like = config_fields.closest(name, names)
    raise UsageError(
      f"{word}: the config has no field {parts[0]!r}; "
      + (f"did you mean --config.{like}?" if like else config_fields.LISTED)
    )


def _check_values(words, given):
  """Raises a UsageError for a flag whose value would be the next flag."""
  for word, following in itertools.pairwise(words):
    name = word.lstrip("-")
    if word == "--":
      return
    if word.startswith("-") and name in given and not given[name].boolean:
      if following.startswith("--"):
        raise UsageError(f"{word} needs a value: {word}=...")


def parse(given: flags.FlagValues, argv: list[str]) -> list[str]:
  """Parses the flags; returns the positional arguments.

  The last occurrence of a repeated flag counts, as usual.

  Raises:
    UsageError: in one line, for an error in a flag or the config.
  """
  try:
    words = given.read_flags_from_files(argv[1:], force_gnu=False)
    file, words = _take_config(words)
    words = [_renamed(word) for word in words]
    if file is not None:
      config = load_config(file)
      _check_fields(words, config)
      delattr(given, "config")
      config_flags.DEFINE_config_dict(
        "config", config, flag_values=given, sys_argv=words
      )
    elif fields := [w for w in words if re.match(r"--?(no)?config\.", w)]:
      raise UsageError(f"{fields[0]} needs a --config=FILE.py beside it")
    _check_values(words, given)
    return given([argv[0], *words])[1:]
  except flags.Error as error:
    odd = r"\('Non-boolean argument to boolean flag', (.*)\)"
    raise UsageError(
      re.sub(odd, r"\1 is not true or false", str(error))
    ) from None


def check(given, mode=MODES[0], *extra) -> str:
  """Checks that the flags are compatible and numbers are in their ranges.

  Args:
    given: parsed flags.
    mode, *extra: the positional arguments.

  Returns:
    The mode.

  Raises:
    UsageError: naming the problem.
  """
  from linformer_jax.run import config_fields

  problem = None
  if mode not in MODES or extra:
    words = " ".join((mode, *extra))
    problem = f"{words!r} is not one of {', '.join(MODES)}"
  elif mode != "plan" and not given.workdir:
    problem = "--workdir=DIR is needed: the folder of the run"
  elif mode != "evaluate" and given.config is None:
    problem = "--config=FILE.py is needed, e.g. configs/smoke.py"
  elif mode == "plan" and given.topology is None:
    problem = "--topology=SLICE is needed, e.g. --topology=v5e:4x4"
  elif mode != "plan" and given.topology:
    problem = "--topology is only for plan; train uses what is there"
  elif given.new and given.distributed:
    problem = "--new does not go with --distributed: name a --workdir"
  elif mode != "train" and (given.extend or given.init_from or given.new):
    problem = "--extend, --init_from and --new are only for train"
  elif given.extend and given.new:
    problem = "--extend goes on with a run, --new starts one: choose"
  elif mode == "train" and given.config.run.profile_steps:
    if paths.in_bucket(given.workdir):
      problem = "run.profile_steps needs a --workdir on a disk"
  if problem:
    raise UsageError(problem)
  if given.config is not None:
    try:
      config_fields.check_ranges(given.config)
    except ValueError as error:
      raise UsageError(str(error)) from None
  return mode


def folder(given):
  """Returns the run's folder, which need not exist.

  Raises:
    UsageError: for an invalid path.
  """
  from linformer_jax.run import files

  try:
    return files.folder(given.workdir)
  except ValueError as error:
    raise UsageError(str(error)) from None


def origin(given) -> str:
  """Returns the run that --init_from names: an absolute path or a gs:// path.

  Raises:
    UsageError: for an invalid path.
  """
  try:
    path = paths.expand(given.init_from, "--init_from", bucket=True)
  except ValueError as error:
    raise UsageError(str(error)) from None
  return path if paths.in_bucket(path) else os.path.abspath(path)
