"""One pass over a whole split: sums in, exact means and perplexity out."""

import collections

import jax

from linformer_jax.parallel import sharding
from linformer_jax.run import metrics


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
    eval/loss, eval/perplexity = exp(sum of nll / sum of weights) over the whole
    split, eval/accuracy, and eval/targets, how many tokens were predicted; or
    None when broken off.

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
    sums = steps.evaluate(state, sharding.to_global(batch, steps.mesh))
    if pending is not None:
      add(pending)
    pending = sums
  if pending is None:
    raise ValueError("the validation split has no batch")
  add(pending)
  return metrics.means(total, "eval") | {"eval/targets": total["weight"]}
