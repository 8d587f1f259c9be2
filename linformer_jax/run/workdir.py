"""The folder of a run: one config, one corpus, one process at a time."""

import contextlib
import fcntl
import json
import os

from flax import traverse_util

from linformer_jax.data import pipeline
from linformer_jax.data.text import ingest
from linformer_jax.run import files

CONFIG = "config.json"
CORPUS = "corpus.json"
TOKENIZER = ingest.TOKENIZER
# Config fields in which a run may differ from what it resumes: where things
# are, as the corpus itself is compared; and what only `--extend` changes.
_FREE = (
  "run.",
  "mesh.",
  "data.cache_dir",
  "data.tfds_data_dir",
  "data.files",
  "data.validation_files",
  "data.tokenizer_path",
)
# What an extension may change: the schedule from there on.
EXTENDED = (
  "train.num_steps",
  "train.restarts",
  "optimizer.learning_rate",
  "optimizer.warmup_steps",
)
# What a redirected or copied output is called.
_LOGS = (".log", ".txt", ".out", ".err")


def stored_config(workdir):
  """The config of the run in a folder, or None when it holds none.

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
    return stored
  # What a kill between making the folder and writing the config leaves.
  unfinished = {".lock", CORPUS, TOKENIZER}
  unfinished |= {f"{name}.tmp" for name in (CONFIG, CORPUS, TOKENIZER)}
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


def abandon(workdir):
  """Deletes a run that could not begin, and nothing but it."""
  for path in workdir.iterdir():
    if path.is_dir():
      files.remove(path)
    elif not _is_log(path):
      path.unlink()
  if not any(workdir.iterdir()):
    files.remove(workdir)


def _is_log(path) -> bool:
  """Whether a file is a log: by its name, or as this process writes to it."""
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
  """What the run in a folder was trained on, or None where that is not said.

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
      "to go on with the text as it is now, unchecked"
    ) from None


def check_same(workdir, stored, config, free=()):
  """Raises a ValueError that names how two configs differ, if they do.

  Args:
    workdir: folder of the run.
    stored: its config, of `stored_config`.
    config: what it is to be resumed with.
    free: fields, or starts of their names, that may differ beside `_FREE`.
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
  """Sets in the config where the schedule of an extended run starts again.

  Args:
    workdir: folder of the run.
    stored: its config, of `stored_config`, or None.
    config: what it is to go on with; `train.restarts` is set in place.
    complete: whether all of its updates are done.

  Returns:
    The fields that may differ from the stored config.

  Raises:
    ValueError: for a folder without a run, a run that is not complete, or no
      more updates than it has had.
  """
  if stored is None:
    raise ValueError(f"--extend: --workdir={workdir} holds no run")
  before, after = stored["train"]["num_steps"], config.train.num_steps
  restarts = tuple(stored["train"].get("restarts", ()))
  if restarts and before == after:  # the same command, after a kill
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
  """Returns a line on what the schedule of an extended run does."""
  train, rates = config.train, config.optimizer
  return (
    f"extending to {train.num_steps:,} updates: from update "
    f"{train.restarts[-1]:,} on the learning rate warms up again to "
    f"{rates.learning_rate:g}, over {rates.warmup_steps:,} updates, and then "
    "decays to 0; the optimizer's averages are kept"
  )


def numbered(workdir):
  """The folder itself when it holds no run, or DIR-2, DIR-3, ..."""
  candidate, number = workdir, 1
  while stored_config(candidate) is not None:
    number += 1
    candidate = workdir.with_name(f"{workdir.name}-{number}")
  return candidate


def lock(workdir):
  """An open file that holds the folder for this process until it ends.

  A bucket has no locks: there nothing is held.
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
  """Makes the folder and writes what the run is, unless it is there already.

  Args:
    workdir: the folder.
    config: of the run.
    corpus: of `data.pipeline.prepare`: its record and its tokenizer are kept
      beside the config.
    free: as for `check_same`.

  Returns:
    An open file that holds the folder for this process until it ends.

  Raises:
    ValueError: when another process holds it, it holds another config, or it
      cannot be written.
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
      text = json.dumps(config.to_dict(), indent=1) + "\n"
      _write(workdir / CONFIG, text)
  except OSError as error:
    raise ValueError(
      f"--workdir={workdir} cannot be written: {error.strerror or error}"
    ) from error
  return held


def _write(path, text: str):
  """Writes a file of the folder, unless it says the same."""
  if not path.exists() or path.read_bytes() != text.encode():
    files.write_atomically(path, text)
