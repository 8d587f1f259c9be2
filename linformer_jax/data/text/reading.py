"""Reads documents from files: plain text, JSON lines and Parquet; and tables.

Plain text is read in chunks, so a file may be larger than memory. A byte order
mark is dropped and line endings become `\\n`, so copies that an editor saved
differently are the same documents.
"""

import codecs
import contextlib
import importlib
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from linformer_jax.data.text import delimited, formats, json_lines

# The approximate largest size of a plain-text document, in bytes.
PART = 2**20
# The approximate smallest size of a piece when text is divided for the split.
_SHORTEST = 32
_ROWS_AT_ONCE = 64


def documents(
  path: str, text_feature: str, longest: int = PART
) -> Iterator[str]:
  """Yields the documents of one file; `source.files` lists the formats.

  Args:
    path: the file.
    text_feature: the field of JSON lines or the column of Parquet; '' for a
      file that is known to be plain text.
    longest: plain text of more bytes of UTF-8 is divided into documents of
      `PART` bytes, or of a quarter of `longest` where that is below `PART`.

  Raises:
    ValueError: in one line that names the file and the place in it.
  """
  with _errors_of(path):
    with open(path, "rb") as raw:
      start = raw.peek(1)
      if not start:
        return
      if text_feature and formats.is_parquet(start, path):
        yield from _parquet(raw, path, text_feature)
        return
      file = formats.decompressed(raw, path)
      formats.check_text(file.peek(512), path)
      if text_feature and formats.extension(path) in formats.JSON_LINES:
        yield from json_lines.documents(file, path, text_feature)
      else:
        yield from _plain(file, path, text_feature, longest)


def json_values(path: str) -> Iterator[tuple[Any, str]]:
  """Yields the value of each line of a JSON lines file, and its place.

  Raises:
    ValueError: in one line that names the file and the place in it.
  """
  with _opened(path) as file:
    yield from json_lines.values(file, path)


def cells(
  path: str, columns: Sequence[str]
) -> Iterator[tuple[dict[str, str], str]]:
  """Yields the cells of each row of CSV or TSV by column, and its place.

  Args:
    path: the file.
    columns: those that the header must have.

  Raises:
    ValueError: in one line that names the file and the place in it.
  """
  with _opened(path) as file:
    yield from delimited.rows(file, path, columns)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
  """Opens text, decompressed if necessary."""
  with _errors_of(path), open(path, "rb") as file:
    if file.peek(1):
      file = formats.decompressed(file, path)
      formats.check_text(file.peek(512), path)
    yield file


@contextlib.contextmanager
def _errors_of(path: str) -> Iterator[None]:
  try:
    yield
  except formats.ERRORS as error:
    reason = str(error).partition("\n")[0]
    raise ValueError(f"cannot read {path}: {reason}") from error


def divide(text: str, count: int) -> Iterator[str]:
  """Yields a text in pieces of `count` / 2 to `count` characters.

  A piece ends after a blank line, else after a line, else before a space, else
  anywhere. Its end depends on the next `count` characters alone. The last piece
  is the rest.
  """
  start = 0
  while len(text) - start > count:
    end = _end_of_piece(text, start, start + count)
    yield text[start:end]
    start = end
  yield text[start:]


def _end_of_piece(text: str, start: int, end: int) -> int:
  least = max((start + end) // 2, start + 1)
  for separator, length in (("\n\n", 2), ("\n", 1), (" ", 0), ("\t", 0)):
    position = text.rfind(separator, least, end)
    if position >= 0:
      return position + length
  return end


def _plain(
  file: BinaryIO, path: str, text_feature: str, longest: int
) -> Iterator[str]:
  chunks = _chunks(file, path)
  text = ""
  for chunk in chunks:
    if text_feature and not text:
      _refuse_json(chunk, path, text_feature)
    text += chunk
    if len(text) > longest:
      break
  if len(text.encode()) <= longest:
    yield text
    return
  # Convert bytes to characters, on text that does not depend on line endings.
  sample = text[: max(longest, 1)]
  part = PART if longest >= PART else max(longest // 4, _SHORTEST)
  count = max(part * len(sample) // len(sample.encode()), 1)
  for chunk in itertools.chain([""], chunks):
    *complete, text = divide(text + chunk, count)
    yield from complete
  yield text


def _chunks(file: BinaryIO, path: str) -> Iterator[str]:
  """Yields decoded text in chunks, with line endings as `\\n`."""
  decoder = io.IncrementalNewlineDecoder(
    codecs.getincrementaldecoder("utf-8-sig")(), translate=True
  )
  offset, raw = 0, b"start"
  while raw:
    raw = file.read(PART)
    formats.check_no_nul(raw, offset, path)
    try:
      text = decoder.decode(raw, final=not raw)
    except UnicodeDecodeError as error:
      # error.object starts with bytes kept from an incomplete character.
      byte = offset + len(raw) - len(error.object) + error.start
      raise ValueError(
        f"cannot read {path}: byte {byte} is not UTF-8 ({error.reason}):"
        " convert the file with iconv"
      ) from error
    offset += len(raw)
    if text:
      yield text


def _refuse_json(text: str, path: str, text_feature: str) -> None:
  """Refuses JSON lines in a file named as plain text."""
  line, newline, _ = text.lstrip().partition("\n")
  if not line.startswith("{"):
    return
  try:
    fields = json.loads(line)
  except (ValueError, RecursionError):
    if newline:
      return
    # The line is longer than the chunk.
    fields = [text_feature] if f'"{text_feature}":' in line else []
  if text_feature in fields:
    raise ValueError(
      f"{path} begins with a JSON object that has the field {text_feature!r},"
      " and its name says plain text: rename it to .jsonl"
    )


def _parquet(file: BinaryIO, path: str, text_feature: str) -> Iterator[str]:
  # Large, slow to import, and needed only here.
  try:
    pyarrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
  except ImportError as error:
    raise ValueError(f"{path} is Parquet: pip install pyarrow") from error
  row = 0
  try:
    table = parquet.ParquetFile(file)
    names = table.schema_arrow.names
    if text_feature not in names:
      raise ValueError(
        f"{path}: no text in column {text_feature!r}; there is"
        f" {', '.join(map(repr, names))}"
      )
    for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[text_feature]):
      for value in batch.column(0):
        row += 1
        text = value.as_py()
        if not isinstance(text, str):
          raise ValueError(
            f"{path}: no text in column {text_feature!r} of row {row}, which is"
            f" {'null' if text is None else value.type}"
          )
        yield json_lines.clean(text)
  except UnicodeDecodeError as error:
    raise ValueError(f"{path}: row {row} is not UTF-8") from error
  except pyarrow.ArrowException as error:
    reason = str(error).partition("\n")[0]
    raise ValueError(f"cannot read {path}: {reason}") from error
