"""Implements the commands: train, evaluate, plan."""

import contextlib
import json

import jax

from linformer_jax import load, memory
from linformer_jax import step as step_lib
from linformer_jax import train as train_lib
from linformer_jax.run import command_line, files, metrics, report, workdir
from linformer_jax.tools import plan as plan_lib

_SUMMARY = """
Done: {step:,} updates, {tokens:,} tokens, {parameters:,} parameters, in {time}
of training.
{scores}
  speed                  {tokens_per_second:,.0f} tokens/s, MFU {mfu:.0%} of \
{gigaflops:,.0f} GFLOP/s
                         ({peak_source})
  run                    {workdir}/: curve.png, metrics.jsonl, checkpoints

Next:
  ./launch.sh tensorboard     # curves in the browser
  ./launch.sh --new           # the same again, in a new folder
  ./launch.sh train --config=configs/linformer.py:n=512,k=128 --workdir=runs/x
  ./launch.sh test            # the test suite"""


def _scores(task, result):
  """Yields (name, text) for the metrics of a run and its task's floor."""
  value, floor = result[task.headline], result[task.floor_name]
  name = task.floor_name.replace("_", " ")
  yield (
    f"validation {task.headline}",
    f"{value:{task.number}}, {value / floor:.1%} of the {name}",
  )
  targets = f"{result['targets']:,.0f} {task.unit}"
  yield name, f"{floor:{task.number}}, on the same {targets}"
  if task.headline != "accuracy" and "accuracy" in result:
    yield "accuracy", f"{result['accuracy']:.1%} of {task.unit}"


def _summary(task, result, workdir):
  return _SUMMARY.format(
    **result,
    scores="\n".join(
      f"  {name:22} {text}" for name, text in _scores(task, result)
    ),
    workdir=workdir,
    time=report.clock(result["busy_seconds"]),
    gigaflops=result["peak_flops"] / 1e9,
  )


def _finished(directory, task, num_steps):
  """Returns the summary of a complete run, or None."""
  path = directory / report.RESULT
  if not path.exists():
    return None
  try:
    result = json.loads(path.read_text())
    if result["step"] != num_steps:
      return None
    return _summary(task, result, directory)
  except (ValueError, KeyError, TypeError):
    report.say(f"{path} cannot be read: rebuilding it from the checkpoint")
    return None


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
      done = stored and _finished(directory, task, stored["train"]["num_steps"])
      free = workdir.extend(directory, stored, config, bool(done))
    elif stored is not None:
      config.train.restarts = tuple(stored["train"].get("restarts", ()))
    if stored is not None:
      # Needed only at the start; resuming works without the flag.
      origin = config.train.init_from or stored["train"].get("init_from", "")
      config.train.init_from = origin
      workdir.check_same(directory, stored, config, free)
      known = workdir.stored_corpus(directory)
      summary = _finished(directory, task, config.train.num_steps)
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
    result = train_lib.train_and_evaluate(experiment, directory)
    report.say(_summary(experiment.steps.task, result, directory))


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
  source = config.train.init_from
  if source and not config.data.tokenizer_path:
    config.data.tokenizer_path = load.tokenizer_path(source, fresh)
  experiment = train_lib.build(config, known)
  if source and fresh:
    load.check_weights(source, config, experiment.corpus)
  return experiment


def evaluate(directory):
  """Prints the exact metrics of the newest checkpoint of a run."""
  try:
    config = load.stored_config(directory)
    experiment = train_lib.build(config, workdir.stored_corpus(directory))
  except (ValueError, OSError) as error:
    raise command_line.UsageError(f"--workdir={directory}: {error}") from error
  step, values = train_lib.evaluate_newest(experiment, directory)
  progress = report.Progress(config, experiment.steps.task, experiment.floor)
  progress.evaluation(step, values)


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
