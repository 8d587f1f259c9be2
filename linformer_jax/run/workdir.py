"""The folder of a run: one config, one corpus, one process at a time."""

import contextlib
import dataclasses
import fcntl
import json
import os

from flax import traverse_util

from linformer_jax import tasks
from linformer_jax.data import pipeline
from linformer_jax.data.text import ingest
from linformer_jax.run import files

CONFIG = "config.json"
CORPUS = "corpus.json"
TOKENIZER = ingest.TOKENIZER
LABELS = "labels.json"
# Config fields that may change when a run resumes. The locations of the data
# are among them, as the corpus itself is compared.
_FREE = (
  "run.",
  "mesh.",
  "data.cache_dir",
  "data.tfds_data_dir",
  "data.files",
  "data.validation_files",
  "data.tokenizer_path",
)
# Config fields that `--extend` may change: the schedule.
EXTENDED = (
  "train.num_steps",
  "train.restarts",
  "optimizer.learning_rate",
  "optimizer.warmup_steps",
)
# Fields that came later and are of no dataclass, with the value of runs from
# before them.
_LATER = (
  ("mesh", "float32_gradients", False),
  ("train", "init_model", False),
  ("run", "keep_best", False),
)
# Suffixes of redirected or copied output.
_LOGS = (".log", ".txt", ".out", ".err")


def stored_config(workdir):
  """Returns the config of the run in a folder, or None if there is no run.

  Raises:
    ValueError: for a file, or a folder with other content.
  """
  if not workdir.exists():
    return None
  if not workdir.is_dir():
    raise ValueError(f"--workdir={workdir} is a file, not a folder")
  path = workdir / CONFIG
  if path.exists():
    try:
      stored = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
      raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(stored, dict) or not isinstance(
      stored.get("train"), dict
    ):
      raise ValueError(f"{path} is not the config of a run")
    return with_later_fields(stored)
  # Left by a kill between making the folder and writing the config.
  unfinished = {".lock", CORPUS, TOKENIZER, LABELS}
  unfinished |= {f"{name}.tmp" for name in (*unfinished, CONFIG)}
  others = sorted(
    path.name
    for path in workdir.iterdir()
    if path.name not in unfinished and not _is_log(path)
  )
  if others:
    raise ValueError(
      f"--workdir={workdir} holds no run, but other files ({others[0]}): "
      "choose a new or an empty folder"
    )
  return None


def with_later_fields(stored):
  """Fills in fields that the version which wrote a config did not have.

  Those of `data` and `task` have their defaults.
  """
  later = list(_LATER)
  task = stored.get("task")
  made = tasks.TASKS.get(task.get("name")) if isinstance(task, dict) else None
  for group, kind in (("data", pipeline.DataConfig), ("task", made)):
    later += [
      (group, field.name, field.default)
      for field in (dataclasses.fields(kind) if kind else ())
      if field.default is not dataclasses.MISSING
    ]
  for group, name, value in later:
    if isinstance(stored.get(group), dict):
      stored[group].setdefault(name, value)
  return stored


def abandon(workdir):
  """Deletes a run that could not start, but no log."""
  for path in workdir.iterdir():
    if path.is_dir():
      files.remove(path)
    elif not _is_log(path):
      path.unlink()
  if not any(workdir.iterdir()):
    files.remove(workdir)


def _is_log(path) -> bool:
  """Returns whether a file is a log: by name, or as this process's output."""
  if not path.is_file():
    return False
  if path.suffix in _LOGS:
    return True
  if files.in_bucket(path):
    return False
  here = os.stat(path)
  for stream in (1, 2):
    with contextlib.suppress(OSError):  # closed
      if os.path.samestat(here, os.fstat(stream)):
        return True
  return False


def stored_corpus(workdir) -> pipeline.Record | None:
  """Returns the record of what a run was trained on, or None.

  Raises:
    ValueError: for a damaged file.
  """
  path = workdir / CORPUS
  if not path.exists():
    return None
  try:
    return pipeline.read_record(path.read_text())
  except ValueError as error:
    raise ValueError(
      f"{path} cannot be read: {error}. Restore it from a copy, or delete it "
      "to continue with the text as it is now, unchecked"
    ) from None


