"""Reads JSON lines: one object per line, with a document in one field."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

# A line is parsed whole, which takes up to a dozen times its size.
LONGEST_LINE = 32 * 2**20

_KINDS = {
  type(None): "null",
  bool: "true or false",
  int: "a number",
  float: "a number",
  str: "a string",
  list: "an array",
  dict: "an object",
}


def documents(file: BinaryIO, path: str, text_feature: str) -> Iterator[str]:
  """Yields the text of each line.

  Args:
    file: open and decompressed.
    path: for messages.
    text_feature: the field.

  Raises:
    ValueError: naming the line, if it is not an object with text in that field.
  """
  for value, place in values(file, path):
    yield text_of(value, text_feature, place)


def values(file: BinaryIO, path: str) -> Iterator[tuple[Any, str]]:
  """Yields the value of each line, and its place for messages.

  Raises:
    ValueError: naming the line, if it is not JSON.
  """
  number, first = 0, True
  while line := file.readline(LONGEST_LINE + 1):
    number += 1
    if number == 1:
      line = line.removeprefix(codecs.BOM_UTF8)
    if not line.strip():
      continue
    place = f"{path}:{number}"
    if len(line) > LONGEST_LINE:
      if first and line.lstrip().startswith(b"["):
        raise _array(path)
      raise ValueError(
        f"{place}: a line of more than {LONGEST_LINE >> 20} MiB: divide the"
        " document into several lines, or save it as a plain text file"
      )
    try:
      text = line.decode().strip()
    except UnicodeDecodeError as error:
      raise ValueError(
        f"{place}: not UTF-8 at byte {error.start} of the line"
      ) from error
    value = _parse(text, place)
    if isinstance(value, ValueError):
      raise _diagnosis(value, text, path, place, first and file) from value
    if first and isinstance(value, list):
      raise _array(path)
    first = False
    yield value, place


def _parse(text: str, place: str) -> Any:
  """Returns the value, or the error that the parser raised."""
  try:
    return json.loads(text)
  except RecursionError as error:
    raise ValueError(f"{place}: JSON that is nested too deeply") from error
  except ValueError as error:  # a syntax error, or a number of 4301 digits
    return error


def _array(path: str) -> ValueError:
  return ValueError(
    f"{path} is one JSON array, not one object a line: convert it with:"
    f" jq -c '.[]' {path} > {path}.jsonl"
  )


def _diagnosis(
  error: ValueError, text: str, path: str, place: str, file: Any
) -> ValueError:
  """Returns the error for a line that is not JSON; `file` if it is first."""
  if not isinstance(error, json.JSONDecodeError):
    return ValueError(f"{place}: JSON that cannot be read: {error}")
  if file and text.startswith("["):
    return _array(path)
  # The line ends too early, and more lines follow.
  if file and error.pos >= len(text) and file.read(1):
    return ValueError(
      f"{path} has a JSON object over many lines, not one object a line:"
      f" convert it with: jq -c . {path} > {path}.jsonl"
    )
  return ValueError(f"{place}: not JSON: {error.msg} at column {error.colno}")


def text_of(value: Any, text_feature: str, place: str) -> str:
  """Returns the text in a field of a line's value.

  Raises:
    ValueError: naming the place, if `value` is not an object with text there.
  """
  if not isinstance(value, dict):
    raise ValueError(
      f"{place}: {_KINDS[type(value)]}, not an object with text in field"
      f" {text_feature!r}"
    )
  if text_feature not in value:
    names = ", ".join(map(repr, sorted(value)[:10])) or "no field at all"
    raise ValueError(
      f"{place}: no text in field {text_feature!r}; there is {names}"
    )
  text = value[text_feature]
  if not isinstance(text, str):
    raise ValueError(
      f"{place}: no text in field {text_feature!r}, which is"
      f" {_KINDS[type(text)]}"
    )
  return clean(text)


def clean(text: str) -> str:
  """Returns the text as `reading` would read it from a plain text file."""
  text = text.removeprefix("\ufeff")
  if "\r" in text:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
  try:
    text.encode()
  except UnicodeEncodeError:
    # JSON can spell half a surrogate pair, which is not a character.
    text = text.encode("utf-8", errors="replace").decode("utf-8")
  return text
