"""Writes metrics to event files and metrics.jsonl, and reads them back.

Event files for TensorBoard lie in the run's folder. metrics.jsonl holds the
same scalars, one JSON object per line.
"""

import json
import resource
import sys
import time

import jax
from clu import parameter_overview
from flax import traverse_util
from tensorboard.compat.proto import event_pb2

from linformer_jax import flops, hardware
from linformer_jax.run import events, files

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
    print(f"{path}: {lost} damaged lines are skipped", file=sys.stderr)
  rows = [
    row
    for row in found
    if row["step"] < step
    or (row["step"] == step and (evaluated or "eval/loss" not in row))
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  files.write_atomically(path, text)


# Tags that a resumed run writes again; other tags do not come from the run.
_REPEATED = ("train/", "eval/", "config", "parameters", "_hparams_/")


def _forget_events(folder, step: int):
  """Drops a run's events at and after a step from its event files.

  A START event does the same, but some readers ignore it.
  """
  for path in sorted(folder.iterdir()):
    if not path.name.startswith(events.PREFIX):
      continue
    kept, dropped = [], 0
    for event, record in events.read(path):
      tags = [value.tag for value in event.summary.value]
      repeated = event.step >= step and any(
        tag.startswith(_REPEATED) for tag in tags
      )
      dropped += repeated
      if not repeated:
        kept.append(record)
    if dropped:
      files.write_atomically(path, b"".join(kept))


class Writer:
  """Writes event files and metrics.jsonl, on process 0 only."""

  def __init__(self, workdir):
    self._active = jax.process_index() == 0
    self._folder = files.folder(workdir)
    if self._active:
      self._events = events.EventFile(self._folder)
      self._lines = files.Appended(self._folder / JSON_LINES)

  def _add(self, step, summaries):
    for summary in summaries:
      self._events.add(step, summary=summary)
    self._events.flush()

  def resume(self, step: int):
    """Makes TensorBoard discard what a killed run wrote after an update.

    Readers drop everything at and after the step of a START event, so the rows
    of that step in metrics.jsonl are written again; call `forget_after` first.

    Args:
      step: updates completed.
    """
    if not self._active:
      return
    _forget_events(self._folder, step)
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._events.add(step, session_log=start)
    for row in read_json_lines(self._folder):
      if row["step"] == step:
        values = {k: v for k, v in row.items() if k not in ("step", "time")}
        self._add(step, map(events.scalar_summary, values, values.values()))
    self._events.flush()

  def config(self, config, step: int = 0, params=None):
    """Writes the config as hyperparameters and as text.

    Args:
      config: the run's config.
      step: updates completed.
      params: parameters, or their shapes, to list too, or None.
    """
    if not self._active:
      return
    flat = traverse_util.flatten_dict(config.to_dict(), sep=".")
    values = {
      name: value if isinstance(value, int | float) else str(value)
      for name, value in flat.items()
    }
    texts = {"config": "\n".join(f"{name} = {flat[name]!r}" for name in flat)}
    if params is not None:
      texts["parameters"] = parameter_overview.get_parameter_overview(
        params, include_stats=False
      )
    self._add(
      step,
      [
        events.hparams_summary(values),
        *(
          # Markdown sets indented lines as they are.
          events.text_summary(tag, "    " + text.replace("\n", "\n    "))
          for tag, text in texts.items()
        ),
      ],
    )

  def scalars(self, step: int, values: dict[str, float]):
    """Writes the scalars of an update; metrics.jsonl adds the Unix time."""
    if not self._active:
      return
    self._add(step, map(events.scalar_summary, values, values.values()))
    row = {"step": step, "time": time.time()} | values
    self._lines.write((json.dumps(row) + "\n").encode())
    self._lines.flush()

  def images(self, step: int, values):
    """Writes the images of an update by tag, uint8 [height, width, 3]."""
    if self._active:
      self._add(step, map(events.image_summary, values, values.values()))
