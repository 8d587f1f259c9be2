"""Writes metrics to event files and metrics.jsonl, and reads them back.

CLU writes the event files for TensorBoard into the run's folder. metrics.jsonl
holds the same scalars, one JSON object per line.
"""

import contextlib
import json
import os
import resource
import sys
import time

import jax
import tensorflow as tf
from clu import metric_writers
from flax import traverse_util
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2
from tensorflow.python.ops import summary_ops_v2

from linformer_jax import flops, hardware
from linformer_jax.run import files

JSON_LINES = "metrics.jsonl"


def device_peak() -> tuple[float, str]:
  """Returns the total FLOP/s of all devices, and the source of the number.

  It is the published bfloat16 peak of a known TPU or GPU, and otherwise the
  measured rate of a float32 matrix product.
  """
  device = jax.devices()[0]
  if device.device_kind in flops.PEAK_FLOPS:
    peak = flops.PEAK_FLOPS[device.device_kind] * jax.device_count()
    return peak, f"published peak of {jax.device_count()} {device.device_kind}"
  rate = hardware.matrix_product_rate() * jax.process_count()
  return rate, f"measured matrix-product rate of this {device.platform} host"


def memory_bytes() -> int:
  """Returns the peak bytes of the first device, or of the process on a CPU."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"]
  # Linux counts ru_maxrss in KiB, macOS in bytes.
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _row(line: bytes) -> dict | None:
  try:
    row = json.loads(line.decode())
  except ValueError:
    return None
  whole = isinstance(row, dict) and isinstance(row.get("step"), int)
  return row if whole else None


def read_json_lines(workdir) -> list[dict]:
  """Returns the rows of a run's metrics.jsonl, skipping unreadable lines."""
  path = files.folder(workdir) / JSON_LINES
  if not path.exists():
    return []
  rows = map(_row, path.read_bytes().splitlines())
  return [row for row in rows if row is not None]


def forget_after(workdir, step: int, evaluated: bool):
  """Drops the rows that a resumed run will write again.

  Args:
    workdir: the run's folder.
    step: updates completed.
    evaluated: whether the evaluation at that step is done too.
  """
  path = files.folder(workdir) / JSON_LINES
  if jax.process_index() or not path.exists():
    return
  found = read_json_lines(workdir)
  # A kill may truncate the last line, without a newline; it is not counted.
  lost = path.read_bytes().count(b"\n") - len(found)
  if lost > 0:
    print(f"{path}: {lost} damaged lines are left out", file=sys.stderr)
  rows = [
    row
    for row in found
    if row["step"] < step
    or (row["step"] == step and (evaluated or "eval/loss" not in row))
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  files.write_atomically(path, text)


# Tags that a resumed run writes again; other tags do not come from the run.
_REPEATED = ("train/", "eval/", "config", "_hparams_/")


def _forget_events(folder, step: int):
  """Drops a run's events at and after a step from its event files.

  A START event does the same, but some readers ignore it.
  """
  for path in sorted(folder.glob("events.out.tfevents.*")):
    name = os.fspath(path)
    kept, dropped = [], 0
    # Stops silently at a record that a kill truncated.
    for record in event_file_loader.RawEventFileLoader(name).Load():
      event = event_pb2.Event.FromString(record)
      tags = [value.tag for value in event.summary.value]
      repeated = event.step >= step and any(
        tag.startswith(_REPEATED) for tag in tags
      )
      dropped += repeated
      if not repeated:
        kept.append(record)
    if dropped:
      temporary = path.with_name("rewritten.tmp")
      with tf.io.TFRecordWriter(os.fspath(temporary)) as file:
        for record in kept:
          file.write(record)
      tf.io.gfile.rename(os.fspath(temporary), name, overwrite=True)


class Writer:
  """Writes event files (with CLU) and metrics.jsonl, on process 0 only.

  Use as a context manager, which closes the files.
  """

  def __init__(self, workdir):
    self._active = jax.process_index() == 0
    self._folder = files.folder(workdir)
    if self._active:
      self._summaries = metric_writers.SummaryWriter(str(workdir))
      self._lines = files.Lines(self._folder / JSON_LINES)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._active:
      self._summaries.close()
      self._lines.close()

  @contextlib.contextmanager
  def _events(self):
    """Raises an OSError for errors while writing to the event file.

    A full disk is checked first, as TensorFlow prints its own lines about it.
    """
    files.check_space(self._folder)
    with files.errors_of_tensorflow():
      yield

  def resume(self, step: int):
    """Makes TensorBoard discard what a killed run wrote after an update.

    Readers drop everything at and after the step of a START event, so the rows
    of that step in metrics.jsonl are written again; call `forget_after` first.

    Args:
      step: updates completed.
    """
    if not self._active:
      return
    start = event_pb2.Event(
      wall_time=time.time(),
      step=step,
      session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
    )
    with self._events():
      _forget_events(self._folder, step)
      # CLU cannot write a START event.
      with self._summaries._summary_writer.as_default():
        summary_ops_v2.import_event(start.SerializeToString())
      for row in read_json_lines(self._folder):
        if row["step"] == step:
          values = {k: v for k, v in row.items() if k not in ("step", "time")}
          self._summaries.write_scalars(step, values)
      self._summaries.flush()

  def config(self, config, step: int = 0):
    """Writes the config as hyperparameters and as text."""
    if not self._active:
      return
    flat = traverse_util.flatten_dict(config.to_dict(), sep=".")
    text = "\n".join(f"    {name} = {flat[name]!r}" for name in flat)
    with self._events():
      self._summaries.write_hparams(
        {
          name: value if isinstance(value, int | float) else str(value)
          for name, value in flat.items()
        }
      )
      self._summaries.write_texts(step, {"config": text})
      self._summaries.flush()

  def scalars(self, step: int, values: dict[str, float]):
    """Writes the scalars of an update; metrics.jsonl adds the Unix time."""
    if not self._active:
      return
    with self._events():
      self._summaries.write_scalars(step, values)
      self._summaries.flush()
    row = {"step": step, "time": time.time()} | values
    with files.errors_of_tensorflow():
      self._lines.add(json.dumps(row))

  def images(self, step: int, values):
    """Writes the images of an update by tag, uint8 [1, height, width, 3]."""
    if not self._active:
      return
    with self._events():
      self._summaries.write_images(step, values)
      self._summaries.flush()
