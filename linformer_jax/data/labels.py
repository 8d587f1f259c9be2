"""Finds out what the labels of a data set are: classes or numbers.

All labels of both splits decide. Strings, and integers alone, name classes;
numbers of which some are floats are targets of a regression. A cell of CSV has
no type: cells are numbers if all of them are, and strings otherwise.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

_SHOWN = 60  # characters of a label in a message
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(
  r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf|infinity)",
  re.IGNORECASE | re.ASCII,
)

Label = int | float | str


class Cell(str):
  """A label in CSV, which may spell a number."""


class Row(NamedTuple):
  """A labeled text.

  Attributes:
    text: the text.
    pair: the second text; '' if there is none.
    label: of any type.
    place: where the row is, for messages.
  """

  text: str
  pair: str
  label: Label
  place: str


# Yields (held out, row) for the rows of both splits.
Splits = Callable[[], Iterator[tuple[bool, Row]]]


@dataclasses.dataclass(frozen=True)
class Labels:
  """What the labels are.

  Attributes:
    kind: the type of the labels.
    names: of the classes, by number; () if labels are floats.
    rows: the number of rows in both splits.
    characters: of their texts.
  """

  kind: type[Label]
  names: tuple[int | str, ...]
  rows: int
  characters: int

  def encode(self, label: Label) -> int | float:
    """Returns the number of a class, or the float."""
    if self.kind is float:
      return _as_float(label)
    return self._numbers[self.kind(label)]

  @functools.cached_property
  def _numbers(self) -> dict[int | str, int]:
    return {name: number for number, name in enumerate(self.names)}


def survey(
  splits: Splits, description: str, names: Sequence[str] = ()
) -> Labels:
  """Reads all rows once to find out what their labels are.

  Args:
    splits: yields the rows, the same ones at each call.
    description: of the data, for messages.
    names: of the classes in order, if the data set declares them. By default
      they are those that occur in training, sorted.

  Raises:
    ValueError: in one line, mostly with the place of a row: for a split without
      rows, labels that are strings and numbers, a float that is not finite, or
      a class that only the validation split has.
  """
  seen: tuple[set[Label], set[Label]] = (set(), set())
  types: set[type] = set()
  rows, characters = [0, 0], 0
  for held, row in splits():
    rows[held] += 1
    characters += len(row.text) + len(row.pair)
    types.add(type(row.label))
    if not isinstance(row.label, float):  # as many floats as rows, perhaps
      seen[held].add(row.label)
    elif not math.isfinite(row.label):
      raise _not_finite(row)
  for count, split in zip(rows, ("training", "validation"), strict=True):
    if not count:
      raise ValueError(f"{description}: no row for {split}")
  kind = _kind(seen[0] | seen[1], types, splits)
  if kind is float:
    if not all(map(_is_finite, seen[0] | seen[1])):
      raise _not_finite(_first(splits, lambda label: not _is_finite(label)))
    found = ()
  else:
    known = set(map(kind, seen[0]))
    if not known.issuperset(map(kind, seen[1])):
      row = _first(splits, lambda label: kind(label) not in known)
      raise ValueError(
        f"{row.place}: label {_shown(row.label)} occurs only in the validation "
        "split: add rows that have it to the training texts"
      )
    found = tuple(names or sorted(known))
  return Labels(kind, found, sum(rows), characters)


def _kind(seen: set[Label], types: set[type], splits: Splits) -> type[Label]:
  cells = [_number(label) for label in seen if isinstance(label, Cell)]
  if str not in types and None not in cells:
    floats = float in types or any(isinstance(cell, float) for cell in cells)
    return float if floats else int
  if types & {int, float}:
    number = _first(splits, lambda label: not isinstance(label, str))
    string = _first(
      splits,
      lambda label: (
        type(label) is str
        or (isinstance(label, Cell) and _number(label) is None)
      ),
    )
    raise ValueError(
      f"{string.place}: label {_shown(string.label)} is a string, and some "
      f"labels are numbers, such as {_shown(number.label)} at {number.place}: "
      "make all of them strings or all of them numbers"
    )
  return str


def _number(cell: str) -> int | float | None:
  """Returns the number that a cell spells, or None."""
  text = cell.strip()
  if _INTEGER.fullmatch(text):
    try:
      return int(text)
    except ValueError:  # more digits than Python converts
      return math.inf
  return float(text) if _FLOAT.fullmatch(text) else None


def _as_float(label: Label) -> float:
  number: Any = _number(label) if isinstance(label, str) else label
  try:
    return float(number)
  except OverflowError:
    return math.inf


def _is_finite(label: Label) -> bool:
  return math.isfinite(_as_float(label))


def _first(splits: Splits, condition: Callable[[Label], bool]) -> Row:
  """Returns the first row whose label fulfills a condition."""
  return next(row for _, row in splits() if condition(row.label))


def _not_finite(row: Row) -> ValueError:
  return ValueError(
    f"{row.place}: label {_shown(row.label)} is not a finite number: correct "
    "it or remove the row"
  )


def _shown(label: Label) -> str:
  """Returns a label for a message, which may have thousands of digits."""
  text = repr(label)
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
