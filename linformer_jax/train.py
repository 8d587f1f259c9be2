"""Pretraining: builds an experiment, restores its state and runs the loop."""

import collections
import dataclasses
import functools
import time
from typing import Any

import jax

from linformer_jax import evaluate, memory, models, origin
from linformer_jax import step as step_lib
from linformer_jax.data import pipeline
from linformer_jax.parallel import sharding
from linformer_jax.run import best as best_lib
from linformer_jax.run import checkpoint, metrics, preemption, report, result


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything a run needs, built before anything is written to its folder."""

  config: Any
  mesh: jax.sharding.Mesh
  steps: step_lib.Steps
  corpus: pipeline.Corpus
  floor: float  # `Task.floor` on the validation split


def build(config, known: pipeline.Record | None = None) -> Experiment:
  """Validates a config and builds its experiment.

  Args:
    config: a full experiment config, as in configs/base.py.
    known: record of the data the run has used so far; see `pipeline.prepare`.

  Raises:
    ValueError: if the config is invalid, before any file of the run exists.
  """
  run = config.run
  for name in ("log_every_steps", "checkpoint_every_steps", "keep_checkpoints"):
    if run[name] < 1:
      raise ValueError(f"run.{name} {run[name]} must be at least 1")
  if run.eval_every_steps < 0:
    raise ValueError(f"run.eval_every_steps {run.eval_every_steps} is negative")
  mesh = sharding.make_mesh(config.mesh)
  sharding.share(mesh)  # raises if processes cannot divide a batch
  steps = step_lib.build_steps(config, mesh)
  memory.check(steps, config)
  data = pipeline.DataConfig(**config.data.to_dict())
  corpus = pipeline.prepare(data, known)
  # Every process reads the whole split.
  task = steps.task
  batches = pipeline.validation_batches(corpus, task, run.eval_batch_size)
  floor = task.floor(corpus, batches)
  return Experiment(config, mesh, steps, corpus, floor)


def _start(experiment, saved):
  """Restores the newest checkpoint and data position, or initializes both.

  Returns:
    (state, iterator, note), the note as returned by `_note`, or empty.
  """
  config, steps = experiment.config, experiment.steps
  iterator = pipeline.train_iterator(
    experiment.corpus,
    steps.task,
    config.data.seed,
    config.train.batch_size,
    *sharding.share(experiment.mesh),
    buckets=config.data.length_buckets,
  )
  restored = saved.restore(steps.abstract_state)
  if restored is None:
    return _fresh(experiment), iterator, {}
  state, note = restored
  iterator.set_state(note["data"])
  report.say(
    f"resuming at update {int(state.step):,} of {config.train.num_steps:,}"
  )
  return state, iterator, note


def _fresh(experiment):
  """Returns the state of a run at update 0."""
  state, given = experiment.steps.init(), experiment.config.train.init_from
  if given:
    source, model = origin.find(given), experiment.steps.model
    state, line = origin.start(source, state, experiment.mesh, model)
    report.say(line)
  return state


def _note(config, iterator, evaluation, window, throughput, best):
  """Returns what a checkpoint needs besides the state to resume exactly."""
  return {
    "data": iterator.get_state(),
    "evaluation": evaluation,
    "best": best,
    "window": window.state(),
    "throughput": throughput.state(),
    "config": config.to_dict(),
  }


def _best(experiment, workdir, saved, note):
  """Returns the best evaluation so far, whose checkpoint is to be kept."""
  best = best_lib.Best(workdir, experiment.steps.task)
  if experiment.config.run.keep_best:
    best.found = note.get("best")
    saved.keep(best.found and best.found["step"])
  best.write()
  return best


def _throughput(experiment, state):
  steps, batch = experiment.steps, experiment.config.train.batch_size
  return report.Throughput(batch * steps.task.length, steps.flops, state)


def train_and_evaluate(experiment: Experiment, workdir) -> dict[str, Any]:
  """Trains to the last update, resuming from the newest checkpoint.

  Each iteration evaluates, saves, fetches a batch, dispatches the update, and
  only then reads the metrics of the previous update, so the device is never
  idle. `step` counts completed updates. The data position is saved before the
  next batch is taken.

  Args:
    experiment: as returned by `build`.
    workdir: folder of the run, for checkpoints, metrics and curve.png.

  Returns:
    The contents of result.json.

  Raises:
    report.NonFiniteError: if a loss, gradient or new parameters are not finite;
      the last checkpoint predates that update.
    preemption.Interrupted: after SIGTERM or SIGINT, with a checkpoint saved.
    checkpoint.CheckpointError: if no checkpoint can be read.
  """
  config, steps = experiment.config, experiment.steps
  run, total = config.run, config.train.num_steps
  with (
    checkpoint.Checkpoints(workdir, run.keep_checkpoints) as saved,
    preemption.Signals() as signals,
  ):
    state, iterator, note = _start(experiment, saved)
    first = int(state.step)
    evaluation = note.get("evaluation")  # the one at `first`, if any
    metrics.forget_after(workdir, first, evaluation is not None)
    best = _best(experiment, workdir, saved, note)
    throughput = _throughput(experiment, note.get("throughput"))
    # Compile ahead of time, so throughput excludes compilation.
    update = step_lib.Updates(steps)
    if not config.data.length_buckets:
      update.compile(steps.abstract_batch)
    writer = metrics.Writer(workdir)
    writer.resume(first)
    if first == 0 or first in config.train.restarts:
      writer.config(config, first, steps.abstract_state.params)
    progress = report.Progress(config, steps.task, experiment.floor)
    window = report.Window(
      writer,
      progress,
      throughput,
      steps.task,
      run.log_every_steps,
      note.get("window"),
    )
    profile = _profile(run, workdir, first, total)
    for step in range(first, total + 1):
      last, signal = step == total, signals.received(step)
      due = last or (step and _due(step, run.eval_every_steps))
      if due and not signal:
        if not evaluation:
          window.close()
          stop = functools.partial(signals.received, step)
          evaluation = _evaluate(experiment, state, stop)
          signal = signals.received(step)
          if evaluation:
            writer.scalars(step, evaluation)
        if evaluation:
          progress.evaluation(step, evaluation)
      better = run.keep_best and best.takes(step, evaluation)
      if better:
        saved.keep(step)
      if last or signal or better or _due(step, run.checkpoint_every_steps):
        window.close()  # raises before a non-finite state is saved
        note = _note(
          config, iterator, evaluation, window, throughput, best.found
        )
        saved.save(step, state, note)
      if better:
        saved.wait()
        best.write()
      if signal:
        saved.wait()
        raise preemption.Interrupted(signal, step)
      if last:
        break
      throughput.start()
      batch = steps.place(next(iterator))
      if not update.knows(batch):  # the first of its length
        window.close()
        update.compile(batch)
        throughput.start()
      throughput.did(*steps.work(batch))
      state, values = update(state, batch)
      window.add(step + 1, values)
      profile(step + 1)
      evaluation = None
    saved.wait()
  return result.summarize(
    experiment, workdir, evaluation, throughput, best.result()
  )


def _due(step, every):
  return every > 0 and step % every == 0


def _profile(run, workdir, first, last):
  """Returns a hook, called after each update, that profiles some of them."""
  begin = min(first + 10, last - run.profile_steps)
  end = begin + run.profile_steps
  if not run.profile_steps or begin <= first or jax.process_index():
    return lambda step: None

  def hook(step):
    if step == begin:
      jax.profiler.start_trace(str(workdir))
    if step == end:
      jax.profiler.stop_trace()

  return hook


def _evaluate(experiment, state, stop=lambda: False):
  """Returns validation metrics and eval/seconds, or None if `stop` aborts."""
  start = time.perf_counter()
  batches = pipeline.validation_batches(
    experiment.corpus,
    experiment.steps.task,
    experiment.config.run.eval_batch_size,
    *sharding.share(experiment.mesh),
    buckets=experiment.config.data.length_buckets,
  )
  values = evaluate.evaluate(experiment.steps, state, batches, stop)
  return values and values | {"eval/seconds": time.perf_counter() - start}


def evaluate_newest(experiment: Experiment, workdir, step: int | None = None):
  """Evaluates the newest checkpoint of a run, or that of a step.

  Returns:
    (completed updates, metrics).

  Raises:
    checkpoint.CheckpointError: if no checkpoint exists or can be read.
  """
  with checkpoint.Checkpoints(workdir, read_only=True) as saved:
    restored = saved.restore(experiment.steps.abstract_state, step)
  if restored is None:
    raise checkpoint.CheckpointError(f"{workdir} holds no checkpoint yet")
  state, _ = restored
  return int(state.step), _evaluate(experiment, state)


def describe(experiment: Experiment, workdir) -> str:
  """Returns a short description of the run."""
  config, corpus = experiment.config, experiment.corpus
  model = experiment.steps.model
  size = models.num_parameters(experiment.steps.abstract_state.params)
  kinds = collections.Counter(layer.describe() for layer in model.layers)
  kind = " and ".join(
    said if len(kinds) == 1 else f"{count} of {said}"
    for said, count in kinds.items()
  )
  rows = "rows of at most" if experiment.steps.task.short else "blocks of"
  # A data set of the user's may have nothing to remark.
  remark = getattr(corpus, "remark", "")
  return (
    f"{config.task.name}, {size:,} parameters: {model.num_layers} layers of "
    f"width {model.embed_dim}, {model.num_heads} heads, {kind}, n = "
    f"{model.max_length}, {model.dtype}\n"
    f"{len(corpus.train):,} training and {len(corpus.validation):,} validation "
    f"{rows} {config.data.sequence_length} tokens, from {corpus.directory}\n"
    f"{config.train.num_steps:,} updates of {config.train.batch_size} "
    f"sequences on {jax.device_count()} {jax.devices()[0].device_kind} "
    f"device(s), into {workdir}" + (f"\n{remark}" if remark else "")
  )
