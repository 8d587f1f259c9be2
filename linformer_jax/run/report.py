"""Reports speed and progress during a run."""

import time

import jax
import numpy as np

from linformer_jax.run import console, metrics

_NOTHING_SAVED = ((0, 0), (0, 0))
# Values that an update returns besides the sums of its task.
_NOT_SUMS = {"gradient_norm", "parameter_norm", "learning_rate"}


class NonFiniteError(Exception):
  """The loss, gradient or parameters of an update are not finite."""


def say(line: str, end: str = "\n"):
  """Prints a line on the first process."""
  if jax.process_index() == 0:
    console.say(line, end)


def clock(seconds: float) -> str:
  """Formats seconds: 61 -> '1:01', 3661 -> '1:01:01'."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02}:{seconds:02}"
  return f"{minutes}:{seconds:02}"


def against(task, value: float, floor: float) -> str:
  """Returns a headline's value, and how it compares to the task's floor."""
  name = task.floor_name.replace("_", " ")
  share = f"{value / floor:.1%} of the" if floor else "against the"
  return f"{value:{task.number}}, {share} {name}"


class Throughput:
  """Measures tokens per second and MFU of the updates since the last reading.

  Attributes:
    peak: FLOP/s that MFU is a fraction of.
    peak_source: the source of that number.
    busy_seconds: the time spent in updates, excluding evaluation and saving;
      a resumed run adds to it.
  """

  def __init__(self, tokens_per_step: int, flops_per_step: int, state=None):
    """Starts at zero, or with the `state` of the run to resume."""
    self._tokens = tokens_per_step
    self._flops = flops_per_step
    self.peak, self.peak_source = metrics.device_peak()
    state = state or dict.fromkeys(("busy_seconds", "last_read", "wall"), 0.0)
    # Tokens and FLOPs that short batches did without: since the last reading,
    # and in total.
    self._saved = [list(x) for x in state.get("saved", _NOTHING_SAVED)]
    self._wall_before = state["wall"]
    self._made = time.perf_counter()
    self.busy_seconds = state["busy_seconds"]
    self._last_read = state["last_read"]
    self._started = None

  def state(self) -> dict[str, float]:
    """Returns what a resumed run starts from; JSON."""
    return {
      "busy_seconds": self.busy_seconds,
      "last_read": self._last_read,
      "wall": self.wall_seconds,
      "saved": self._saved,
    }

  def did(self, tokens: int, flops: int):
    """Tells what an update takes, which may be less than a full batch does."""
    for saved in self._saved:
      saved[0] += self._tokens - tokens
      saved[1] += self._flops - flops

  @property
  def saved_tokens(self) -> int:
    """Tokens that short batches did without, over the whole run."""
    return self._saved[1][0]

  @property
  def wall_seconds(self) -> float:
    """Seconds with compilation, evaluation and saving, over all resumptions."""
    return self._wall_before + time.perf_counter() - self._made

  def start(self):
    """Starts the clock for updates."""
    if self._started is None:
      self._started = time.perf_counter()

  def pause(self):
    """Stops the clock, for evaluation or saving."""
    if self._started is not None:
      self.busy_seconds += time.perf_counter() - self._started
      self._started = None

  def read(self, steps: int) -> dict[str, float]:
    """Returns step_seconds, tokens_per_second and mfu since the last reading.

    Args:
      steps: updates since then.
    """
    self.pause()
    spent = (self.busy_seconds - self._last_read) / steps
    self._last_read = self.busy_seconds
    self.start()
    saved, self._saved[0] = self._saved[0], [0, 0]
    return self._rates("train/", spent, saved, steps)

  def average(self, steps: int) -> dict[str, float]:
    """Returns the same over all `steps` updates of the run, without prefix.

    A measured peak is measured again and the higher one counts, as a machine
    that was busy at the start would inflate the MFU.
    """
    self.peak = max(self.peak, metrics.device_peak()[0])
    return self._rates("", self.busy_seconds / steps, self._saved[1], steps)

  def _rates(self, prefix, spent, saved, steps):
    tokens, flops = (
      whole - less / steps
      for whole, less in zip((self._tokens, self._flops), saved, strict=True)
    )
    return {
      f"{prefix}step_seconds": spent,
      f"{prefix}tokens_per_second": tokens / spent,
      f"{prefix}mfu": flops / spent / self.peak,
    }


class Progress:
  """Prints progress lines with the remaining time."""

  def __init__(self, config, task, floor: float):
    self._total = config.train.num_steps
    self._eval_every = config.run.eval_every_steps or self._total
    self._eval_seconds = 0.0  # of the last evaluation
    self._task, self._floor = task, floor

  def train(self, step: int, values: dict[str, float]):
    """Prints a line on the updates since the last line."""
    evals = -(-self._total // self._eval_every) - step // self._eval_every
    left = (self._total - step) * values["train/step_seconds"]
    left += evals * self._eval_seconds
    headline = self._task.headline
    value = format(values[f"train/{headline}"], self._task.number)
    say(
      f"update {step:>7,}/{self._total:,} {step / self._total:4.0%}"
      f"  loss {values['train/loss']:.3f}"
      f"  {headline} {value:>8}"
      f"  {values['train/tokens_per_second']:9,.0f} tokens/s"
      f"  MFU {values['train/mfu']:4.0%}"
      f"  {clock(left)} left"
    )

  def evaluation(self, step: int, values: dict[str, float]):
    """Prints a line on an evaluation."""
    self._eval_seconds = values["eval/seconds"]
    task, value = self._task, values[f"eval/{self._task.headline}"]
    say(
      f"update {step:>7,} validation {task.headline} "
      + against(task, value, self._floor)
      + f" {self._floor:{task.number}}"
    )


class Window:
  """Sums metrics of the updates since the last line, one update behind."""

  def __init__(
    self, writer, progress, throughput, task, every: int, state=None
  ):
    """Starts empty, or with the `state` of the run to resume."""
    self._writer = writer
    self._progress = progress
    self._throughput = throughput
    self._task = task
    self._every = every
    self._pending = None  # (step, device values) of the last update
    self._silent = True  # until the first update is done
    self._sums = dict(state or {})

  def state(self) -> dict[str, float]:
    """Returns the sums since the last line; JSON. Call `close` first."""
    return dict(self._sums)

  def add(self, step: int, values):
    """Adds the metrics of an update that has just been dispatched."""
    before, self._pending = self._pending, (step, values)
    self._read(before)

  def close(self):
    """Reads the update in flight and stops the clock."""
    before, self._pending = self._pending, None
    self._read(before)
    self._throughput.pause()

  def _read(self, entry):
    if entry is None:
      return
    step, values = entry
    values = {k: float(v) for k, v in jax.device_get(values).items()}
    values["steps"] = 1
    loss = values["loss"] / max(values["weight"], 1)
    norms = values["gradient_norm"], values["parameter_norm"]
    if not np.isfinite([loss, *norms]).all():
      raise NonFiniteError(
        f"update {step}: the loss is {loss}, the norm of its gradient "
        f"{norms[0]}, of the parameters after it {norms[1]}"
      )
    for name in values.keys() - _NOT_SUMS:
      self._sums[name] = self._sums.get(name, 0) + values[name]
    if self._silent:
      say(f"update {step:,}: loss {loss:.3f}; a line every {self._every:,}")
      self._silent = False
    if step % self._every == 0:
      self._write(step, values)

  def _write(self, step, values):
    found = self._task.metrics(self._sums)
    row = {f"train/{name}": value for name, value in found.items()} | {
      "train/learning_rate": values["learning_rate"],
      "train/gradient_norm": values["gradient_norm"],
      "train/parameter_norm": values["parameter_norm"],
      "train/memory_bytes": metrics.memory_bytes(),
    }
    if "auxiliary" in self._sums:
      weight = max(self._sums["weight"], 1)
      row["train/auxiliary"] = self._sums["auxiliary"] / weight
    row |= self._throughput.read(self._sums["steps"])
    self._writer.scalars(step, row)
    self._progress.train(step, row)
    self._sums = dict.fromkeys(self._sums, 0)
