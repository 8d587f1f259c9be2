"""Labeled texts of the fine-tuning experiment, in files of JSON lines.

The folder that --data names has TASK/train.jsonl.xz and TASK/test.jsonl.xz, and
perhaps TASK/validation.jsonl.xz, with `text`, `label` and, for pairs,
`text_pair`.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib

from linformer_jax.data.text import reading

SPLITS = ("train", "validation", "test")
_HELD = 500  # texts of the training split that validate, if there is no file


@dataclasses.dataclass(frozen=True)
class Task:
  """One data set.

  Attributes:
    label: its name.
    beside: the column of the paper's Table 2 that it stands for.
    epochs: of fine-tuning.
    rows: the most texts that train, validate and test.
    metric: 'accuracy', or 'f1' of label 1.
  """

  label: str
  beside: str
  epochs: int
  rows: tuple[int, int, int] = (10_000, 1_000, 4_000)
  metric: str = "accuracy"


TASKS = {
  "sst2": Task("SST-2, sentences", "SST-2", 3),
  "imdb": Task("IMDB, 4,000 reviews", "IMDB", 2, (4_000, 500, 2_000)),
  "trecqa": Task("TrecQA", "QNLI", 3, metric="f1"),
  "mrpc": Task("MRPC", "QQP", 3, metric="f1"),
}


def _read(path: pathlib.Path) -> list[dict]:
  return [value for value, _ in reading.json_values(str(path))]


def _key(row: dict) -> tuple[str, str]:
  return row["text"], row.get("text_pair", "")


def divide(name: str, folder: pathlib.Path) -> dict[str, list[dict]]:
  """Returns the rows of each split of a task.

  Texts that occur in an earlier split are dropped, and copies of a text.

  Args:
    name: a key of `TASKS`.
    folder: --data.
  """
  found = {
    split: _read(path)
    for split in SPLITS
    if (path := folder / name / f"{split}.jsonl.xz").exists()
  }
  if "validation" not in found:
    train = found["train"]
    found["train"], found["validation"] = train[:-_HELD], train[-_HELD:]
  seen, divided = set(), {}
  for split, most in zip(SPLITS, TASKS[name].rows, strict=True):
    rows = []
    for row in found[split]:
      if _key(row) not in seen:
        seen.add(_key(row))
        rows.append(row)
    divided[split] = list(itertools.islice(rows, most))
  return divided


def write(
  name: str, folder: pathlib.Path, to: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Writes the splits of a task unless they are there; returns their files."""
  files = {split: to / f"{name}-{split}.jsonl" for split in SPLITS}
  to.mkdir(parents=True, exist_ok=True)
  for split, rows in divide(name, folder).items():
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = files[split]
    if not (path.exists() and path.read_text() == text):
      path.write_text(text)
  return files


def rows(path: pathlib.Path) -> list[dict]:
  """Returns the rows of a file of `write`."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def digest(files: dict[str, pathlib.Path]) -> str:
  """Returns a SHA-256 of all splits."""
  whole = b"".join(files[split].read_bytes() for split in SPLITS)
  return hashlib.sha256(whole).hexdigest()
