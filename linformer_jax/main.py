"""Trains, evaluates, plans and uses models.

  python -m linformer_jax.main [train] --config=FILE.py[:ARGUMENT] --workdir=DIR
  python -m linformer_jax.main evaluate --workdir=DIR
  python -m linformer_jax.main plan --config=... --topology=v5e:4x4
  python -m linformer_jax.main export --workdir=DIR --to=FOLDER
  python -m linformer_jax.main predict --workdir=DIR --input=FILE --to=FILE
  python -m linformer_jax.main fill --workdir=DIR 'the United <mask>'
  python -m linformer_jax.main generate --workdir=DIR --prompt='The people'
  python -m linformer_jax.main convert --from=DIR --to=FOLDER --k=128

train     trains what the config says. A folder that holds the same run is
          resumed, or told to be complete; one that holds another config is
          refused. Ctrl-C and SIGTERM save and stop; the same command resumes.
          --extend trains a complete run further; --init_from=RUN starts a new
          one from another's weights; --seeds=5 trains a run for each of five
          seeds, in DIR/seed0 and so on, and compares their scores.
evaluate  exact metrics of the newest checkpoint of a run, over the whole
          validation split.
plan      what an update of that config would take on a TPU slice or on one H100
          (--topology=h100): memory, FLOPs, communication, the largest batch.
          Compiled on this host; nothing is run, read or written.
export    the weights of a run as safetensors with config.json and tokenizer;
          `transformers` opens it if the attention is softmax's.
predict   labels a file of texts (--input, JSON lines or CSV) with a trained
          classifier: a label and probabilities a line of --to. Stopped, the
          same command goes on.
fill      the likeliest tokens at each <mask> of texts, by a masked language
          model: a run, or what export wrote.
generate  continues a text by a causal language model, or each prompt of a
          file (--input and --to, as for predict; it resumes).
          --temperature=0 takes the likeliest tokens.
convert   a model with softmax attention gets k slots in its layers (--k), and
          a model gets longer (--length). With --texts it is compared with the
          original, and --updates=N distill the original into it. It resumes.

export, predict, generate and fill take the best checkpoint of a run that keeps
it (run.keep_best, as configs/finetune.py has it) and the newest of any other;
--step=best, --step=last and --step=UPDATES choose.

Every field of the config is a flag, e.g. --config.optimizer.learning_rate=3e-4
--config.attention.projected_length=64; configs/base.py lists them with units.
"""

import logging
import os
import signal
import sys

# TensorFlow only reads data sets here; its start-up lines help nobody.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import absl.logging
import jax

from linformer_jax.run import command_line, console, paths, startup

# A process that has not been heard of for so long is dead, and all stop.
HEARTBEAT_SECONDS = 30


def _find_devices():
  """Starts JAX's backend, with a line where the environment is wrong."""
  if jax.config.jax_enable_x64:
    console.say("JAX_ENABLE_X64 is ignored: the config chooses the dtypes")
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


def _do(given, mode, directory, texts):
  """Runs a command on a folder."""
  from linformer_jax.run import commands, seeds

  if mode == "evaluate":
    commands.evaluate(directory, given.step)
  elif mode == "export":
    commands.export(directory, given.to, given.dtype, given.step)
  elif mode == "predict":
    commands.predict(
      directory, given.input, given.to, given.step, given.truncate
    )
  elif mode == "generate":
    commands.generate(directory, given)
  elif mode == "fill":
    commands.fill(directory, texts, given.top, given.step)
  elif mode == "convert":
    _convert(given)
  elif given.seeds:
    several = command_line.seeds(given.seeds)
    seeds.train(given.config, directory, several)
  else:
    commands.train(given.config, directory, given.new, given.extend)


def _run(given, mode, *texts):
  """Runs a command; returns the exit status."""
  from linformer_jax import memory
  from linformer_jax.data import cache
  from linformer_jax.run import checkpoint, commands, preemption, report

  if mode == "plan":
    commands.plan(given.config, given.topology)
    return 0
  cache.VERIFY.set(given.verify)
  directory = None if mode == "convert" else command_line.folder(given)
  if given.init_from:
    given.config.train.init_from = command_line.origin(given)
  if given.distributed:
    _join()
  _find_devices()
  try:
    _do(given, mode, directory, texts)
  except report.NonFiniteError as error:
    return console.fail(
      f"{error}. The checkpoints from before it are kept in {directory}; lower "
      "optimizer.learning_rate or set optimizer.clip_norm, and start a new run",
      1,
    )
  except checkpoint.CheckpointError as error:
    return console.fail(str(error), 1)
  except OSError as error:  # most often a disk that is full
    return console.fail(
      f"--workdir={directory}: {error}. Its checkpoints are kept, and the same "
      "command resumes from the newest",
      1,
    )
  except preemption.Interrupted as error:
    status = 128 + error.number
    return console.fail(f"{error}; the same command resumes from there", status)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    alone = jax.process_count() == 1
    if memory.exhausted(error):
      problem = f"there is not enough memory: {memory.ADVICE}"
    elif alone:
      raise
    else:
      problem = (
        "another process has died or cannot be reached, so this one stops too; "
        "start all of them again, and they resume from the last checkpoint"
      )
    console.fail(f"{problem} ({str(error)[:200]})", 1)
    if alone:
      return 1
    sys.stderr.flush()
    os._exit(1)  # anything else would wait for the dead
  return 0


def _convert(given):
  """See `convert.command`, which takes a while to import."""
  from linformer_jax.convert import command

  command.run(given)


def _take_model(config, *places):
  """See `commands.take_model`, which takes a while to import."""
  from linformer_jax.run import commands

  commands.take_model(config, *places)


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
    words = command_line.parse(given, sys.argv, _take_model)
    return _run(given, command_line.check(given, *words), *words[1:])
  except command_line.UsageError as error:
    return console.fail(str(error), 2)
  except ImportError as error:  # some packages are imported when needed
    if (error.name or "").startswith("linformer_jax"):
      raise
    return console.fail(startup.missing(str(error)), 2)


if __name__ == "__main__":
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C
  sys.exit(main())
