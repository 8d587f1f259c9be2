"""Finds the files that a user names, and identifies them by their content.

A file is identified by its sha256, so copied, moved or touched files are the
same text. Hashing takes seconds per gigabyte, so the cache folder keeps the
hashes; they are valid until the path, size or times of a file change.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import uuid

from linformer_jax.data.text import progress
from linformer_jax.run import paths

# (path, bytes, sha256 in hex)
Digest = tuple[str, int, str]

_HASHED_AT_ONCE = 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class MissingText(ValueError):
  """The text that a source names is not on this machine (any more)."""


def find(patterns: str, field: str) -> list[str]:
  """Returns the files that are named by paths or globs.

  An existing path is taken literally, even if it contains commas or wildcards;
  the longest such path is tried first. `~` and globs are expanded next, and
  existing folders before a glob are taken literally too.

  Args:
    patterns: paths or globs, separated by commas; `**` crosses folders.
    field: the config field they come from, for messages.

  Returns:
    Absolute paths, sorted, without duplicates.

  Raises:
    MissingText: if a pattern matches nothing.
    ValueError: if it matches only folders, or if there is no pattern.
  """
  found: set[str] = set()
  parts = patterns.split(",")
  while parts:
    if not parts[0].strip():
      parts = parts[1:]
      continue
    for count in range(len(parts), 0, -1):
      matches = _matches(",".join(parts[:count]), field)
      if matches:
        break
    else:
      raise MissingText(f"{field}: no file matches {_absolute(parts[0])!r}")
    regular = list(filter(os.path.isfile, matches))
    if not regular:
      name = ",".join(parts[:count]).strip()
      if os.path.isdir(matches[0]):
        raise ValueError(
          f"{field}: {name!r} matches only folders: to read the files in them,"
          f" add {'' if name.endswith('/') else '/'}**/*.txt"
        )
      raise ValueError(
        f"{field}: {name!r} is not a regular file, and text is read more than"
        " once: save it as a file"
      )
    found.update(regular)
    parts = parts[count:]
  if not found:
    raise ValueError(f"{field}: no glob in {patterns!r}")
  return sorted(found)


def _absolute(text: str) -> str:
  return os.path.abspath(os.path.expanduser(text.strip()))


def _matches(text: str, field: str) -> list[str]:
  """Returns the matches of one path or glob; none if it may be a list."""
  if not os.path.exists(text):
    text = paths.expand(text.strip(), field)
  # The longest existing prefix is literal, even if it contains brackets.
  folder, rest = os.path.abspath(text), ""
  while not os.path.exists(folder):
    folder, name = os.path.split(folder)
    rest = os.path.join(name, rest) if rest else name
  if not rest:
    return [folder]
  if "," in rest:
    return []
  return glob.glob(os.path.join(glob.escape(folder), rest), recursive=True)


def digests(files: list[str], cache_root: str) -> list[Digest]:
  """Returns (path, bytes, sha256 in hex) of each file.

  Args:
    files: absolute paths.
    cache_root: the folder that caches the hashes; '' for none. It need not be
      writable, as its entries are useful nevertheless.

  Raises:
    ValueError: if a file cannot be read.
  """
  try:
    stats = [os.stat(path) for path in files]
  except OSError as error:
    raise ValueError(f"cannot read {error.filename}: {error}") from error
  times = [
    [path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    for path, stat in zip(files, stats, strict=True)
  ]
  key = hashlib.sha256(json.dumps(times).encode()).hexdigest()[:16]
  memo = os.path.join(cache_root, f"files-{key}.json")
  hashes = _remembered(memo, len(files)) if cache_root else None
  if hashes is None:
    report = progress.Progress("Hashing files")
    hashes = [_sha256(path, report) for path in files]
    if cache_root:
      _remember(memo, hashes)
  return [
    (path, stat.st_size, digest)
    for path, stat, digest in zip(files, stats, hashes, strict=True)
  ]


def _sha256(path: str, report: progress.Progress) -> str:
  digest = hashlib.sha256()
  try:
    with open(path, "rb") as file:
      while block := file.read(_HASHED_AT_ONCE):
        digest.update(block)
        report.add(0, len(block))
  except OSError as error:
    raise ValueError(f"cannot read {path}: {error}") from error
  report.add(1, 0)
  return digest.hexdigest()


def _remembered(memo: str, count: int) -> list[str] | None:
  try:
    with open(memo, encoding="utf-8") as file:
      hashes = json.load(file)
  except (OSError, ValueError, RecursionError):
    return None
  sound = isinstance(hashes, list) and len(hashes) == count
  if not sound or not all(
    isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in hashes
  ):
    return None
  return hashes


def _remember(memo: str, hashes: list[str]) -> None:
  temporary = f"{memo}.tmp-{uuid.uuid4().hex}"
  try:
    os.makedirs(os.path.dirname(memo), exist_ok=True)
    with open(temporary, "w", encoding="utf-8") as file:
      json.dump(hashes, file)
    os.replace(temporary, memo)
  except OSError:
    with contextlib.suppress(OSError):
      os.remove(temporary)
