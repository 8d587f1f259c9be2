"""Draws Pathfinder: images with two dots, which one path joins or does not.

  .venv/bin/python -m experiments.lra.pathfinder --to=runs/paths --count=2000
  .venv/bin/python -m experiments.lra.pixels --images=pathfinder \\
    --released=runs/paths --to=runs/lra/pathfinder

Linsley et al. 2018 (arXiv 1805.08315) and Kim et al. 2020 drew the images of
the Long Range Arena by a program of their own; this one is ours, after the
Arena's sizes: 32 x 32 gray pixels, two dashed paths of 14 dashes, dots of
radius 1.5 at both ends of one of them or at an end of each, and distractors of
4 dashes. A dash turns from the last one by a normal angle; no path touches
another. Half of the labels are 1. So accuracies are those of another draw of
the task, not of the release. Writes the layout of the release: metadata/0.npy,
lines of text, and the images they name. The same seed draws the same images;
2,000 take minutes, the default hours.
"""

import argparse
import dataclasses
import math
import pathlib
import random
import sys

import PIL.Image
import PIL.ImageDraw

from experiments.lra import words as words_lib
from linformer_jax.run import report

_SCALE = 4  # drawn so much larger, then reduced
_TRIES = 60  # of a path, before the image is begun anew


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How an image is drawn; lengths are in pixels.

  Attributes:
    size: width and height.
    dashes: of each of the two long paths.
    short: dashes of a distractor.
    distractors: how many there are.
    dash, gap: lengths of a dash and between two.
    turn: standard deviation of the angle between dashes, in radians.
    apart: the least distance of two paths.
    radius: of a dot.
  """

  size: int = 32
  dashes: int = 14
  short: int = 4
  distractors: int = 5
  dash: float = 2.0
  gap: float = 1.0
  turn: float = 0.5
  apart: float = 2.0
  radius: float = 1.5


class Taken:
  """What is too near to a path, in quarters of a pixel."""

  def __init__(self, recipe: Recipe):
    self._side, self._reach = recipe.size * _SCALE, recipe.apart * _SCALE
    self._cells = bytearray(self._side**2)

  def __contains__(self, point: tuple[float, float]) -> bool:
    """Returns whether a point inside the image is too near."""
    x, y = (int(_SCALE * value) for value in point)
    return bool(self._cells[y * self._side + x])

  def add(self, points):
    """Takes the surroundings of points."""
    reach, side = math.ceil(self._reach), self._side
    for point in points:
      x, y = (_SCALE * value for value in point)
      for j in range(max(0, int(y) - reach), min(side, int(y) + reach + 2)):
        for i in range(max(0, int(x) - reach), min(side, int(x) + reach + 2)):
          if math.hypot(i + 0.5 - x, j + 0.5 - y) < self._reach:
            self._cells[j * side + i] = 1


def draw_path(rng: random.Random, recipe: Recipe, dashes: int, taken: Taken):
  """Returns the dashes of a path, or None if it leaves the image or touches.

  Args:
    rng: of the draws.
    recipe: lengths.
    dashes: how many.
    taken: the surroundings of other paths.

  Returns:
    [((x, y) of the start, (x, y) of the end)].
  """
  edge = recipe.radius
  x, y = (rng.uniform(edge, recipe.size - edge) for _ in range(2))
  angle, found, own = rng.uniform(0, 2 * math.pi), [], []
  for _ in range(dashes):
    cos, sin = math.cos(angle), math.sin(angle)
    end = x + recipe.dash * cos, y + recipe.dash * sin
    here = [(x, y), ((x + end[0]) / 2, (y + end[1]) / 2), end]
    far = recipe.size - edge
    for point in here:
      if not (edge <= point[0] <= far and edge <= point[1] <= far):
        return None
      if point in taken:
        return None
      # Its own last dash is near, and no earlier one may be.
      if any(math.dist(point, other) < recipe.apart for other in own[:-3]):
        return None
    found.append(((x, y), end))
    own += here
    angle += rng.gauss(0, recipe.turn)
    x = end[0] + recipe.gap * math.cos(angle)
    y = end[1] + recipe.gap * math.sin(angle)
  return found


def points_of(path) -> list[tuple[float, float]]:
  """Returns starts, middles and ends of dashes."""
  return [
    (start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t)
    for start, end in path
    for t in (0, 0.5, 1)
  ]


def draw_paths(rng: random.Random, recipe: Recipe) -> list:
  """Returns two long paths, then the distractors; no two touch."""
  while True:
    paths, taken = [], Taken(recipe)
    lengths = [recipe.dashes] * 2 + [recipe.short] * recipe.distractors
    for length in lengths:
      # A long path in what is left is rarer than a short one.
      for _ in range(_TRIES * length):
        path = draw_path(rng, recipe, length, taken)
        if path:
          break
      else:
        break
      paths.append(path)
      taken.add(points_of(path))
    else:
      return paths


def image(rng: random.Random, recipe: Recipe, label: int) -> PIL.Image.Image:
  """Returns a gray image whose dots are on one path if the label is 1."""
  paths = draw_paths(rng, recipe)
  side = recipe.size * _SCALE
  large = PIL.Image.new("L", (side, side))
  pen = PIL.ImageDraw.Draw(large)
  for path in paths:
    for dash in path:
      ends = [tuple(_SCALE * value for value in point) for point in dash]
      pen.line(ends, fill=255, width=_SCALE // 2)
  first, second = paths[:2]
  other = first if label else second
  for x, y in (first[0][0], other[-1][1]):
    box = [_SCALE * (v + s * recipe.radius) for s in (-1, 1) for v in (x, y)]
    pen.ellipse(box, fill=255)
  return large.resize((recipe.size, recipe.size), PIL.Image.Resampling.BOX)


def write(folder: pathlib.Path, count: int, recipe: Recipe, seed: int = 0):
  """Writes images and the list of them, in the layout of the release."""
  (folder / "imgs" / "0").mkdir(parents=True, exist_ok=True)
  (folder / "metadata").mkdir(exist_ok=True)
  rng, lines = random.Random(seed), []
  for i in words_lib.told(range(count), count, "images"):
    label = rng.randrange(2)
    name = f"sample_{i}.png"
    image(rng, recipe, label).save(folder / "imgs" / "0" / name)
    lines.append(f"imgs/0 {name} {i} {label}\n")
  (folder / "metadata" / "0.npy").write_text("".join(lines))
  report.say(f"{count:,} images in {folder}")


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--to", required=True, help="the folder to write")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--count", type=int, default=words_lib.PATHS)
  for name in ("dashes", "distractors"):
    parser.add_argument(f"--{name}", type=int, default=getattr(Recipe, name))
  given = parser.parse_args(words)
  if given.count < 1 or given.dashes < 2 or given.distractors < 0:
    parser.error("--count, --dashes or --distractors is too small")
  recipe = Recipe(dashes=given.dashes, distractors=given.distractors)
  write(pathlib.Path(given.to), given.count, recipe, given.seed)
  return 0


if __name__ == "__main__":
  sys.exit(main())
