"""The figure of the checks of theorems 1 and 2."""

import pathlib

import matplotlib
import numpy as np
from matplotlib import figure as figure_lib

from experiments.theorems import bounds, draws, settings

FIGURE = pathlib.Path(__file__).parent / "results" / "theorems.png"
_N = 512
_EPSILON = 0.5
_WHICH = bounds.EPSILONS.index(_EPSILON)
# A rate of 0 in 500 draws is drawn at 1 in 1,000.
_FLOOR = 1e-3
_GAP = 0.052  # between the labels at the ends of lines, of an axis
_SHADES = [matplotlib.colormaps["viridis"](x) for x in (0.0, 0.27, 0.53, 0.8)]
_METHODS = {  # name: color, style, label
  "construction": (_SHADES[0], "-o", "construction, δ = 1/n"),
  "plain": (_SHADES[1], "-s", "P RᵀR V"),
  "mean": ("0.6", "--", "mean of V"),
  "mean_pool": (_SHADES[2], "--v", "mean pool"),
  "fitted": (_SHADES[2], ":D", "fitted, random start"),
  "fitted_pool": (_SHADES[3], "-D", "fitted from mean pool"),
  "best_rank": ("k", "-x", "best rank k"),
}


def by_delta(found: dict, n: int, values: str) -> list[dict]:
  """Returns theorem 2's records at theorem 1's k for eps = 0.5, by delta."""
  k = bounds.theorem_k(n, _EPSILON)
  records = [
    record
    for s, record in found.items()
    if (s.check, s.n, s.k, s.values) == ("theorem2", n, k, values)
  ]
  return sorted(records, key=lambda record: record["delta"])


def by_k(found: dict, values: str, check: str = "theorem1") -> list[dict]:
  """Returns a check's records at n = 512, scale 1, by k; Gaussian at d = 64."""
  d = 32 if values in settings.MINILM else 64
  records = [
    record
    for s, record in found.items()
    if (s.check, s.n, s.d, s.values, s.scale) == (check, _N, d, values, 1.0)
  ]
  return sorted(records, key=lambda record: record["k"])


def _quantile(records, name, which=0.5):
  which = draws.QUANTILES.index(which)
  return [x["quantiles"][name][which] for x in records]


def _ends(axes, x, labels):
  """Writes labels (y, text, color) to the right of x, apart from each other."""
  transform = axes.transData + axes.transAxes.inverted()
  heights = [transform.transform((x, y))[1] for y, _, _ in labels]
  order = np.argsort(heights)
  steps = _GAP * np.arange(len(order))
  spread = np.maximum.accumulate(np.sort(heights) - steps) + steps
  spread -= max(0, spread[-1] - 0.98)
  for i, height in zip(order, spread, strict=True):
    _, text, color = labels[i]
    axes.annotate(
      text,
      (x, height),
      (6, 0),
      xycoords=("data", "axes fraction"),
      textcoords="offset points",
      va="center",
      fontsize=8,
      color=color,
    )


def _failures(axes, found):
  lines = [  # values, statistic, color, style, label, its place
    ("zero_mean", "printed", _SHADES[0], "-o", "printed, w mean 0", (24, 1.2)),
    ("zero_mean", "worst_row", _SHADES[1], "-s", "any row", (42, 0.27)),
    ("mean_one", "printed", _SHADES[2], "-v", "printed,\nw mean 1", (15, 0.18)),
    ("zero_mean", "supported", _SHADES[3], "-^", "‖P‖_F ‖w‖", (7.6, 0.003)),
  ]
  for values, name, color, style, label, place in lines:
    records = by_k(found, values)
    rates = [
      max(_FLOOR, x["failures"][name][_WHICH] / x["seeds"]) for x in records
    ]
    ks = [x["k"] for x in records]
    axes.plot(ks, rates, style, color=color, markersize=4)
    axes.annotate(label, place, fontsize=8, color=color)
  records = by_k(found, "zero_mean", "best_rank")
  rates = [
    max(_FLOOR, x["failures"]["printed"][_WHICH] / x["seeds"] / x["d"])
    for x in records
  ]
  axes.plot([x["k"] for x in records], rates, "k-x", markersize=5)
  axes.annotate("best rank k,\nprinted, w mean 0", (80, 0.25), fontsize=8)
  ks = np.geomspace(8, 700, 200)
  axes.plot(ks, [bounds.union(_EPSILON, k, _N) for k in ks], "--", color="0.5")
  axes.annotate("union bound", (390, 0.02), fontsize=8, color="0.4")
  axes.axvline(bounds.theorem_k(_N, _EPSILON), color="0.7", zorder=0)
  axes.annotate(
    "theorem's k", (240, 0.004), ha="right", fontsize=8, color="0.4"
  )
  axes.set(
    yscale="log",
    ylim=(_FLOOR, 2),
    xlim=(7, 1300),
    ylabel="share of draws",
    title=f"Theorem 1, Gaussian: share of draws over ε = {_EPSILON}, n = {_N}",
    xlabel=f"k (bottom edge: none of {by_k(found, 'mean_one')[0]['seeds']})",
  )


def _errors(axes, found):
  axes.set(
    yscale="log",
    xlim=(7, 4500),
    ylim=(0.005, 20),
    xlabel="k",
    ylabel="relative error",
    title=f"Theorem 1, Gaussian: 5%, median, 95% of the error, n = {_N}",
  )
  lines = [  # check, values, statistic, color, style, label
    ("theorem1", "zero_mean", "printed", _SHADES[0], "-o", "printed, w mean 0"),
    ("theorem1", "mean_one", "printed", _SHADES[2], "-v", "printed, w mean 1"),
    ("theorem1", "zero_mean", "supported", _SHADES[3], "-^", "‖P‖_F ‖w‖"),
    ("best_rank", "zero_mean", "printed", "k", "-x", ""),
    ("best_rank", "mean_one", "printed", "k", ":x", ""),
  ]
  labels = []
  for check, values, name, color, style, label in lines:
    records = by_k(found, values, check)
    ks, middle = [x["k"] for x in records], _quantile(records, name)
    axes.plot(ks, middle, style, color=color, markersize=4)
    if check == "theorem1":
      band = [_quantile(records, name, which) for which in (0.05, 0.95)]
      axes.fill_between(ks, *band, color=color, alpha=0.2, linewidth=0)
    if check == "theorem1":
      labels.append((middle[-1], label, color))
  _ends(axes, 680, labels)
  # From k = n on, the best rank k is P: these lines end before the others.
  axes.annotate("best rank k, w mean 0", (44, 0.62), fontsize=8)
  axes.annotate("best rank k, w mean 1", (290, 0.0092), fontsize=8)
  axes.axhline(_EPSILON, color="0.7", zorder=0)
  axes.annotate(f"ε = {_EPSILON}", (2800, 0.55), fontsize=8, color="0.4")


def _minilm(axes, found):
  axes.set(
    yscale="log",
    xlim=(7, 1200),
    ylim=(1e-4, 10),
    xlabel="k",
    ylabel="error / ‖Pw‖, median",
    title=f"Theorem 1, MiniLM-L6: P RᵀR and the best rank k, n = {_N}",
  )
  labels = []
  for i, values in enumerate(settings.MINILM):
    color, layer = _SHADES[(0, 2, 3)[i]], values.split("_")[-1]
    for check, style, what in (
      ("theorem1", "--o", "P RᵀR"),
      ("best_rank", "-x", "best"),
    ):
      records = by_k(found, values, check)
      middle = _quantile(records, "printed")
      ks = [x["k"] for x in records]
      axes.plot(ks, middle, style, color=color, markersize=4)
      labels.append((middle[-1], f"{what}, layer {layer}", color))
  _ends(axes, ks[-1], labels)
  axes.axhline(_EPSILON, color="0.7", zorder=0)
  axes.annotate(f"ε = {_EPSILON}", (700, 0.56), fontsize=8, color="0.4")


def _deltas(axes, found):
  records = by_delta(found, _N, "mean_one")
  k = records[0]["k"]
  axes.set(
    yscale="log",
    xlim=(4e-4, 200),
    ylim=(7e-4, 3),
    ylabel="relative error, or relative response",
    xlabel="δ (leftmost: 0, where the response is 0)",
    title=f"Theorem 2: error against δ, n = {_N}, k = {k}, mean of V 1",
  )
  # A logarithmic axis has no zero: the limit is drawn at its left end.
  xs = [max(x["delta"], 5e-4) for x in records]
  lines = [
    ("zero", "0.6", "-", "zero"),
    ("response", _SHADES[3], "-^", "response (1 is right)"),
  ]
  lines += [(name, *_METHODS[name]) for name in ("construction", "plain")]
  lines.append(("mean", *_METHODS["mean"]))
  labels = []
  for name, color, style, label in lines:
    # The response is zero at delta = 0.
    ys = [max(y, 1e-3) for y in _quantile(records, name)]
    axes.plot(xs, ys, style, color=color, markersize=4)
    labels.append((ys[-1], label.split(",")[0], color))
  best = [x for x in by_k(found, "mean_one", "best_rank") if x["k"] == k]
  (height,) = _quantile(best, "row")
  axes.plot(xs, [height] * len(xs), "k-x", markersize=4)
  _ends(axes, xs[-1], [*labels, (height, "best rank k", "k")])


def _practice(axes, found, values, title):
  records = by_k(found, values, "practice")
  ks = [x["k"] for x in records]
  axes.set(
    yscale="log",
    xlim=(58, 900),
    xlabel="k",
    ylabel="relative error",
    title=f"In practice, held out: {title}, n = {_N}",
  )
  labels = []
  for name, (color, style, label) in _METHODS.items():
    ys = [x["relative"][name] for x in records]
    axes.plot(ks, ys, style, color=color, markersize=4)
    labels.append((ys[-1], label, color))
  axes.set_xticks(ks, [str(k) for k in ks])
  axes.minorticks_off()
  _ends(axes, ks[-1], labels)


def draw(found: dict, path: pathlib.Path = FIGURE):
  """Draws failures and errors against k, against delta and in practice."""
  drawing = figure_lib.Figure(figsize=(12, 13), layout="constrained")
  middle = settings.MINILM[1]
  parts = (
    (_failures,),
    (_errors,),
    (_minilm,),
    (_deltas,),
    (_practice, "low_rank", "low rank"),
    (_practice, middle, "MiniLM-L6, layer " + middle.split("_")[-1]),
  )
  for axes, (part, *more) in zip(
    drawing.subplots(3, 2).flat, parts, strict=True
  ):
    axes.set_xscale("log")
    part(axes, found, *more)
    axes.grid(alpha=0.3)
    axes.title.set_fontsize(11)
  drawing.savefig(path, dpi=90)
