"""The command: reads a model, converts it and writes it as an export."""

from linformer_jax import convert as convert_lib
from linformer_jax import exported, loading, models
from linformer_jax.run import command_line, files, report


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


def run(given):
  """Converts --from into --to.

  Raises:
    UsageError: in one line, with nothing written.
  """
  source, to = given["from"].value, given.to
  try:
    chosen = options(given)
    folder = files.folder(to, "--to")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
      raise ValueError(f"--to={to} exists: name a new folder")
    files.check_place(folder)
    try:
      found = loading.load(source)
    except ValueError as error:
      raise ValueError(f"--from={source}: {error}") from error
    converted = convert_lib.convert(found, chosen)
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
