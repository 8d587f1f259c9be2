"""Parses the flags of the command line, and reports errors in one line."""

import itertools
import os
import re
from collections.abc import Callable

from absl import flags
from ml_collections import config_dict, config_flags

from linformer_jax.run import console, flag_list, paths
from linformer_jax.run.config_file import UsageError, load_config

make_flags = flag_list.make_flags

_MOST_SEEDS = 1_000
MODES = ("train", "evaluate", "plan", "export", "fill", "predict", "generate")
MODES += ("convert",)
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
        raise UsageError(
          "--config needs a value: a file, such as configs/smoke.py"
        )
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


def _value(words, name) -> str:
  """Returns the last value of a flag that is not parsed yet, or ''."""
  value = ""
  for word, following in itertools.zip_longest(words, words[1:]):
    match = re.fullmatch(rf"(?s)--?{name}(?:=(.*))?", word)
    if match:
      value = following if match[1] is None else match[1]
    if word == "--":
      break
  return value or ""


def seeds(text: str) -> list[int]:
  """Returns the seeds of --seeds: '3' is 0, 1, 2, and '4,0' is 4, 0.

  Raises:
    UsageError: for another text.
  """
  words = [word.strip() for word in text.removesuffix(",").split(",")]
  if all(re.fullmatch("[0-9]{1,9}", word) for word in words):
    found = [int(word) for word in words]
    if "," not in text and 1 <= found[0] <= _MOST_SEEDS:
      return list(range(found[0]))
    if "," in text and len({*found}) == len(found):
      return found
  raise UsageError(
    f"--seeds={text} is neither a number of seeds, from 1 to {_MOST_SEEDS:,}, "
    "nor a list of different ones, such as 0,1,7"
  )


def seed_folder(seed: int) -> str:
  """Returns the name of the folder of a seed's run."""
  return f"seed{seed}"


def _run_folder(words) -> str:
  """Returns the folder of the run, or of the first of several."""
  folder, several = _value(words, "workdir"), _value(words, "seeds")
  if folder and several:
    return f"{folder.rstrip('/')}/{seed_folder(seeds(several)[0])}"
  return folder


def parse(
  given: flags.FlagValues, argv: list[str], take_model: Callable | None = None
) -> list[str]:
  """Parses the flags; returns the positional arguments.

  The last occurrence of a repeated flag counts, as usual.

  Args:
    given: as returned by `make_flags`.
    argv: the command line.
    take_model: (config, --init_from, folder of the run) -> None, which is
      called with a config that sets `train.init_model`, before its fields'
      flags are parsed.

  Raises:
    UsageError: in one line, for an error in a flag or the config.
  """
  try:
    words = given.read_flags_from_files(argv[1:], force_gnu=False)
    file, words = _take_config(words)
    words = [_renamed(word) for word in words]
    if file is not None:
      config = load_config(file)
      if take_model and config.train.init_model:
        take_model(config, _value(words, "init_from"), _run_folder(words))
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
  configured = mode in ("train", "plan")
  if mode not in MODES or (extra and mode != "fill"):
    words = " ".join((mode, *extra))
    problem = f"{words!r} is not one of {', '.join(MODES)}"
  elif mode == "convert":
    if not (given["from"].value and given.to):
      problem = "--from=DIR and --to=DIR are needed: a model, and a new folder"
  elif mode != "plan" and not given.workdir:
    problem = "--workdir=DIR is needed: the folder of the run"
  elif configured and given.config is None:
    problem = "--config=FILE.py is needed, e.g. configs/smoke.py"
  elif mode == "export" and not given.to:
    problem = "--to=DIR is needed: a new folder for the model"
  elif mode == "predict" and not (given.input and given.to):
    problem = "--input=TEXTS.jsonl and --to=LABELS.jsonl are needed"
  elif mode == "generate" and given.prompt is None and not given.input:
    problem = "--prompt='A text' or --input=PROMPTS.jsonl is needed"
  elif mode == "generate" and bool(given.input) != bool(given.to):
    problem = "--input=PROMPTS.jsonl and --to=FILE.jsonl go together"
  elif mode == "generate" and given.prompt is not None and given.input:
    problem = "--prompt is one text and --input is a file of them: use one"
  elif mode == "fill" and not extra:
    problem = "fill needs a text in quotes, such as 'the United <mask>'"
  elif mode == "fill" and given.top < 1:
    problem = f"--top={given.top} is not a positive number of tokens"
  elif mode == "plan" and given.topology is None:
    problem = "--topology=SLICE is needed, e.g. --topology=v5e:4x4"
  elif mode != "plan" and given.topology:
    problem = "--topology is only for plan; train uses the devices it finds"
  elif mode != "train" and given.seeds:
    problem = "--seeds is only for train"
  elif given.seeds and (given.new or given.extend or given.distributed):
    problem = (
      "--seeds cannot be combined with --new, --extend or --distributed: start "
      "the run of each seed with --config.seed=SEED"
    )
  elif mode != "predict" and not given.truncate:
    problem = "--truncate is only for predict; training has data.truncate"
  elif configured and given.step:
    problem = "--step chooses a checkpoint and is not for train and plan"
  elif given.new and given.distributed:
    problem = "--new cannot be combined with --distributed: name a --workdir"
  elif mode != "train" and (given.extend or given.init_from or given.new):
    problem = "--extend, --init_from and --new are only for train"
  elif given.extend and given.new:
    problem = "--extend continues a run and --new starts one: use one of them"
  elif mode == "train" and given.config.run.profile_steps:
    if paths.in_bucket(given.workdir):
      problem = "run.profile_steps needs a --workdir on a disk"
  if problem:
    raise UsageError(problem)
  if given.seeds:
    seeds(given.seeds)
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