def check_same(workdir, stored, config, free=()):
  """Raises a ValueError that names the differences of two configs, if any.

  Args:
    workdir: the run's folder.
    stored: the run's config, as returned by `stored_config`.
    config: the config to resume with.
    free: prefixes of further fields that may differ, besides `_FREE`.
  """
  here = traverse_util.flatten_dict(
    json.loads(json.dumps(config.to_dict())), sep="."
  )
  there = traverse_util.flatten_dict(stored, sep=".")
  differences = [
    f"{name} {there.get(name)!r} there, {here.get(name)!r} here"
    for name in sorted(here.keys() | there.keys())
    if here.get(name) != there.get(name)
    and not name.startswith((*_FREE, *free))
  ]
  if differences:
    advice = "choose another --workdir, or add --new"
    if len(differences) == 1 and "train.num_steps" in differences[0]:
      advice += "; --extend trains a complete run further"
    raise ValueError(
      f"--workdir={workdir} holds a run of another config "
      f"({'; '.join(differences[:4])}): {advice}"
    )


def extend(workdir, stored, config, complete: bool) -> tuple[str, ...]:
  """Sets `train.restarts`, where the schedule of an extended run restarts.

  Args:
    workdir: the run's folder.
    stored: the run's config, as returned by `stored_config`, or None.
    config: the config to continue with, changed in place.
    complete: whether all updates of the run are done.

  Returns:
    The fields that may differ from the stored config.

  Raises:
    ValueError: for a folder without a run, for a run that is not complete, or
      if the new number of updates is not larger.
  """
  if stored is None:
    raise ValueError(f"--extend: --workdir={workdir} holds no run")
  before, after = stored["train"]["num_steps"], config.train.num_steps
  restarts = tuple(stored["train"].get("restarts", ()))
  if restarts and before == after:  # The same command, after a kill.
    config.train.restarts = restarts
    return ()
  if after <= before:
    raise ValueError(
      f"--extend: --workdir={workdir} is a run of {before:,} updates; set "
      f"--config.train.num_steps above that, not to {after:,}"
    )
  if not complete:
    raise ValueError(
      f"--extend: --workdir={workdir} has not done its {before:,} updates yet; "
      "finish it first, with the same command but for --extend and num_steps"
    )
  config.train.restarts = (*restarts, before)
  return EXTENDED


def extension(config) -> str:
  """Returns a line that describes the schedule of an extended run."""
  train, rates = config.train, config.optimizer
  return (
    f"extending to {train.num_steps:,} updates: from update "
    f"{train.restarts[-1]:,} on the learning rate warms up again to "
    f"{rates.learning_rate:g}, over {rates.warmup_steps:,} updates, and then "
    "decays to 0; the optimizer's averages are kept"
  )


def numbered(workdir):
  """Returns the first of DIR, DIR-2, DIR-3, ... that holds no run."""
  candidate, number = workdir, 1
  while stored_config(candidate) is not None:
    number += 1
    candidate = workdir.with_name(f"{workdir.name}-{number}")
  return candidate


def lock(workdir):
  """Locks the folder; returns an open file that holds the lock.

  A bucket has no locks, so nothing is locked there.
  """
  if files.in_bucket(workdir):
    return contextlib.nullcontext()
  file = (workdir / ".lock").open("w")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise ValueError(
      f"another process is training in --workdir={workdir}: wait for it, stop "
      "it, or add --new"
    ) from None
  return file


def claim(workdir, config, corpus=None, free=()):
  """Makes and locks the folder, and writes the config and the corpus record.

  Args:
    workdir: the run's folder.
    config: the run's config.
    corpus: as returned by `data.pipeline.prepare`; its record, its tokenizer
      and the names of its labels are written next to the config.
    free: as for `check_same`.

  Returns:
    An open file that holds the lock.

  Raises:
    ValueError: if another process holds the lock, the folder holds another
      config, or it cannot be written.
  """
  try:
    with files.errors_of_tensorflow():
      workdir.mkdir(parents=True, exist_ok=True)
      held = lock(workdir)
      stored = stored_config(workdir)
      if stored is not None:
        check_same(workdir, stored, config, free)
      if corpus is not None:
        if corpus.record is not None:
          _write(workdir / CORPUS, corpus.record.to_json())
        if corpus.tokenizer_json is not None:
          _write(workdir / TOKENIZER, corpus.tokenizer_json)
        # A data set of the user's may have none.
        if labels := getattr(corpus, "labels", ()):
          _write(workdir / LABELS, json.dumps(labels) + "\n")
      text = json.dumps(config.to_dict(), indent=1) + "\n"
      _write(workdir / CONFIG, text)
  except OSError as error:
    raise ValueError(
      f"--workdir={workdir} cannot be written: {error.strerror or error}"
    ) from error
  return held


def _write(path, text: str):
  """Writes a file unless it already has this content."""
  if not path.exists() or path.read_bytes() != text.encode():
    files.write_atomically(path, text)
