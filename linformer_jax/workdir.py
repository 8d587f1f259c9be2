"""The folder of a run: one config, one process at a time."""

import contextlib
import fcntl
import json

from linformer_jax import files, metrics

CONFIG = "config.json"
# Config fields in which a run may differ from what it resumes.
_FREE = ("run.", "mesh.", "data.cache_dir", "data.tfds_data_dir")


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
      return json.loads(path.read_text())
    except ValueError as error:
      raise ValueError(f"{path} cannot be read: {error}") from None
  # What a kill between making the folder and writing the config leaves.
  unfinished = {".lock", CONFIG + ".tmp"}
  others = sorted({p.name for p in workdir.iterdir()} - unfinished)
  if others:
    raise ValueError(
      f"--workdir={workdir} holds no run, but other files ({others[0]}): "
      "choose a new or an empty folder"
    )
  return None


def check_same(workdir, stored, config):
  """Raises a ValueError that names how two configs differ, if they do."""
  here = metrics.flatten(json.loads(json.dumps(config.to_dict())))
  there = metrics.flatten(stored)
  differences = [
    f"{name} {there.get(name)!r} there, {here.get(name)!r} here"
    for name in sorted(here.keys() | there.keys())
    if here.get(name) != there.get(name) and not name.startswith(_FREE)
  ]
  if differences:
    raise ValueError(
      f"--workdir={workdir} holds a run of another config "
      f"({'; '.join(differences[:4])}): choose another --workdir, or add --new"
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


def claim(workdir, config):
  """Makes the folder and writes the config, unless the same is there already.

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
        check_same(workdir, stored, config)
      else:
        text = json.dumps(config.to_dict(), indent=1) + "\n"
        files.write_atomically(workdir / CONFIG, text)
  except OSError as error:
    raise ValueError(
      f"--workdir={workdir} cannot be written: {error.strerror or error}"
    ) from error
  return held
