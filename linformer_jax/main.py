"""Trains or evaluates a masked language model.

  python -m linformer_jax.main [train] --config=FILE.py[:ARGUMENT] --workdir=DIR
  python -m linformer_jax.main evaluate --workdir=DIR

train     pretrains what the config says. A folder that holds the same run is
          resumed, or told to be complete; one that holds another config is
          refused. Ctrl-C and SIGTERM save and stop; the same command goes on.
evaluate  exact perplexity of the newest checkpoint of a run, over the whole
          validation split.

Every field of the config is a flag, e.g. --config.optimizer.learning_rate=3e-4
--config.model.projected_length=64; configs/base.py lists them with their units.
"""

import fcntl
import json
import os
import pathlib
import sys

# TensorFlow only writes event files here; its start-up lines help nobody.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import jax
from absl import flags, logging
from ml_collections import config_dict, config_flags

MODES = ("train", "evaluate")
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file, and its argument after a colon."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run: checkpoints, metrics, curve.png."
)
_NEW = flags.DEFINE_bool(
  "new", False, "Start a new run in DIR-2, DIR-3, ... if DIR holds one."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "Join the processes of a TPU pod or a cluster (jax.distributed.initialize).",
)
# Config fields in which a run may differ from what it resumes.
_FREE = ("run.", "mesh.", "data.cache_dir", "data.tfds_data_dir")


class UsageError(Exception):
  """What the user asked for cannot be done; the message says why."""


def _stored_config(workdir):
  """The flat config of the run in a folder, or None when it holds none.

  Raises:
    UsageError: for a file, or a folder with other content.
  """
  if not workdir.exists():
    return None
  if not workdir.is_dir():
    raise UsageError(f"--workdir={workdir} is a file, not a folder")
  path = workdir / "config.json"
  if path.exists():
    try:
      return json.loads(path.read_text())
    except ValueError as error:
      raise UsageError(f"{path} cannot be read: {error}") from None
  others = sorted(p.name for p in workdir.iterdir() if p.name != ".lock")
  if others:
    raise UsageError(
      f"--workdir={workdir} holds no run, but other files ({others[0]}): "
      "choose a new or an empty folder"
    )
  return None


def _check_same(workdir, stored, config):
  """Raises a UsageError that names how two configs differ, if they do."""
  from linformer_jax import metrics

  here = metrics.flatten(json.loads(json.dumps(config.to_dict())))
  there = metrics.flatten(stored)
  differences = [
    f"{name} {there.get(name)!r} there, {here.get(name)!r} here"
    for name in sorted(here.keys() | there.keys())
    if here.get(name) != there.get(name) and not name.startswith(_FREE)
  ]
  if differences:
    raise UsageError(
      f"--workdir={workdir} holds a run of another config "
      f"({'; '.join(differences[:4])}): choose another --workdir, or add --new"
    )


def _numbered(workdir):
  """The folder itself when it holds no run, or DIR-2, DIR-3, ..."""
  candidate, number = workdir, 1
  while _stored_config(candidate) is not None:
    number += 1
    candidate = workdir.with_name(f"{workdir.name}-{number}")
  return candidate


def _lock(workdir):
  """An open file that holds the folder for this process until it ends."""
  file = (workdir / ".lock").open("w")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise UsageError(
      f"another process is training in --workdir={workdir}: wait for it, stop "
      "it, or add --new"
    ) from None
  return file


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


def _train(config, workdir):
  from linformer_jax import metrics, report, train

  workdir = _numbered(workdir) if _NEW.value else workdir
  stored = _stored_config(workdir)
  if stored is not None:
    _check_same(workdir, stored, config)
    result = workdir / report.RESULT
    if result.exists():
      report.say(_summary(json.loads(result.read_text()), workdir))
      report.say("\nThis run was complete; --new starts another one.")
      return
  try:
    experiment = train.build(config)
    workdir.mkdir(parents=True, exist_ok=True)
    lock = _lock(workdir) if jax.process_index() == 0 else None
    if stored is None and jax.process_index() == 0:
      text = json.dumps(config.to_dict(), indent=1) + "\n"
      metrics.write_atomically(workdir / "config.json", text)
  except (ValueError, OSError) as error:
    raise UsageError(str(error)) from error
  report.say(train.describe(experiment, workdir))
  report.say(_summary(train.train_and_evaluate(experiment, workdir), workdir))
  if lock:
    lock.close()


def _evaluate(workdir):
  from linformer_jax import report, train

  stored = _stored_config(workdir)
  if stored is None:
    raise UsageError(f"--workdir={workdir} holds no run to evaluate")
  config = config_dict.ConfigDict(stored)
  try:
    experiment = train.build(config)
  except (ValueError, OSError) as error:
    raise UsageError(str(error)) from error
  step, values = train.evaluate_newest(experiment, workdir)
  progress = report.Progress(config, experiment.unigram)
  progress.evaluation(step, values)


def _run(argv):
  from linformer_jax import checkpoint, preemption, report

  mode = argv[1] if len(argv) > 1 else "train"
  if mode not in MODES or len(argv) > 2:
    raise UsageError(
      f"{' '.join(argv[1:])!r} is not a command: {' or '.join(MODES)}"
    )
  if not _WORKDIR.value:
    raise UsageError("--workdir=DIR is needed: the folder of the run")
  workdir = pathlib.Path(_WORKDIR.value)
  if mode == "train" and _CONFIG.value is None:
    raise UsageError("--config=FILE.py is needed, e.g. configs/smoke.py")
  if _DISTRIBUTED.value:
    jax.distributed.initialize()
  try:
    if mode == "evaluate":
      _evaluate(workdir)
    else:
      _train(_CONFIG.value, workdir)
  except report.NonFiniteError as error:
    return _fail(
      f"{error}. The checkpoints from before it are kept in {workdir}; lower "
      "optimizer.learning_rate or set optimizer.clip_norm, and train anew",
      1,
    )
  except checkpoint.CheckpointError as error:
    return _fail(str(error), 1)
  except preemption.Interrupted as error:
    return _fail(
      f"{error}; the same command goes on from there", 128 + error.number
    )
  return 0


def _fail(message: str, status: int) -> int:
  print(f"linformer_jax: {' '.join(message.split())}", file=sys.stderr)
  return status


def main(argv=None) -> int:
  """Parses flags and runs a command.

  Returns:
    The exit status: 0; 1 for a run that broke down; 2 for a wrong flag, file or
    value, with one line on stderr and nothing written; 128 + the signal that
    stopped it.
  """
  argv = sys.argv if argv is None else argv
  if {"--help", "-h", "-help"} & set(argv[1:]):
    print(__doc__)
    print(flags.FLAGS.module_help(sys.modules[__name__]) or "")
    return 0
  logging.set_verbosity(logging.ERROR)
  try:
    rest = flags.FLAGS(argv)
    return _run(rest)
  except (UsageError, flags.Error) as error:
    return _fail(str(error), 2)


if __name__ == "__main__":
  sys.exit(main())
