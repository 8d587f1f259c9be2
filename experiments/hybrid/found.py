"""What was measured of the stacks, with means over seeds and intervals."""

import pathlib

import numpy as np

from experiments import documents, grid
from experiments.hybrid import measure, time
from experiments.hybrid.measure import Item


class Found:
  """What was measured, with the means over seeds."""

  def __init__(
    self,
    path: pathlib.Path = measure.RESULTS,
    times: pathlib.Path = time.RESULTS,
  ):
    self.records = grid.records(path, Item)
    self.times = grid.records(times, time.Item)

  def of(self, tokens, n, model, step=measure.UPDATES, span=1) -> dict:
    """Returns the records by seed."""
    items = {
      seed: Item(tokens, n, model, seed, step, span=span)
      for seed in measure.SEEDS
    }
    return {
      seed: self.records[item]
      for seed, item in items.items()
      if item in self.records
    }

  def sums(self, *where, seeds=None, **more):
    """Returns the mean sums of each document over seeds."""
    found = self.of(*where, **more)
    return np.mean([found[s]["documents"] for s in seeds or found], 0)

  def gap(self, tokens, n, model, step=measure.UPDATES, span=1, base="softmax"):
    """Returns nats above another model's with their interval, or None.

    Over the seeds that both have; the interval covers documents alone.
    """
    both = sorted(
      self.of(tokens, n, model, step, span).keys()
      & self.of(tokens, n, base, step, span).keys()
    )
    if not both:
      return None
    own, other = (
      self.sums(tokens, n, name, step, span, seeds=both)
      for name in (model, base)
    )
    return documents.interval(own, other)
