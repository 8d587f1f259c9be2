"""Evaluates a whole split in one pass, with exact metrics."""

import collections

import jax


def evaluate(
  steps, state, batches, stop=lambda: False
) -> dict[str, float] | None:
  """Evaluates the state on every batch.

  Args:
    steps: as returned by `step.build_steps`.
    state: a TrainState.
    batches: as returned by `data.pipeline.validation_batches`; every process
      has the same number, and padding rows have weight 0.
    stop: called before every batch; True aborts the evaluation.

  Returns:
    The task's metrics over the whole split, prefixed by 'eval/', and
    eval/targets, the sum of weights; None if aborted.

  Raises:
    ValueError: if there is no batch.
  """
  total = collections.Counter()
  pending = None  # fetched one batch late, so the device is never idle

  def add(sums):
    for name, value in jax.device_get(sums).items():
      total[name] += float(value)

  for batch in batches:
    if stop():
      return None
    sums = steps.evaluate(state, steps.place(batch))
    if pending is not None:
      add(pending)
    pending = sums
  if pending is None:
    raise ValueError("the validation split has no batch")
  add(pending)
  values = steps.task.metrics(total) | {"targets": total["weight"]}
  return {f"eval/{name}": value for name, value in values.items()}
