"""The figure of the checks of theorems 1 and 2."""

import pathlib

import numpy as np

from experiments.theorems import bounds, draws, settings

FIGURE = pathlib.Path(__file__).parent / "results" / "theorems.png"
_N = 512
_EPSILON = 0.5
# A rate of 0 in 500 draws is drawn at 1 in 1,000.
_FLOOR = 1e-3


def by_delta(found: dict, n: int, values: str) -> list[dict]:
  """Returns theorem 2's records at theorem 1's k for eps = 0.5, by delta."""
  k = bounds.theorem_k(n, _EPSILON)
  records = [
    record
    for s, record in found.items()
    if (s.check, s.n, s.k, s.values) == ("theorem2", n, k, values)
  ]
  return sorted(records, key=lambda record: record["delta"])


def by_k(found: dict, values: str) -> list[dict]:
  """Returns theorem 1's records at n = 512, d = 64, by k."""
  records = [
    record
    for s, record in found.items()
    if (s.check, s.n, s.d, s.values, s.scale)
    == ("theorem1", _N, 64, values, 1.0)
  ]
  return sorted(records, key=lambda record: record["k"])


def _failures(axes, found):
  i = bounds.EPSILONS.index(_EPSILON)
  lines = [
    ("mean_one", "printed", "C1-o", "printed, mean of w 1"),
    ("zero_mean", "printed", "C3-o", "printed, mean of w 0"),
    ("zero_mean", "worst_row", "C2-s", "any row, mean of w 0"),
    ("zero_mean", "supported", "C0-^", "|P|_F |w|, mean of w 0"),
  ]
  for values, name, style, label in lines:
    records = by_k(found, values)
    rates = [max(_FLOOR, x["failures"][name][i] / x["seeds"]) for x in records]
    axes.plot(
      [x["k"] for x in records], rates, style, label=label, markersize=4
    )
  ks = np.geomspace(8, 700, 200)
  axes.plot(
    ks, [bounds.union(_EPSILON, k, _N) for k in ks], "k--", label="union bound"
  )
  axes.axvline(bounds.theorem_k(_N, _EPSILON), color="0.6", label="theorem's k")
  axes.set_yscale("log")
  axes.set_ylim(_FLOOR, 1.5)
  axes.set_ylabel("share of draws")
  axes.set_xlim(7, 4000)  # Leaves room for the legend.
  axes.set_title(f"Theorem 1: share of draws over ε = {_EPSILON}, n = {_N}")
  axes.set_xlabel(
    f"k (bottom edge: none of {by_k(found, 'mean_one')[0]['seeds']})"
  )


def _errors(axes, found):
  for values, colour in (("zero_mean", "C3"), ("mean_one", "C1")):
    records = by_k(found, values)
    ks = [x["k"] for x in records]
    for name, mark in (("printed", "o"), ("supported", "^")):
      low, middle, high = (
        [x["quantiles"][name][q] for x in records] for q in (0, 2, 4)
      )
      label = f"{name}, mean of w {settings.VALUES.index(values)}"
      axes.plot(ks, middle, f"{colour}{mark}", label=label, markersize=4)
      axes.fill_between(ks, low, high, color=colour, alpha=0.2)
  ks = np.geomspace(8, 700, 50)
  axes.plot(ks, ((_N + 1) / ks) ** 0.5, "k:", label="√((n + 1) / k)")
  axes.plot(ks, ks**-0.5, "k--", label="1 / √k")
  axes.axhline(_EPSILON, color="0.6")
  axes.set_yscale("log")
  axes.set_ylabel("relative error")
  axes.set_title(f"Theorem 1: 5%, median and 95% of the error, n = {_N}")
  axes.set_xlabel("k")


def _deltas(axes, found):
  records = by_delta(found, _N, "mean_one")
  # A logarithmic axis has no zero: the limit is drawn at its left end.
  xs = [max(x["delta"], 5e-4) for x in records]
  middle = draws.QUANTILES.index(0.5)
  lines = [
    ("construction", "C3-o", "construction"),
    ("zero", "k:", "zero"),
    ("mean", "C2--", "mean of V"),
    ("plain", "C0-s", "RᵀR"),
    ("response", "C4-^", "response to the input (1 is right)"),
  ]
  for name, style, label in lines:
    ys = [x["quantiles"][name][middle] for x in records]
    # The response is zero at delta = 0.
    ys = [max(y, 1e-3) for y in ys]
    axes.plot(xs, ys, style, label=label, markersize=4)
  axes.set_yscale("log")
  k = records[0]["k"]
  axes.set_title(f"Theorem 2: error against δ, n = {_N}, k = {k}, mean of V 1")
  axes.set_ylabel("relative error, or relative response")
  axes.set_xlabel("δ (leftmost: 0, where the response is 0)")


def _practice(axes, found):
  lines = [
    ("construction", "C3-o", "construction, δ = 1/n"),
    ("plain", "C0-s", "P RᵀR V"),
    ("mean", "C2--", "mean of V"),
    ("mean_pool", "C5-v", "mean pool, E = F"),
    ("fitted", "C1-D", "fitted E, F"),
  ]
  records = [
    record
    for s, record in found.items()
    if (s.check, s.n, s.values) == ("practice", _N, "low_rank")
  ]
  records.sort(key=lambda record: record["k"])
  for name, style, label in lines:
    ys = [x["relative"][name] for x in records]
    axes.plot([x["k"] for x in records], ys, style, label=label, markersize=4)
  axes.set_yscale("log")
  axes.set_ylabel("relative error")
  axes.set_title(f"In practice: held-out relative error, low rank, n = {_N}")
  axes.set_xlabel("k")


def draw(found: dict, path: pathlib.Path = FIGURE):
  """Draws failures and errors against k, against delta and in practice."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  panels, grid = plt.subplots(2, 2, figsize=(12, 9))
  parts = (_failures, _errors, _deltas, _practice)
  for axes, part in zip(grid.flat, parts, strict=True):
    axes.set_xscale("log")
    part(axes, found)
    axes.grid(alpha=0.3, which="both")
    place = "center right" if part is _failures else "best"
    axes.legend(fontsize=7, loc=place)
  panels.tight_layout()
  panels.savefig(path, dpi=90)
  plt.close(panels)
