"""Divides text for experiments: a share of every source is held out.

  .venv/bin/python -m experiments.text --out=runs/text \
    imdb='imdb/*.jsonl.xz' brown='prose/brown.jsonl.xz'

Each argument names a source and the globs of its files (text, JSON lines with
`text`, Parquet). Documents of more than `PART` characters are divided, and
copies of a text are dropped. In each source the documents with the smallest
hashes are held out until they have `SHARE` of its bytes. Writes OUT/train and
OUT/valid, one file of JSON lines for each source, and OUT/manifest.json with
the SHA-256 of every file. Train on it with

  --config.data.source=files --config.data.files='runs/text/train/*.jsonl' \
  --config.data.validation_files='runs/text/valid/*.jsonl'
"""

import argparse
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator

from linformer_jax.data.text import manifest, reading

PART = 4_000  # characters
SHARE = 0.01
FOLDERS = ("train", "valid")
MANIFEST = "manifest.json"


def documents(paths: list[str]) -> Iterator[str]:
  """Yields distinct documents of at most `PART` characters."""
  seen = set()
  for path in paths:
    for text in reading.documents(path, "text"):
      for part in reading.divide(text, PART):
        key = hashlib.sha256(part.encode()).digest()
        if part.strip() and key not in seen:
          seen.add(key)
          yield part


def held_out(texts: list[str], share: float) -> set[int]:
  """Returns the indices of documents with the smallest hashes.

  Args:
    texts: the documents of one source.
    share: of their bytes to hold out, at least one document.
  """
  order = sorted(
    range(len(texts)), key=lambda i: hashlib.sha256(texts[i].encode()).digest()
  )
  left = share * sum(len(text.encode()) for text in texts)
  chosen = set()
  for i in order:
    if left <= 0:
      break
    chosen.add(i)
    left -= len(texts[i].encode())
  return chosen


def write(out: pathlib.Path, sources: dict[str, str], share: float) -> dict:
  """Writes the divided text; returns the manifest."""
  made = {"share": share, "part": PART, "sources": {}}
  for name, globs in sources.items():
    inputs = manifest.digests(manifest.find(globs, name), "")
    texts = list(documents([path for path, _, _ in inputs]))
    held = held_out(texts, share)
    entry = made["sources"][name] = {
      "inputs": [
        {"name": pathlib.Path(path).name, "bytes": size, "sha256": digest}
        for path, size, digest in inputs
      ]
    }
    for folder in FOLDERS:
      path = out / folder / f"{name}.jsonl"
      path.parent.mkdir(parents=True, exist_ok=True)
      chosen = [
        text
        for i, text in enumerate(texts)
        if (i in held) == (folder == "valid")
      ]
      lines = "".join(json.dumps({"text": text}) + "\n" for text in chosen)
      path.write_text(lines)
      entry[folder] = {
        "documents": len(chosen),
        "bytes": sum(len(text.encode()) for text in chosen),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
      }
    print(f"{name}: {entry['train']['documents']:,} documents to train on, "
          f"{entry['valid']['documents']:,} held out", flush=True)  # fmt: skip
  (out / MANIFEST).write_text(json.dumps(made, indent=1) + "\n")
  return made


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("sources", nargs="+", metavar="NAME=GLOBS")
  parser.add_argument("--out", type=pathlib.Path, default="runs/text")
  parser.add_argument("--share", type=float, default=SHARE)
  given = parser.parse_args(words)
  pairs = [word.partition("=") for word in given.sources]
  if not all(name and globs for name, _, globs in pairs):
    parser.error(f"each source is NAME=GLOBS, not {given.sources}")
  if not 0 < given.share < 1:
    parser.error(f"--share={given.share} is not between 0 and 1")
  try:
    write(given.out, {name: globs for name, _, globs in pairs}, given.share)
  except (ValueError, OSError) as error:
    print(f"text: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
