"""Writes images as sequences of gray levels, row by row.

  .venv/bin/python -m experiments.lra.pixels --images=cifar10 --to=runs/cifar10
  .venv/bin/pip install scikit-learn
  .venv/bin/python -m experiments.lra.pixels --images=digits --to=runs/digits
  .venv/bin/python -m experiments.lra.pixels --images=pathfinder \
    --released=pathfinder32/curv_contour_length_14 --to=runs/pathfinder

cifar10 comes from TensorFlow Datasets, 32 x 32 pixels, in gray (ITU-R 601, as
the Long Range Arena has it), levels 0 to 255. digits are the 8 x 8 digits of
scikit-learn, levels 0 to 16, for a quick look; the last fifth of them is the
test split. Validation is the last tenth of the training images. pathfinder
reads a folder of the Arena's release, 32 x 32 gray images that show whether one
path joins two dots: metadata/*.npy, lines of text, and the images they name;
they are shuffled by --seed, and a tenth each validates and tests. Writes
train.jsonl, valid.jsonl, test.jsonl and tokenizer.json.
"""

import argparse
import json
import pathlib
import random
import sys
from collections.abc import Iterator

import numpy as np
import PIL.Image

from experiments.lra import words as words_lib
from linformer_jax.run import report

_GRAY = np.array([0.2989, 0.587, 0.114])
LEVELS = {"digits": 17, "cifar10": 256, "pathfinder": 256}


def gray(images: np.ndarray) -> np.ndarray:
  """Returns the gray levels [..., H, W] of colors [..., H, W, 3]."""
  return np.rint(images @ _GRAY).astype(int)


def _digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
  import sklearn.datasets

  found = sklearn.datasets.load_digits()
  images, labels = found.images.astype(int), found.target
  cut = len(images) * 4 // 5
  return {
    "train": (images[:cut], labels[:cut]),
    "test": (images[cut:], labels[cut:]),
  }


def _cifar10(data_dir: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  import tensorflow_datasets as tfds

  found = {}
  for split in ("train", "test"):
    rows = tfds.load("cifar10", split=split, data_dir=data_dir or None)
    rows = list(tfds.as_numpy(rows))
    colors = np.stack([row["image"] for row in rows])
    found[split] = gray(colors), np.array([row["label"] for row in rows])
  return found


def listed(folder: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
  """Returns the images that a release of Pathfinder lists, and their labels.

  Raises:
    ValueError: in one line, if there are none, or a line is malformed.
  """
  found = []
  for path in sorted(folder.glob("metadata/*.npy"), key=lambda p: int(p.stem)):
    for i, line in enumerate(path.read_text().splitlines()):
      match line.split():
        case [inside, name, _, ("0" | "1") as label, *_]:
          found.append((folder / inside / name, int(label)))
        case _:
          raise ValueError(
            f"{path}, line {i + 1}: not a folder, an image, a number and 0 or 1"
          )
  if not found:
    raise ValueError(f"{folder} has no metadata/*.npy that list images")
  return found


def _pathfinder(folder: pathlib.Path, seed: int):
  rows = listed(folder)
  random.Random(seed).shuffle(rows)
  images = np.stack([
    np.asarray(PIL.Image.open(path).convert("L"))
    for path, _ in words_lib.told(rows, len(rows), "images")
  ])  # fmt: skip
  labels = np.array([label for _, label in rows])
  cut = len(rows) * 9 // 10  # of which `write` takes a ninth to validate
  return {
    "train": (images[:cut], labels[:cut]),
    "test": (images[cut:], labels[cut:]),
  }


def lines(images: np.ndarray, labels: np.ndarray) -> Iterator[str]:
  """Yields a line of JSON for each image [H, W] of whole levels."""
  for image, label in zip(images, labels, strict=True):
    text = " ".join(map(str, image.ravel()))
    yield json.dumps({"text": text, "label": int(label)})


def write(folder: pathlib.Path, splits: dict, levels: int, share: int = 10):
  """Writes the splits, with 1/`share` of training cut off to validate."""
  folder.mkdir(parents=True, exist_ok=True)
  images, labels = splits["train"]
  cut = len(images) * (share - 1) // share
  splits = splits | {
    "train": (images[:cut], labels[:cut]),
    "valid": (images[cut:], labels[cut:]),
  }
  for split, (images, labels) in splits.items():
    text = "".join(line + "\n" for line in lines(images, labels))
    (folder / f"{split}.jsonl").write_text(text)
  words = map(str, range(levels))
  words_lib.tokenizer(words).save(str(folder / "tokenizer.json"))
  sizes = ", ".join(f"{len(x):,} {name}" for name, (x, _) in splits.items())
  report.say(f"{sizes} images in {folder}")


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--images", required=True, choices=LEVELS)
  parser.add_argument("--to", required=True, help="the folder to write")
  parser.add_argument("--data_dir", default="", help="of TensorFlow Datasets")
  parser.add_argument(
    "--released", type=pathlib.Path, help="folder of pathfinder's images"
  )
  parser.add_argument("--seed", type=int, default=0, help="of their order")
  given = parser.parse_args(words)
  folder, share = pathlib.Path(given.to), 10
  if given.images == "pathfinder":
    if not given.released:
      parser.error("--images=pathfinder needs --released=FOLDER")
    try:
      splits, share = _pathfinder(given.released, given.seed), 9
    except (ValueError, OSError) as error:
      parser.error(str(error))
  elif given.images == "digits":
    splits = _digits()
  else:
    splits = _cifar10(given.data_dir)
  write(folder, splits, LEVELS[given.images], share)
  return 0


if __name__ == "__main__":
  sys.exit(main())
