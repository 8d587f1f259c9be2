"""Cache entries, written atomically and checked whenever they are opened.

An entry is a folder named by the hash of its settings. It is written under a
temporary name, flushed to disk and renamed, so a reader sees all of it or none.
Processes on one host wait for a lock. Across hosts on a network filesystem,
where locks may not work, the first rename wins and the others use its entry.
"""

import contextlib
import contextvars
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from linformer_jax.run import paths

_log = logging.getLogger(__name__)

FORMAT = 4
META = "meta.json"
# Hash every file on opening (--verify), and not only those whose modification
# time is not the recorded one.
VERIFY = contextvars.ContextVar("verify", default=False)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def root_directory(configured: str) -> str:
  """Returns the cache folder: `configured`, $LINFORMER_CACHE or the default.

  Args:
    configured: a path, or ''.

  Returns:
    An absolute path.

  Raises:
    ValueError: for a URL, or if the home folder is unknown.
  """
  name, path = "data.cache_dir", configured
  if not path:
    name, path = "LINFORMER_CACHE", os.environ.get("LINFORMER_CACHE", "")
  path = path or os.path.join("~", ".cache", "linformer_jax")
  return os.path.abspath(paths.expand(path, name))


def key(settings: dict[str, Any]) -> str:
  """Returns the sha256, in hex, of the settings as canonical JSON."""
  text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()


def open_or_build(
  root: str,
  name: str,
  settings: dict[str, Any],
  build: Callable[["Writer"], None],
) -> str:
  """Returns the folder of an undamaged entry, building it if necessary.

  Args:
    root: the cache folder; created if absent.
    name: a readable prefix for the entry's name.
    settings: JSON-like; everything the contents depend on.
    build: writes the files of the entry.

  Returns:
    The path of the entry.

  Raises:
    ValueError: if `root` cannot be written or is full.
  """
  settings = json.loads(json.dumps(settings))
  slug = re.sub(r"[^A-Za-z0-9.]+", "_", name)
  directory = os.path.join(root, f"{slug}-{key(settings)[:16]}")
  if damage(directory, settings) is None:
    return directory
  try:
    os.makedirs(root, exist_ok=True)
    lock = open(f"{directory}.lock", "ab")
  except OSError as error:
    raise ValueError(f"cannot write to cache_dir {root}: {error}") from error
  with lock:
    locked = _lock(lock, directory)
    found = damage(directory, settings)
    if found is None:
      return directory
    if os.path.exists(directory):
      _log.warning("%s is damaged (%s): rebuilding it", directory, found)
    try:
      _build(directory, settings, build, locked)
    except OSError as error:
      if error.errno not in _NO_SPACE:
        raise
      raise ValueError(f"cannot write to cache_dir {root}: {error}") from error
  return directory


def find(
  directories: Iterable[str], files: dict[str, dict[str, Any]]
) -> str | None:
  """Returns the first undamaged entry with exactly these files, or None.

  Args:
    directories: where to look; they need not be entries, or exist.
    files: name to bytes and sha256, as returned by `files_of`.
  """
  for directory in directories:
    try:
      found = files_of(directory)
    except (OSError, ValueError, KeyError, TypeError):
      continue  # Not an entry, or damaged.
    if found == files and damage(directory) is None:
      return directory
  return None


def files_of(directory: str) -> dict[str, dict[str, Any]]:
  """Returns the recorded bytes and sha256 of each file of an entry."""
  with open(os.path.join(directory, META), encoding="utf-8") as file:
    return json.load(file)["files"]


def damage(
  directory: str, settings: dict[str, Any] | None = None
) -> str | None:
  """Returns a short description of an entry's damage, or None.

  Compares sizes, and hashes the files that were touched since they were written
  or, with `VERIFY`, all.

  Args:
    directory: the entry.
    settings: the settings expected; None accepts any.
  """
  try:
    with open(os.path.join(directory, META), encoding="utf-8") as file:
      meta = json.load(file)
    told = meta.pop("sha256")
    if told != key(meta):
      return f"the checksum of {META} is wrong"
    settings = meta["settings"] if settings is None else settings
    if meta["settings"] != settings:
      return f"{META} was made with other settings"
    for name, expected in meta["files"].items():
      path = os.path.join(directory, name)
      found = os.stat(path)
      if found.st_size != expected["bytes"]:
        return f"{name} has {found.st_size} bytes, not {expected['bytes']}"
      if VERIFY.get() or found.st_mtime_ns != meta["written_ns"][name]:
        with open(path, "rb") as file:
          digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != expected["sha256"]:
          return f"the checksum of {name} is wrong"
  except (FileNotFoundError, NotADirectoryError) as error:
    return f"{os.path.basename(error.filename)} is missing"
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    return f"{META} is unreadable: {type(error).__name__}: {error}"
  return None


class Writer:
  """Writes the files of one entry and records their sizes and hashes."""

  def __init__(self, directory: str):
    self._directory = directory
    self.files: dict[str, dict[str, Any]] = {}
    self.written_ns: dict[str, int] = {}

  @contextlib.contextmanager
  def file(self, name: str) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that appends bytes to the file `name`."""
    digest = hashlib.sha256()
    count = 0
    with open(os.path.join(self._directory, name), "wb") as file:

      def write(data: bytes) -> None:
        nonlocal count
        digest.update(data)
        count += len(data)
        file.write(data)

      yield write
      _flush(file)
      self.written_ns[name] = os.fstat(file.fileno()).st_mtime_ns
    self.files[name] = {"bytes": count, "sha256": digest.hexdigest()}


def _build(
  directory: str,
  settings: dict[str, Any],
  build: Callable[[Writer], None],
  locked: bool,
) -> None:
  prefix = f"{directory}.tmp-{socket.gethostname()}-"
  if locked:
    _remove_abandoned(prefix)
  temporary = f"{prefix}{uuid.uuid4().hex}"
  os.mkdir(temporary)
  try:
    writer = Writer(temporary)
    build(writer)
    meta = {"format": FORMAT, "settings": settings, "files": writer.files}
    meta["written_ns"] = writer.written_ns
    meta["sha256"] = key(meta)
    with open(os.path.join(temporary, META), "wb") as file:
      file.write(json.dumps(meta, indent=1).encode())
      _flush(file)
    _flush_directory(temporary)
    _publish(temporary, directory, settings)
    _flush_directory(os.path.dirname(directory))
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: str, directory: str, settings: dict[str, Any]) -> None:
  """Renames the new entry into place unless another process has done so."""
  try:
    os.rename(temporary, directory)
  except OSError as error:
    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
      raise
    if damage(directory, settings) is None:
      return
    aside = f"{temporary}-old"
    os.rename(directory, aside)
    os.rename(temporary, directory)
    if os.path.isdir(aside):
      shutil.rmtree(aside, ignore_errors=True)
    else:
      os.remove(aside)


def _remove_abandoned(prefix: str) -> None:
  """Removes what killed processes of this host left; needs the lock."""
  parent, start = os.path.split(prefix)
  for name in os.listdir(parent):
    if name.startswith(start):
      shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def _lock(lock: BinaryIO, directory: str) -> bool:
  """Takes the lock until the file is closed; False if locks do not work."""
  try:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      _log.info("Waiting for another process to write %s", directory)
      fcntl.flock(lock, fcntl.LOCK_EX)
  except OSError as error:
    if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
      raise
    return False
  return True


def _flush(file: BinaryIO) -> None:
  file.flush()
  os.fsync(file.fileno())


def _flush_directory(path: str) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
