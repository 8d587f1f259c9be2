"""One pass over a whole split: sums in, exact metrics out."""

import collections

import jax


def evaluate(
  steps, state, batches, stop=lambda: False
) -> dict[str, float] | None:
  """Evaluates the state on every batch.

  Args:
    steps: of `step.build_steps`.
    state: a TrainState.
    batches: of `data.pipeline.validation_batches`; every process gives the
      same number, and rows that only fill up a batch weigh nothing.
    stop: asked before every batch whether to break off.

  Returns:
    The metrics of the task over the whole split, 'eval/' before their names,
    with eval/targets, the sum of weights; or None when broken off.

  Raises:
    ValueError: for no batch at all.
  """
  total = collections.Counter()
  pending = None  # read one batch late, so that the device is never idle

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
