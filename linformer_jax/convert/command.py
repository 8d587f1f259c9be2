"""The command: reads a model, converts it and writes it as an export."""

import contextlib
import dataclasses
import json

from linformer_jax import convert as convert_lib
from linformer_jax import exported, loading, models
from linformer_jax.run import command_line, files, report

_STOPPED = "conversion.json"  # the flags of a conversion that is not complete


def options(given) -> convert_lib.Options:
  """Returns the options that flags give."""
  return convert_lib.Options(
    k=given.k or 0,
    start=given.start,
    layers=given.layers,
    window=given.window,
    length=given.length,
    positions=given.positions,
    texts=given.texts or "",
    updates=given.updates,
  )


def _is_new(folder, to: str, flags: dict) -> bool:
  """Returns whether a folder holds nothing, or this conversion, stopped.

  Raises:
    ValueError: for a folder of anything else.
  """
  if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
    return True
  if not (folder / _STOPPED).exists():
    raise ValueError(f"--to={to} exists: name a new folder")
  if json.loads((folder / _STOPPED).read_text()) != flags:
    raise ValueError(
      f"--to={to} holds a conversion with other flags that was stopped: repeat "
      f"those in its {_STOPPED}, or name a new folder"
    )
  return False


@contextlib.contextmanager
def _resumable(folder, to: str, flags: dict):
  """Names a conversion in its folder until it is complete."""
  new = _is_new(folder, to, flags)
  files.check_place(folder)
  if not flags["updates"]:
    yield
    return
  folder.mkdir(parents=True, exist_ok=True)
  (folder / _STOPPED).write_text(json.dumps(flags, indent=1) + "\n")
  try:
    yield
  except (ValueError, OSError):
    if new:
      files.remove(folder)
    raise
  for path in (folder / "checkpoints", *folder.glob("damaged-*")):
    files.remove(path)
  (folder / _STOPPED).unlink()


def run(given):
  """Converts --from into --to; goes on where an earlier call was stopped.

  Raises:
    UsageError: in one line, with nothing written.
    preemption.Interrupted: at a signal, once the distillation is saved.
  """
  source, to = given["from"].value, given.to
  try:
    chosen = options(given)
    folder = files.folder(to, "--to")
    flags = {"from": source} | dataclasses.asdict(chosen)
    with _resumable(folder, to, flags):
      try:
        found = loading.load(source)
      except ValueError as error:
        raise ValueError(f"--from={source}: {error}") from error
      converted = convert_lib.convert(found, chosen, folder)
      exported.write(converted, folder)
  except (ValueError, OSError) as error:
    raise command_line.UsageError(str(error)) from error
  config = converted.model.config
  kinds = dict.fromkeys(kind.describe() for kind in config.layers)
  report.say(
    f"{type(found.model).__name__} of {source}, now with "
    f"{' and '.join(kinds)} for up to {config.max_length:,} tokens, "
    f"{models.num_parameters(converted.variables['params']):,} parameters, "
    f"in {to}"
  )
