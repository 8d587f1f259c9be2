"""Writes images as sequences of gray levels, row by row.

  .venv/bin/python -m experiments.lra.pixels --images=cifar10 --to=runs/cifar10
  .venv/bin/pip install scikit-learn
  .venv/bin/python -m experiments.lra.pixels --images=digits --to=runs/digits

cifar10 comes from TensorFlow Datasets, 32 x 32 pixels, in gray (ITU-R 601, as
the Long Range Arena has it), levels 0 to 255. digits are the 8 x 8 digits of
scikit-learn, levels 0 to 16, for a quick look; the last fifth of them is the
test split. Validation is the last tenth of the training images. Writes
train.jsonl, valid.jsonl, test.jsonl and tokenizer.json.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from experiments.lra import words as words_lib
from linformer_jax.run import report

_GRAY = np.array([0.2989, 0.587, 0.114])
LEVELS = {"digits": 17, "cifar10": 256}


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


def lines(images: np.ndarray, labels: np.ndarray) -> Iterator[str]:
  """Yields a line of JSON for each image [H, W] of whole levels."""
  for image, label in zip(images, labels, strict=True):
    text = " ".join(map(str, image.ravel()))
    yield json.dumps({"text": text, "label": int(label)})


def write(folder: pathlib.Path, splits: dict, levels: int):
  """Writes the splits, with validation cut off from training."""
  folder.mkdir(parents=True, exist_ok=True)
  images, labels = splits["train"]
  cut = len(images) * 9 // 10
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
  given = parser.parse_args(words)
  digits = given.images == "digits"
  splits = _digits() if digits else _cifar10(given.data_dir)
  write(pathlib.Path(given.to), splits, LEVELS[given.images])
  return 0


if __name__ == "__main__":
  sys.exit(main())
