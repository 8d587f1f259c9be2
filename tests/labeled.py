"""Small files of labeled texts, whose labels can be told from a word."""

import csv
import gzip
import io
import json
import random

LABELS = ("animal", "plant", "stone")
_WORDS = {"animal": "dog cat bird", "plant": "oak fern moss", "stone": "flint"}
_OTHERS = ("one", "two", "three", "four")


def write(path, rows=240, seed=0, pair=False):
  """Writes JSON lines of `text`, `label` and perhaps `text_pair`; the path."""
  draw = random.Random(seed)
  with path.open("w") as file:
    for _ in range(rows):
      label = draw.choice(LABELS)
      words = draw.choices(
        ["one", "two", "three", "four"], k=draw.randint(1, 9)
      )
      words.insert(
        draw.randint(0, len(words)), draw.choice(_WORDS[label].split())
      )
      row = {"text": " ".join(words), "label": label}
      if pair:
        row["text_pair"] = " ".join(draw.choices(["five", "six"], k=4))
      file.write(json.dumps(row) + "\n")
  return path


def save(path, rows):
  """Writes dicts as JSON lines, CSV or TSV, by the path's name; the path."""
  name = path.name.lower().removesuffix(".gz")
  if name.endswith((".csv", ".tsv")):
    text = io.StringIO(newline="")
    delimiter = "\t" if name.endswith(".tsv") else ","
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
  else:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  return path
