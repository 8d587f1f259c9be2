"""The paper's Figure 3 as ratios, digitized from its plots."""

import csv
import functools
import pathlib

import numpy as np

from experiments.perplexity import panels

TABLE = pathlib.Path(__file__).parent / "paper_figure3.csv"
UPDATES = 250_000  # in a whole run


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


def ratios(panel: str, point) -> list[tuple[float, float]]:
  """Returns the paper's curve for a point, relative to its baseline.

  Returns:
    (share of `UPDATES`, ratio of perplexities); [] if the paper has none.
  """
  keys = _keys(panel, point)
  if keys is None or keys[0] not in _curves():
    return []
  base = np.array(_curves()[keys[1]])
  return [
    (updates / UPDATES, perplexity / np.interp(updates, *base.T))
    for updates, perplexity in _curves()[keys[0]]
  ]


def label(panel: str, point) -> str:
  """Returns the label of the paper's curve for a point."""
  _, _, n, k, sharing = _keys(panel, point)[0]
  return f"the paper's n = {n:,}, {sharing.replace('_', '-') or f'k = {k}'}"


def final_ratio(panel: str, point) -> float | None:
  """Returns the last ratio of `ratios`, or None."""
  found = ratios(panel, point)
  return found[-1][1] if found else None
