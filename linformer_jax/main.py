"""Trains, evaluates or plans a masked language model.

  python -m linformer_jax.main [train] --config=FILE.py[:ARGUMENT] --workdir=DIR
  python -m linformer_jax.main evaluate --workdir=DIR
  python -m linformer_jax.main plan --config=... --topology=v5e:4x4

train     pretrains what the config says. A folder that holds the same run is
          resumed, or told to be complete; one that holds another config is
          refused. Ctrl-C and SIGTERM save and stop; the same command goes on.
evaluate  exact perplexity of the newest checkpoint of a run, over the whole
          validation split.
plan      what an update of that config would take on a TPU slice or on one H100
          (--topology=h100): memory, FLOPs, communication, the largest batch.
          Compiled on this host; nothing is run, read or written.

Every field of the config is a flag, e.g. --config.optimizer.learning_rate=3e-4
--config.model.projected_length=64; configs/base.py lists them with their units.
"""

import contextlib
import json
import logging
import os
import signal
import sys

# TensorFlow only writes event files here; its start-up lines help nobody.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import absl.logging
import jax

from linformer_jax import command_line, console, paths, startup

# A process that has not been heard of for so long is dead, and all stop.
HEARTBEAT_SECONDS = 30

_SUMMARY = """
Done: {step:,} updates, {tokens:,} tokens, {parameters:,} parameters, in {time}
of training.
  validation perplexity  {perplexity:.2f}, {share:.1%} of the unigram perplexity
  unigram perplexity     {unigram_perplexity:.2f}, on the same {targets:,.0f} \
masked tokens
  accuracy               {accuracy:.1%} of masked tokens
  speed                  {tokens_per_second:,.0f} tokens/s, MFU {mfu:.0%} of \
{gigaflops:,.0f} GFLOP/s
                         ({peak_source})
  run                    {workdir}/: curve.png, metrics.jsonl, checkpoints

Next:
  ./launch.sh tensorboard     # curves in the browser
  ./launch.sh --new           # the same again, in a new folder
  ./launch.sh train --config=configs/linformer.py:n=512,k=128 --workdir=runs/x
  ./launch.sh test            # the test suite"""


def _summary(result, workdir):
  from linformer_jax import report

  return _SUMMARY.format(
    **result,
    workdir=workdir,
    time=report.clock(result["busy_seconds"]),
    share=result["perplexity"] / result["unigram_perplexity"],
    gigaflops=result["peak_flops"] / 1e9,
  )


def _finished(directory, num_steps):
  """The summary of a complete run, or None where there is none to read."""
  from linformer_jax import report

  path = directory / report.RESULT
  if not path.exists():
    return None
  try:
    result = json.loads(path.read_text())
    if result["step"] != num_steps:
      return None
    return _summary(result, directory)
  except (ValueError, KeyError, TypeError):
    report.say(f"{path} cannot be read: making it anew from the checkpoint")
    return None


def _too_large(config, error):
  from linformer_jax import memory

  return command_line.UsageError(
    f"{memory.sizes(config)} do not fit in memory: {memory.ADVICE} "
    f"({str(error)[:200]})"
  )


@contextlib.contextmanager
def _fits(directory, config, is_new):
  """Takes a new run away again when its first update does not fit in memory."""
  from linformer_jax import memory, metrics, workdir

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


def _train(config, directory, new, extend):
  from linformer_jax import report, train, workdir

  held = None
  try:
    if new:
      directory = workdir.numbered(directory)
    stored, known, free = workdir.stored_config(directory), None, ()
    if extend:
      done = stored and _finished(directory, stored["train"]["num_steps"])
      free = workdir.extend(directory, stored, config, bool(done))
    elif stored is not None:
      config.train.restarts = tuple(stored["train"].get("restarts", ()))
    if stored is not None:
      # Of use only once; a resumed run need not be told again.
      origin = config.train.init_from or stored["train"].get("init_from", "")
      config.train.init_from = origin
      workdir.check_same(directory, stored, config, free)
      known = workdir.stored_corpus(directory)
      summary = _finished(directory, config.train.num_steps)
      if summary:
        report.say(summary)
        report.say("\nThis run was complete; --new starts another one.")
        return
    experiment = _build(config, known, fresh=stored is None)
    if jax.process_index() == 0:
      held = workdir.claim(directory, config, experiment.corpus, free)
  except (ValueError, OSError) as error:
    raise command_line.UsageError(str(error)) from error
  except MemoryError as error:  # of NumPy, where arrays of the start are made
    raise _too_large(config, error) from error
  with (
    held or contextlib.nullcontext(),
    _fits(directory, config, stored is None),
  ):
    if free:
      report.say(workdir.extension(config))
    report.say(train.describe(experiment, directory))
    result = train.train_and_evaluate(experiment, directory)
    report.say(_summary(result, directory))


def _build(config, known, fresh):
  """The experiment; the weights that it starts from are looked at first."""
  from linformer_jax import load, train

  source = config.train.init_from
  if source and not config.data.tokenizer_path:
    config.data.tokenizer_path = load.tokenizer_path(source, fresh)
  experiment = train.build(config, known)
  if source and fresh:
    load.check_weights(source, config, experiment.corpus)
  return experiment


