"""Implements the commands: train, evaluate, plan, export..."""

import contextlib

import jax
from ml_collections import config_dict

from linformer_jax import exported, loading, memory, models, origin
from linformer_jax import generate as generate_lib
from linformer_jax import predict as predict_lib
from linformer_jax import step as step_lib
from linformer_jax import train as train_lib
from linformer_jax.run import (
  command_line,
  files,
  metrics,
  report,
  result,
  workdir,
)
from linformer_jax.tools import plan as plan_lib


def take_model(config, init_from: str, folder: str):
  """Takes `model` and `attention`, but for dropout, from another model.

  Args:
    config: the config to change.
    init_from: the model, or ''.
    folder: --workdir; if it holds a run already, its groups are taken.

  Raises:
    UsageError: if there is no such model.
  """
  try:
    stored = folder and workdir.stored_config(files.folder(folder))
    if stored:
      groups = stored["model"], stored["attention"]
    elif init_from:
      groups = origin.find(init_from).groups()
    else:
      return
  except ValueError as error:
    raise command_line.UsageError(str(error)) from error
  model, attention = groups
  rate = config.model.dropout_rate

  def with_rate(fields):
    return {
      name: with_rate(value) if isinstance(value, dict) else value
      for name, value in fields.items()
    } | ({"dropout_rate": rate} if "dropout_rate" in fields else {})

  with config.unlocked():
    config.model.update(with_rate(model))
    config.attention = config_dict.ConfigDict(with_rate(attention))
  if config.data.sequence_length > config.model.max_length:
    config.data.sequence_length = config.model.max_length


def _too_large(config, error):
  return command_line.UsageError(
    f"{memory.sizes(config)} do not fit in memory: {memory.ADVICE} "
    f"({str(error)[:200]})"
  )


@contextlib.contextmanager
def _removed_if_too_large(directory, config, is_new):
  """Removes a new run if its first update does not fit in memory."""
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    trained = [*directory.glob("checkpoints/[1-9]*")]
    trained += metrics.read_json_lines(directory)
    alone = jax.process_count() == 1
    if not (memory.exhausted(error) and alone and is_new) or trained:
      raise
    workdir.abandon(directory)
    raise _too_large(config, error) from error


def train(config, directory, new: bool, extend: bool):
  """Trains a run, or reports that it is complete.

  Args:
    config: the run's config; fields of `train` and `data` may be filled in.
    directory: the run's folder.
    new: start another run if the folder holds one.
    extend: train a complete run further.

  Raises:
    UsageError: before anything is written. Errors of training pass through.
  """
  held = None
  try:
    if new:
      directory = workdir.numbered(directory)
    stored, known, free = workdir.stored_config(directory), None, ()
    task = step_lib.task_of(config)
    if extend:
      done = stored and result.finished(
        directory, task, stored["train"]["num_steps"]
      )
      free = workdir.extend(directory, stored, config, bool(done))
    elif stored is not None:
      config.train.restarts = tuple(stored["train"].get("restarts", ()))
    if stored is not None:
      # Needed only at the start; resuming works without the flag.
      given = config.train.init_from or stored["train"].get("init_from", "")
      config.train.init_from = given
      workdir.check_same(directory, stored, config, free)
      known = workdir.stored_corpus(directory)
      summary = result.finished(directory, task, config.train.num_steps)
      if summary:
        report.say(summary)
        report.say("\nThis run was complete; --new starts another one.")
        return
    _check_place(directory)
    experiment = _build(config, known, fresh=stored is None)
    if jax.process_index() == 0:
      held = workdir.claim(directory, config, experiment.corpus, free)
  except (ValueError, OSError) as error:
    raise command_line.UsageError(str(error)) from error
  except MemoryError as error:  # From NumPy, for initial arrays.
    raise _too_large(config, error) from error
  with (
    held or contextlib.nullcontext(),
    _removed_if_too_large(directory, config, stored is None),
  ):
    if free:
      report.say(workdir.extension(config))
    report.say(train_lib.describe(experiment, directory))
    found = train_lib.train_and_evaluate(experiment, directory)
    report.say(result.show(experiment.steps.task, found, directory))


def _check_place(directory):
  """Raises a ValueError if the run's folder cannot be written."""
  try:
    files.check_place(directory)
  except OSError as error:
    raise ValueError(
      f"--workdir={directory} cannot be written: {error.strerror}"
    ) from None


