"""Names of the metrics, sums to means, throughput, and where they are written.

TensorBoard reads the event files that CLU's writer leaves in the run's folder;
metrics.jsonl beside them holds the same scalars, one JSON object a line.
"""

import json
import math
import os
import pathlib
import resource
import sys
import time

import jax
from clu import metric_writers

from linformer_jax import benchmark, flops

JSON_LINES = "metrics.jsonl"


def means(sums, prefix: str) -> dict[str, float]:
  """Sums over tokens to means.

  Args:
    sums: 'loss' in nats, 'correct' and 'weight', of any number of batches.
    prefix: 'train' or 'eval'.

  Returns:
    <prefix>/loss, /perplexity = exp(loss) (never clipped) and /accuracy.
  """
  weight = float(sums["weight"])
  loss = float(sums["loss"]) / weight
  return {
    f"{prefix}/loss": loss,
    f"{prefix}/perplexity": math.exp(loss) if loss < 700 else math.inf,
    f"{prefix}/accuracy": float(sums["correct"]) / weight,
  }


def device_peak() -> tuple[float, str]:
  """FLOP/s of all devices together, and where the number comes from.

  The published bfloat16 peak of a known TPU or GPU; elsewhere the rate of a
  plain float32 matrix product measured now.
  """
  device = jax.devices()[0]
  if device.device_kind in flops.PEAK_FLOPS:
    peak = flops.PEAK_FLOPS[device.device_kind] * jax.device_count()
    return peak, f"published peak of {jax.device_count()} {device.device_kind}"
  rate = benchmark.matrix_product_rate() * jax.process_count()
  return rate, f"measured matrix-product rate of this {device.platform} host"


def memory_bytes() -> int:
  """Peak bytes in use on the first device, or of this process on a CPU."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"]
  # Linux counts ru_maxrss in KiB, macOS in bytes.
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def read_json_lines(workdir) -> list[dict]:
  """The rows of a run's metrics.jsonl; a line cut short by a kill is left out.

  Args:
    workdir: folder of the run.
  """
  path = pathlib.Path(workdir) / JSON_LINES
  rows = []
  if path.exists():
    for line in path.read_text().splitlines():
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError:
        continue
  return rows


def forget_after(workdir, step: int, evaluated: bool):
  """Drops rows that a resumed run is going to write again.

  Args:
    workdir: folder of the run.
    step: updates completed.
    evaluated: whether the evaluation at that step has been done, too.
  """
  path = pathlib.Path(workdir) / JSON_LINES
  if jax.process_index() or not path.exists():
    return
  rows = [
    row
    for row in read_json_lines(workdir)
    if row["step"] < step
    or (row["step"] == step and (evaluated or "eval/loss" not in row))
  ]
  write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_atomically(path: pathlib.Path, text: str):
  """Replaces a file as a whole: a kill leaves the old one or the new."""
  temporary = path.with_name(path.name + ".tmp")
  with temporary.open("w") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


class Writer:
  """Writes to TensorBoard (by CLU) and to metrics.jsonl; silent off process 0.

  Use as a context: all is flushed at its end.
  """

  def __init__(self, workdir):
    self._active = jax.process_index() == 0
    if self._active:
      self._summaries = metric_writers.SummaryWriter(str(workdir))
      self._lines = (pathlib.Path(workdir) / JSON_LINES).open("a")

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._active:
      self._summaries.close()
      self._lines.close()

  def config(self, config):
    """Writes the config as hyper-parameters and as text."""
    if not self._active:
      return
    flat = flatten(config.to_dict())
    self._summaries.write_hparams(
      {
        name: value if isinstance(value, int | float) else str(value)
        for name, value in flat.items()
      }
    )
    text = "\n".join(f"    {name} = {flat[name]!r}" for name in flat)
    self._summaries.write_texts(0, {"config": text})
    self._summaries.flush()

  def scalars(self, step: int, values: dict[str, float]):
    """Writes scalars of an update; metrics.jsonl adds the Unix time."""
    if not self._active:
      return
    self._summaries.write_scalars(step, values)
    row = {"step": step, "time": time.time()} | values
    self._lines.write(json.dumps(row) + "\n")
    self.flush()

  def flush(self):
    """Makes what was written visible to readers."""
    self._summaries.flush()
    self._lines.flush()


def flatten(tree: dict, prefix: str = "") -> dict:
  """{'a': {'b': 1}} to {'a.b': 1}."""
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat
