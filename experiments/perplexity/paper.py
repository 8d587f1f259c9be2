"""The gaps of the paper's Figure 3, digitized from its plots."""

import csv
import functools
import math
import pathlib

import numpy as np

from experiments.perplexity import panels

TABLE = pathlib.Path(__file__).parent / "paper_figure3.csv"
# Errors of reading a perplexity off the plots, by panel.
ERRORS = {"a": 0.05, "b": 0.05, "c": 0.02, "d": 0.05}


@functools.cache
def _curves() -> dict[tuple, list[tuple[int, float]]]:
  """Returns {(panel, attention, n, k, sharing): [(updates, perplexity)]}."""
  found = {}
  with TABLE.open() as file:
    for row in csv.DictReader(line for line in file if line[0] != "#"):
      k = int(row["k"] or 0)
      key = (row["panel"], row["attention"], int(row["n"]), k, row["sharing"])
      point = int(row["updates"]), float(row["perplexity"])
      found.setdefault(key, []).append(point)
  return found


def _keys(panel: str, point):
  """Returns the keys of the paper's curve for a point and of its baseline.

  Panels a and b match by k / n, c by the sharing (its softmax curve is panel
  a's), and d by the ratio of n to the shortest n.
  """
  points = panels.PANELS[panel].points
  sizes = dict(pair.split("=") for pair in point.argument.split(","))
  n, k = int(sizes["n"]), int(sizes["k"])
  if point is points[0]:
    return None
  if panel in "ab":
    length = {"a": 512, "b": 1024}[panel]
    key = (panel, "linformer", length, length * k // n, "")
    return key, (panel, "softmax", length, 0, "")
  if panel == "c":
    sharing = sizes.get("sharing", "none")
    return (panel, "linformer", 512, 0, sharing), ("a", "softmax", 512, 0, "")
  if panel == "d":  # k / n matches too.
    key = (panel, "linformer", 256 * n // k, 256, "")
    return key, (panel, "linformer", 512, 256, "")
  return None


def final_gap(panel: str, point) -> tuple[float, float] | None:
  """Returns the gap of a point to its baseline where the paper's curve ends.

  Returns:
    (nats, error of reading both curves), or None if the paper has no curve.
  """
  keys = _keys(panel, point)
  if keys is None or keys[0] not in _curves():
    return None
  curve, base = (np.array(_curves()[key]).T for key in keys)
  ends = curve[1, -1], np.interp(curve[0, -1], *base)
  errors = (ERRORS[key[0]] / end for key, end in zip(keys, ends, strict=True))
  return math.log(ends[0] / ends[1]), math.hypot(*errors)


def final_ratio(panel: str, point) -> float | None:
  """Returns the ratio of perplexities with the gap `final_gap`, or None."""
  gap = final_gap(panel, point)
  return math.exp(gap[0]) if gap else None