def _build(config, known, fresh):
  """Builds the experiment, and checks the weights that it starts from."""
  given = config.train.init_from
  source = origin.find(given) if given and fresh else None
  if given and not config.data.tokenizer_path:
    config.data.tokenizer_path = origin.tokenizer_path(given)
  experiment = train_lib.build(config, known)
  if source:
    origin.check(source, config, experiment.corpus)
  return experiment


def evaluate(directory, step: str = ""):
  """Prints the exact metrics of a checkpoint, by default the newest one."""
  try:
    chosen = loading.step_of(directory, step or loading.LAST)
    config = loading.stored_config(directory)
    experiment = train_lib.build(config, workdir.stored_corpus(directory))
  except (ValueError, OSError) as error:
    raise command_line.UsageError(f"--workdir={directory}: {error}") from error
  done, values = train_lib.evaluate_newest(experiment, directory, chosen)
  progress = report.Progress(config, experiment.steps.task, experiment.floor)
  progress.evaluation(done, values)


def _load(directory, step: str):
  """Loads a run, at a step or '' for its best or newest, or an export."""
  try:
    return loading.load(str(directory), step or None)
  except (ValueError, OSError) as error:
    raise command_line.UsageError(f"--workdir={directory}: {error}") from error


def export(directory, to: str, dtype: str, step: str = ""):
  """Writes the best or newest weights of a run as safetensors."""
  folder = files.folder(to, "--to")
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise command_line.UsageError(f"--to={to} exists: name a new folder")
  run = _load(directory, step)
  if run.config is None:
    raise command_line.UsageError(
      f"--workdir={directory} is no run, but a model in safetensors already"
    )
  try:
    kind = exported.write(run, folder, dtype)
  except (ValueError, OSError) as error:
    raise command_line.UsageError(f"--to={to}: {error}") from error
  size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
  opens = "linformer_jax.load"
  if kind == "roberta":
    opens += " and transformers' AutoModel.from_pretrained open"
  report.say(
    f"{type(run.model).__name__} after {run.step:,} updates, "
    f"{models.num_parameters(run.variables['params']):,} parameters in {dtype},"
    f" {size:.1f} MB, in {to}, which {opens}{'' if ' ' in opens else ' opens'}"
  )


def fill(directory, texts: list[str], top: int, step: str = ""):
  """Prints the likeliest tokens at each mask of each text."""
  run = _load(directory, step)
  for text in texts:
    try:
      answers = run.fill(text, top)
    except ValueError as error:
      raise command_line.UsageError(str(error)) from error
    for place in answers:
      words = (f"{word.strip() or repr(word)} {p:.1%}" for word, p in place)
      report.say("  ".join(words))


def predict(directory, source: str, to: str, step: str, truncate: bool):
  """Labels a file of texts; goes on where an earlier call was stopped."""
  run = _load(directory, step)
  try:
    fields = predict_lib.fields_of(run, result.read(directory))
    there, written, truncated = predict_lib.predict(
      run, source, to, fields, truncate
    )
  except (ValueError, OSError) as error:
    raise command_line.UsageError(str(error)) from error
  known = f", {there:,} were there" if there else ""
  report.say(f"{written:,} rows labeled in {to}{known}")
  if truncated:
    report.say(
      f"{truncated:,} of them were longer than the model takes, and truncated"
    )


def generate(directory, given):
  """Continues a prompt on the terminal, or those of a file."""
  run = _load(directory, given.step)
  how = dict(number=given.number, seed=given.seed, stop=given.stop)
  try:
    sampling = generate_lib.Sampling(
      given.temperature, given.top_k, given.top_p
    )
    writer = generate_lib.TextGenerator(run, sampling)
    if given.input:
      there, written = writer.complete_file(given.input, given.to, **how)
      known = f", {there:,} were there" if there else ""
      report.say(f"{written:,} prompts continued in {given.to}{known}")
      return
    writer.check(given.prompt, given.number)
    report.say(given.prompt, end="")
    for (piece,) in writer.stream([given.prompt], **how):
      report.say(piece, end="")
    report.say("")
  except (ValueError, OSError) as error:
    raise command_line.UsageError(str(error)) from error


def plan(config, topology):
  """Prints what an update of a config would need on other hardware."""
  # Compilation needs no device, so leave this host's accelerators alone.
  jax.config.update("jax_platforms", "cpu")
  try:
    plan_lib.run(config, topology)
  except ValueError as error:
    raise command_line.UsageError(str(error)) from error
  except MemoryError as error:
    raise _too_large(config, error) from error
