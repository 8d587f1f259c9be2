"""Measures how much of its attention matrices few singular values hold.

Of imported weights (BERT or RoBERTa, safetensors):

  .venv/bin/python -m experiments spectrum --weights=model.safetensors \
    --vocab=vocab.txt --text='reviews/*.jsonl.xz' --name=MiniLM-L6 \
    --text_name=IMDB

Of a run of ours, on its validation split, at its start (0) and its checkpoints:

  .venv/bin/python -m experiments spectrum --workdir=runs/x --steps=0,9

One reading is one line of results/spectrum.jsonl. Stop it when you like, or
give it a --budget: the same command resumes where it was, from sums that lie
beside the results; so does one with more --blocks. The figures are drawn by
`experiments.spectrum.render`. The image for TensorBoard goes into the run's
folder, or into that of --tensorboard.
"""

import argparse
import functools
import os
import pathlib
import sys
import time

# On a CPU, the matrices of a batch are already distributed over the cores. More
# threads per matrix would spin while they wait: on a busy machine, 40 seconds
# per block instead of two.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import numpy as np

from experiments import grid
from experiments.spectrum import subjects
from linformer_jax import hardware
from linformer_jax.run import checkpoint as checkpoint_lib
from linformer_jax.run import metrics, preemption, report
from linformer_jax.tools import spectrum

RESULTS = pathlib.Path(__file__).parent / "results" / "spectrum.jsonl"
UNFINISHED = 75  # The exit status when --budget is spent.
_SAVE_EVERY = 10  # blocks
_TELL_EVERY = 10.0  # seconds


class Unfinished(Exception):
  """Stopped before the last block; the sums so far are saved.

  Attributes:
    status: the exit status.
  """

  def __init__(self, message: str, status: int):
    super().__init__(message)
    self.status = status


def _parse(words):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--weights", help="a safetensors file")
  what.add_argument("--workdir", help="folder of a run")
  parser.add_argument("--vocab", help="vocab.txt of the weights")
  parser.add_argument("--cased", action="store_true", help="keep capitals")
  parser.add_argument(
    "--heads", type=int, help="default that of config.json beside the weights"
  )
  parser.add_argument("--text", help="globs of text, or JSON lines with `text`")
  parser.add_argument(
    "--steps",
    type=lambda text: [int(step) for step in text.split(",")],
    help="updates, e.g. 0,400 (default 0 and all checkpoints)",
  )
  parser.add_argument("--blocks", type=int, default=500, help="of text")
  parser.add_argument("--length", type=int, help="n (default all positions)")
  parser.add_argument("--name", help="of the model, in the results")
  parser.add_argument("--text_name", help="of the text, in the results")
  parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
  parser.add_argument(
    "--budget", type=float, default=float("inf"), help="seconds, then stop"
  )
  parser.add_argument("--tensorboard", help="folder for the image")
  given = parser.parse_args(words)
  if given.blocks < 1:
    raise ValueError(f"--blocks={given.blocks} must be at least 1")
  if given.workdir and (given.text or given.length):
    raise ValueError("--workdir has its own text and length")
  return given


def _load(subject, path):
  """Loads the sums over the subject's first blocks and the seconds spent."""
  if not path.exists():
    return spectrum.Moments(), 0.0
  with np.load(path) as file:
    arrays = dict(file)
  seconds, digest = float(arrays.pop("seconds")), str(arrays.pop("digest"))
  moments = spectrum.Moments(arrays)
  if moments.count > len(subject.tokens):
    raise ValueError(
      f"{path} has the sums of {moments.count} blocks, more than the "
      f"{len(subject.tokens)} asked for: ask for as many, or delete it"
    )
  if subject.digest(moments.count) != digest:  # From another text.
    return spectrum.Moments(), 0.0
  return moments, seconds


def _save(subject, path, moments, seconds):
  temporary = path.with_name(path.name + ".tmp")
  digest = subject.digest(moments.count)
  with temporary.open("wb") as file:
    np.savez(file, seconds=seconds, digest=digest, **moments.state())
  temporary.replace(path)


