"""Writes the released document pairs of the Long Range Arena as JSON lines.

  .venv/bin/python -m experiments.lra.retrieval --released=FOLDER \\
    --to=runs/lra/retrieval

FOLDER holds new_aan_pairs.train.tsv, new_aan_pairs.eval.tsv and
new_aan_pairs.test.tsv of the Arena's release: whether one of two papers of the
ACL Anthology Network cites the other. A line is a label, two ids and two texts,
separated by tabs and never quoted. Writes train.jsonl, valid.jsonl and
test.jsonl with `text`, `text_pair` and `label`, in the order of the release.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator

from linformer_jax.run import report

SPLITS = {"train": "train", "valid": "eval", "test": "test"}


def pairs(path: pathlib.Path) -> Iterator[dict[str, str | int]]:
  """Yields the rows of a file.

  Raises:
    ValueError: in one line, for a line of another form.
  """
  with path.open(encoding="utf-8", newline="\n") as file:
    for i, line in enumerate(file):
      label, *cells = line.rstrip("\n").split("\t")
      if len(cells) != 4 or label not in ("0.0", "1.0", "0", "1"):
        raise ValueError(
          f"{path}, line {i + 1}: not a label 0.0 or 1.0, two ids and two texts"
        )
      *_, text, pair = cells
      yield {"text": text, "text_pair": pair, "label": int(float(label))}


def write(released: pathlib.Path, folder: pathlib.Path):
  """Writes a file for each split.

  Raises:
    ValueError: in one line, for a file that is missing or malformed.
  """
  sources = {
    split: released / f"new_aan_pairs.{name}.tsv"
    for split, name in SPLITS.items()
  }
  for path in sources.values():
    if not path.exists():
      raise ValueError(f"{path} is missing: --released names its folder")
  folder.mkdir(parents=True, exist_ok=True)
  for split, path in sources.items():
    count = 0
    with (folder / f"{split}.jsonl").open("w") as file:
      for row in pairs(path):
        file.write(json.dumps(row) + "\n")
        count += 1
    report.say(f"{count:,} pairs in {folder / split}.jsonl")


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--released", required=True, type=pathlib.Path)
  parser.add_argument("--to", required=True, help="the folder to write")
  given = parser.parse_args(words)
  try:
    write(given.released, pathlib.Path(given.to))
  except ValueError as error:
    parser.error(str(error))
  return 0


if __name__ == "__main__":
  sys.exit(main())