def _evaluate(directory):
  from linformer_jax import load, report, train, workdir

  try:
    config = load.stored_config(directory)
    experiment = train.build(config, workdir.stored_corpus(directory))
  except (ValueError, OSError) as error:
    raise command_line.UsageError(f"--workdir={directory}: {error}") from error
  step, values = train.evaluate_newest(experiment, directory)
  report.Progress(config, experiment.unigram).evaluation(step, values)


def _plan(given):
  from linformer_jax import plan

  # Compiled for others; what this host has is left alone.
  jax.config.update("jax_platforms", "cpu")
  try:
    plan.run(given.config, given.topology)
  except ValueError as error:
    raise command_line.UsageError(str(error)) from error
  except MemoryError as error:
    raise _too_large(given.config, error) from error


def _find_devices():
  """Starts JAX's backend, with a line where the environment is wrong."""
  if jax.config.jax_enable_x64:
    console.say("JAX_ENABLE_X64 is left aside: a run has the dtypes it lists")
    jax.config.update("jax_enable_x64", False)
  if cache := jax.config.jax_compilation_cache_dir:
    try:
      cache = paths.expand(cache, "JAX_COMPILATION_CACHE_DIR", bucket=True)
    except ValueError as error:
      raise command_line.UsageError(str(error)) from None
    jax.config.update("jax_compilation_cache_dir", cache)
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:  # the latter without CUDA
    raise command_line.UsageError(
      f"JAX finds no device with JAX_PLATFORMS={jax.config.jax_platforms}: "
      f"{error}"
    ) from error


def _run(given, mode):
  """Runs a command; returns the exit status."""
  from linformer_jax import checkpoint, memory, preemption, report

  if mode == "plan":
    _plan(given)
    return 0
  directory = command_line.folder(given, mode)
  if given.init_from:
    given.config.train.init_from = command_line.origin(given)
  if given.distributed:
    _join()
  _find_devices()
  try:
    if mode == "evaluate":
      _evaluate(directory)
    else:
      _train(given.config, directory, given.new, given.extend)
  except report.NonFiniteError as error:
    return console.fail(
      f"{error}. The checkpoints from before it are kept in {directory}; lower "
      "optimizer.learning_rate or set optimizer.clip_norm, and train anew",
      1,
    )
  except checkpoint.CheckpointError as error:
    return console.fail(str(error), 1)
  except OSError as error:  # most often a disk that is full
    return console.fail(
      f"--workdir={directory}: {error}. Its checkpoints are kept, and the same "
      "command goes on from the newest",
      1,
    )
  except preemption.Interrupted as error:
    status = 128 + error.number
    return console.fail(f"{error}; the same command goes on from there", status)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    alone = jax.process_count() == 1
    if memory.exhausted(error):
      problem = f"there is not enough memory: {memory.ADVICE}"
    elif alone:
      raise
    else:
      problem = (
        "another process has died or cannot be reached, so this one stops too; "
        "start all of them again, and they go on from the last checkpoint"
      )
    console.fail(f"{problem} ({str(error)[:200]})", 1)
    if alone:
      return 1
    sys.stderr.flush()
    os._exit(1)  # anything else would wait for the dead
  return 0


def _join():
  """Meets the other processes of the run."""
  try:
    jax.distributed.initialize(
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=2 * HEARTBEAT_SECONDS,
    )
  except (ValueError, RuntimeError) as error:
    raise command_line.UsageError(
      f"--distributed: no other processes can be found ({error}); JAX looks "
      "for a TPU pod, Slurm, Open MPI or Kubernetes. One process alone does "
      "not need the flag"
    ) from error


def _unraisable(event):
  """Silent of files that cannot be written, either, after the first one."""
  if str(event.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(event)


def main() -> int:
  """Reads sys.argv and runs a command.

  Returns:
    The exit status: 0; 1 for a run that broke down; 2 for a wrong flag, file or
    value, with one line on stderr and nothing written; 128 + the signal that
    stopped it.
  """
  console.open_streams()
  given = command_line.make_flags()
  if {"--help", "-h", "-help", "help"} & set(sys.argv[1:]):
    console.say(__doc__ + given.get_help())
    return 0
  # Orbax tells a lot, and prints what is raised here too.
  absl.logging.set_verbosity(absl.logging.FATAL)
  sys.unraisablehook = _unraisable
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Orbax's tasks
  logging.basicConfig(format="%(message)s", stream=sys.stderr)
  logging.getLogger("linformer_jax").setLevel(logging.INFO)
  try:
    words = command_line.parse(given, sys.argv)
    return _run(given, command_line.check(given, *words))
  except command_line.UsageError as error:
    return console.fail(str(error), 2)
  except ImportError as error:  # some packages are imported when needed
    if (error.name or "").startswith("linformer_jax"):
      raise
    return console.fail(startup.missing(str(error)), 2)


if __name__ == "__main__":
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C
  sys.exit(main())
