"""The grid of settings, one for each line of the results."""

import dataclasses

from experiments.theorems import bounds, minilm

CHECKS = ("theorem1", "theorem2", "practice", "best_rank")
LENGTHS = (128, 512, 2048)
VALUES = ("zero_mean", "mean_one")
SOURCES = ("gaussian", "low_rank", "smooth")
MINILM = tuple(f"minilm_layer_{layer}" for layer in minilm.LAYERS)
DELTAS = (0.0, 1e-2, 1e-1, 1.0, 3.0)  # and 1/n


@dataclasses.dataclass(frozen=True)
class Setting:
  """One line.

  Attributes:
    check: one of `CHECKS`.
    n: the sequence length; k: the projected length; d: the dimension of queries
      and keys, which is the rank of scores.
    values: the source of V: N(0, 1) or N(1, 1) entries for the theorems, a
      source of sequences in practice; a layer of MiniLM for its Q, K and V.
    scale: the factor on the scores Q K^T / sqrt(d), which have variance 1.
    delta: the delta in E = delta R, F = exp(-delta) R; None if it is not used.
    seeds: the number of draws of R and of the input; in practice, the number of
      random initial E and F; of best_rank, the number of P.
  """

  check: str
  n: int
  d: int
  k: int
  values: str
  scale: float = 1.0
  delta: float | None = None
  seeds: int = 1000


def projected(n: int) -> list[int]:
  """Returns theorem 1's k for each epsilon, n/8, n/4, n/2; more at n = 512."""
  theorem = [bounds.theorem_k(n, epsilon) for epsilon in bounds.EPSILONS]
  small = [n // 64, n // 32, n // 16] if n == 512 else []
  return sorted({*small, n // 8, n // 4, n // 2, *theorem})


def seeds_of(n: int) -> int:
  """Returns the number of draws for a length."""
  return {128: 1000, 512: 500, 2048: 100}[n]


def _theorem1():
  for n in LENGTHS:
    for d in (16, 64) if n < 2048 else (64,):
      for values in VALUES:
        for k in projected(n):
          yield Setting("theorem1", n, d, k, values, seeds=seeds_of(n))
  for values in VALUES:  # Attention concentrated on few positions.
    for k in (128, bounds.theorem_k(512, 0.5)):
      yield Setting("theorem1", 512, 64, k, values, scale=4.0)


def _theorem2():
  for n in LENGTHS:
    k = bounds.theorem_k(n, 0.5)
    for values in VALUES:
      for delta in sorted({*DELTAS, 1 / n}):
        yield Setting(
          "theorem2", n, 64, k, values, delta=delta, seeds=seeds_of(n)
        )


def _practice():
  for n, scale in ((128, 4.0), (512, 1.0)):
    for source in SOURCES:
      for k in (n // 8, n // 4, n // 2):
        yield Setting("practice", n, 64, k, source, scale, delta=1 / n, seeds=1)


def _best_rank():
  for n, seeds in ((512, 20), (2048, 2)):
    for values in VALUES:
      ks = projected(n)
      if n > 512:
        ks = [bounds.theorem_k(n, epsilon) for epsilon in bounds.EPSILONS]
      for k in ks:
        if k < n:
          yield Setting("best_rank", n, 64, k, values, seeds=seeds)
  for values in VALUES:
    k = bounds.theorem_k(512, 0.5)
    yield Setting("best_rank", 512, 64, k, values, scale=4.0, seeds=20)


def _minilm():
  n, d, k = 512, 32, bounds.theorem_k(512, 0.5)
  for values in MINILM:
    for rank in (8, 16, 32, 64, 128, k):
      yield Setting("theorem1", n, d, rank, values, seeds=seeds_of(n))
      yield Setting("best_rank", n, d, rank, values, seeds=48)
    yield Setting("theorem2", n, d, k, values, delta=1 / n, seeds=seeds_of(n))
    for rank in (n // 8, n // 4, n // 2):
      yield Setting("practice", n, d, rank, values, delta=1 / n, seeds=1)


def every_setting() -> list[Setting]:
  """Returns all settings; those of MiniLM, which need its weights, are last."""
  return [
    *_theorem1(),
    *_theorem2(),
    *_practice(),
    *_best_rank(),
    *_minilm(),
  ]
