"""Reads CSV and TSV: a header, and below it one row of cells a record."""

import codecs
import collections
import csv
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from linformer_jax.data.text import formats

# A line is decoded whole.
_LONGEST_LINE = 32 * 2**20
_NAMED = 10  # columns in a message


def rows(
  file: BinaryIO, path: str, columns: Sequence[str]
) -> Iterator[tuple[dict[str, str], str]]:
  """Yields the cells of each row by their columns, and its place.

  Blank lines are skipped. Any end of a line will do.

  Args:
    file: open and decompressed.
    path: for messages; its extension tells the delimiter.
    columns: those that the header must have.

  Raises:
    ValueError: in one line that names the file and the line.
  """
  delimiter = formats.DELIMITERS[formats.extension(path)]
  reader = csv.reader(_lines(file, path), delimiter=delimiter, strict=True)
  header = None
  for cells, place in _records(reader, path):
    if header is None:
      header = [cell.strip() for cell in cells]
      _check_header(header, columns, place)
    elif len(cells) != len(header):
      cell = "cell" if len(cells) == 1 else "cells"
      raise ValueError(
        f"{place}: {len(cells)} {cell}, and the header has {len(header)}"
      )
    else:
      yield dict(zip(header, cells, strict=True)), place
  if header is None:
    names = ", ".join(map(repr, columns))
    raise ValueError(f"{path}: no header, which names {names}: add that line")


def _records(reader, path: str) -> Iterator[tuple[list[str], str]]:
  """Yields the cells of each record, and the place of its first line."""
  while True:
    place = f"{path}:{reader.line_num + 1}"
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      limit = csv.field_size_limit()
      if str(error).startswith("field larger"):
        raise ValueError(
          f"{place}: a cell of more than {limit:,} characters, the limit of "
          "Python's csv: close its quotes, or save the rows as JSON lines"
        ) from error
      raise ValueError(
        f"{place}: quotes that do not match ({error}): put the cell in quotes "
        "and double those inside, or save the rows as JSON lines"
      ) from error
    if cells:
      yield cells, place


def _check_header(header: list[str], columns: Sequence[str], place: str):
  for column in columns:
    if column not in header:
      names = ", ".join(repr(name[:40]) for name in header[:_NAMED])
      raise ValueError(
        f"{place}: the header has no column {column!r}; it has {names} (columns"
        " are separated by commas in .csv, by tabs in .tsv)"
      )
  for column, count in collections.Counter(filter(None, header)).items():
    if count > 1:
      raise ValueError(
        f"{place}: the header has column {column!r} twice: rename one"
      )


def _lines(file: BinaryIO, path: str) -> Iterator[str]:
  """Yields decoded lines with their ends, which csv wants."""
  number = offset = 0
  while line := file.readline(_LONGEST_LINE + 1):
    place = f"{path}:{number + 1}"
    if len(line) > _LONGEST_LINE:
      raise ValueError(
        f"{place}: a line of more than {_LONGEST_LINE >> 20} MiB: divide the"
        " row into several"
      )
    formats.check_no_nul(line, offset, path)
    try:
      text = line.decode()
    except UnicodeDecodeError as error:
      raise ValueError(
        f"{place}: not UTF-8 at byte {error.start} of the line: convert the"
        " file with iconv"
      ) from error
    if not offset:
      text = text.removeprefix(codecs.BOM_UTF8.decode())
    offset += len(line)
    for piece in io.StringIO(text, newline=""):  # also at a \r
      number += 1
      yield piece