def read(subject: subjects.Subject, sums: pathlib.Path, stop) -> dict:
  """Measures the spectrum of a subject on all its blocks.

  Args:
    subject: the model and the text to measure.
    sums: the file of sums, from which a stopped reading resumes and one with
      more blocks continues.
    stop: called after each block; returns an exit status to stop, or None.

  Returns:
    `spectrum.summary` and the total seconds.

  Raises:
    Unfinished: when stopped.
  """
  moments, before = _load(subject, sums)
  curves = jax.jit(functools.partial(spectrum.curves, subject.config))
  total, first = len(subject.tokens), moments.count
  start = told = time.perf_counter()
  for i in range(first, total):
    moments.add(curves(subject.variables, subject.tokens[i : i + 1]))
    now = time.perf_counter()
    status = stop() if i + 1 < total else None
    if status is not None or (i + 1) % _SAVE_EVERY == 0 or i + 1 == total:
      _save(subject, sums, moments, before + now - start)
    if status is not None:
      raise Unfinished(f"stopped after block {i + 1} of {total}", status)
    if now - told > _TELL_EVERY:
      told, each = now, (now - start) / (i + 1 - first)
      found = moments.mean("all")
      print(
        f"[{i + 1}/{total}] {found[len(found) // 4 - 1]:.3f} at a quarter, "
        f"{each:.2f} s a block, {report.clock(each * (total - i - 1))} left",
        flush=True,
      )
  seconds = before + time.perf_counter() - start
  return spectrum.summary(moments) | {"seconds": round(seconds, 1)}


def records(path: pathlib.Path = RESULTS) -> list[dict]:
  """Returns the readings in a file, the last one of each."""
  lines = grid.lines(path)
  named = {(x["model"], x["text"], x["step"]): x for x in lines}
  return list(named.values())


def label(record: dict) -> str:
  """Returns the label of a reading in a figure."""
  if record["step"] is None:
    return record["text"]
  return f"update {record['step']:,}"


def write_image(folder, record: dict):
  """Writes the figure of a reading for TensorBoard, as spectrum/<text>."""
  image = spectrum.picture(spectrum.draw({label(record): record}))
  tag = f"spectrum/{record['text']}"
  metrics.Writer(folder).images(record["step"] or 0, {tag: image})


def _measure(given, stop):
  given.results.parent.mkdir(parents=True, exist_ok=True)
  if given.weights:
    wanted = [subjects.of_weights(given)]
  else:
    wanted = subjects.of_run(given)
  for subject in wanted:
    identity = subject.identity()
    what = f"{subject.name}, {label(identity)}, {identity['blocks']} blocks"
    found = records(given.results)
    if any(identity.items() <= record.items() for record in found):
      print(f"{what}: is there already")
      continue
    print(f"{what} of {identity['length']} tokens", flush=True)
    name = f"{given.results.stem}-{subject.key()}.sums.npz"
    sums = given.results.with_name(name)
    record = identity | read(subject, sums, stop) | hardware.environment()
    grid.append(given.results, record)
    folder = given.tensorboard or given.workdir
    if folder:
      write_image(folder, record)
    quarter = record["at_quarter"]["all"]
    print(
      f"{what}: {quarter['mean']:.3f} +- {quarter['spread']:.3f} at index "
      f"{record['quarter']}, {report.clock(record['seconds'])}",
      flush=True,
    )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  start = time.perf_counter()
  try:
    given = _parse(words)
    with preemption.Signals() as signals:

      def stop():
        if number := signals.received(0):
          return 128 + number
        spent = time.perf_counter() - start
        return UNFINISHED if spent > given.budget else None

      _measure(given, stop)
  except Unfinished as error:
    print(f"{error}; the same command resumes", file=sys.stderr)
    return error.status
  except (ValueError, OSError, checkpoint_lib.CheckpointError) as error:
    print(f"spectrum: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
