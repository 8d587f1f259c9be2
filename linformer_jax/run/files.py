"""File operations in a run's folder, on a disk or in a bucket (gs://)."""

import contextlib
import errno
import itertools
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator

from etils import epath

from linformer_jax.run import paths

in_bucket = paths.in_bucket


def folder(path, field: str = "--workdir") -> pathlib.Path | epath.Path:
  """Returns the run's folder, on a disk or in a bucket.

  Args:
    path: as given by the user.
    field: the flag or argument it comes from, for the message.

  Raises:
    ValueError: for a path that is neither, or an unknown user in `~name`.
  """
  path = paths.expand(path, field, bucket=True)
  return epath.Path(path) if in_bucket(path) else pathlib.Path(path)


def check_place(directory):
  """Raises an OSError if the folder cannot be made, before hours of work."""
  if in_bucket(directory):
    return
  if directory.is_symlink() and not directory.exists():
    raise OSError(errno.ENOENT, "it is a link to nothing", str(directory))
  above = directory.absolute()
  while not above.exists():
    above = above.parent
  if not above.is_dir() and above != directory.absolute():
    raise NotADirectoryError(
      errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above)
    )
  if not os.access(above, os.W_OK):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(above))


def remove(directory):
  """Deletes a folder with its content."""
  if in_bucket(directory):
    directory.rmtree()
  else:
    shutil.rmtree(directory)


def below(directory):
  """Yields all files below a folder, sorted."""
  for path in sorted(directory.iterdir()):
    if path.is_dir():
      yield from below(path)
    else:
      yield path


def write_atomically(path, content: str | bytes):
  """Replaces a file atomically: a kill leaves the old file or the new one."""
  if isinstance(content, str):
    content = content.encode()
  if in_bucket(path):  # An object appears only once it is complete.
    path.write_bytes(content)
    return
  temporary = path.with_name(path.name + ".tmp")
  with temporary.open("wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


def skip_answered(rows: Iterator, source: str, to: str) -> int:
  """Skips the rows of a file that another has complete lines for already.

  Args:
    rows: of `source`.
    source: name of the file of rows.
    to: name of the file with a line for each.

  Returns:
    How many were skipped.

  Raises:
    ValueError: if `to` has more lines than there are rows.
  """
  there = _whole_lines(pathlib.Path(to))
  skipped = sum(1 for _ in itertools.islice(rows, there))
  if skipped < there:
    raise ValueError(
      f"{to} has {there:,} lines, and {source} only {skipped:,} rows: name "
      "another file"
    )
  return there


def _whole_lines(path: pathlib.Path) -> int:
  """Counts the complete lines of a file, and cuts off one that is not."""
  if not path.exists():
    return 0
  count = end = 0
  with path.open("rb") as file:
    for line in file:
      if not line.endswith(b"\n"):
        break
      count, end = count + 1, end + len(line)
  os.truncate(path, end)
  return count


class Appended:
  """A file to append to; in a bucket, `flush` rewrites the whole object."""

  def __init__(self, path):
    self._path, self._bucket, self._data = path, in_bucket(path), b""
    if self._bucket and path.exists():
      self._data = path.read_bytes()

  def write(self, data: bytes):
    """Takes bytes that the next `flush` writes."""
    self._data += data

  def flush(self):
    """Writes what was taken.

    Raises:
      OSError: if that fails; a record may then be truncated.
    """
    if self._bucket:
      with errors_of_tensorflow():
        self._path.write_bytes(self._data)
      return
    data, self._data = self._data, b""
    with self._path.open("ab") as file:
      file.write(data)


def _tensorflow_errors():
  # Not imported here: loading a run does not need TensorFlow.
  tensorflow = sys.modules.get("tensorflow")
  return (tensorflow.errors.OpError,) if tensorflow else ()


@contextlib.contextmanager
def errors_of_tensorflow():
  """Turns errors of TensorFlow's file system into an OSError."""
  try:
    yield
  except _tensorflow_errors() as error:
    raise OSError(errno.EIO, error.message) from error
