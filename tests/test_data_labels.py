"""Labels: classes or numbers, and what is wrong with them in a line."""

import math

import pytest

from linformer_jax.data import labels


def find(train, held=None, names=()):
  """The labels of rows; validation has the training labels by default."""

  def rows():
    for place, label in enumerate(train, 1):
      yield False, labels.Row("text", "", label, f"t:{place}")
    for place, label in enumerate(train if held is None else held, 1):
      yield True, labels.Row("text", "pair", label, f"v:{place}")

  return labels.survey(rows, "the rows", names)


def cells(*texts):
  return [labels.Cell(text) for text in texts]


@pytest.mark.parametrize(
  "given, names, numbers",
  [
    ([3, 1, 3], (1, 3), [1, 0, 1]),
    (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
    (["2", "10"], ("10", "2"), [1, 0]),
    (cells("2", "10"), (2, 10), [0, 1]),
    (cells("1", " 2", "-3"), (-3, 1, 2), [1, 2, 0]),
    (cells("01", "1"), (1,), [0, 0]),
    (cells("1", "x"), ("1", "x"), [0, 1]),
    (cells("1.5", "x"), ("1.5", "x"), [0, 1]),
    (cells("nan", "x"), ("nan", "x"), [0, 1]),
    (cells("1_0", "2"), ("1_0", "2"), [0, 1]),
    (cells("１", "2"), ("2", "１"), [1, 0]),
    (cells("0x1", "2"), ("0x1", "2"), [0, 1]),
    ([*cells("1", "2"), "x"], ("1", "2", "x"), [0, 1, 2]),
    ([*cells("1", "2"), 3], (1, 2, 3), [0, 1, 2]),
    ([1.5, 2.0], (), [1.5, 2.0]),
    ([1, 2.5, 1.0], (), [1.0, 2.5, 1.0]),
    ([1, 1.0], (), [1.0, 1.0]),
    (cells("1", "2.5", "1e3", ".5", "+2."), (), [1.0, 2.5, 1000.0, 0.5, 2.0]),
    ([*cells("1", "2"), 0.5], (), [1.0, 2.0, 0.5]),
    (cells("-0", "-0.0", "1"), (), [0.0, -0.0, 1.0]),
  ],
)
def test_the_kind_and_the_numbers_of_labels(given, names, numbers):
  found = find(given)
  assert found.names == names
  assert [type(name) for name in found.names] == [type(x) for x in names]
  encoded = [found.encode(label) for label in given]
  assert encoded == numbers
  for one, other in zip(encoded, numbers, strict=True):
    assert type(one) is type(other)
    assert math.copysign(1, one) == math.copysign(1, other)
  assert found.rows == 2 * len(given)
  assert found.characters == len(given) * len("texttextpair")


def test_names_that_are_declared_keep_their_order():
  found = find(["b", "a"], ["a"], names=("c", "b", "a"))
  assert found.names == ("c", "b", "a")
  assert [found.encode(label) for label in "abc"] == [2, 1, 0]


HUGE = "9" * 5000


@pytest.mark.parametrize(
  "train, held, message",
  [
    ([], ["a"], "^the rows: no row for training"),
    (["a"], [], "^the rows: no row for validation"),
    (["a", 1], None, "^t:1: label 'a' is a string, and some .* 1 at t:2"),
    ([1.5, "a"], None, "^t:2: label 'a' is a string, and some .*1.5 at t:1"),
    ([1], ["a"], "^v:1: label 'a' is a string, and some labels .* 1 at t:1"),
    ([*cells("1", "x"), 2], None, "^t:2: label 'x' is a string.* 2 at t:3"),
    ([*cells("1"), "2", 3], None, "^t:2: label '2' is a string.* 3 at t:3"),
    ([1, 2], [2, 3, 4], "^v:2: label 3 occurs only in the validation split"),
    (["a"], ["b"], "^v:1: label 'b' occurs only in the validation split"),
    (cells("1"), cells("1", "02"), "^v:2: label '02' occurs only in the val"),
    ([1.5, math.nan], None, "^t:2: label nan is not a finite number"),
    ([1.5], [-math.inf], "^v:1: label -inf is not a finite number"),
    (cells("1", "NaN"), None, "^t:2: label 'NaN' is not a finite number"),
    (cells("1", "inf"), None, "^t:2: label 'inf' is not a finite number"),
    (cells("1"), cells("1", "1e999"), "^v:2: label '1e999' is not a finite"),
    ([10**400, 1.5], None, "^t:1: label 1000.* is not a finite number"),
    (cells(HUGE, "1"), None, "^t:1: label '9999.* is not a finite number"),
  ],
)
def test_what_is_wrong_is_one_line_with_its_place(train, held, message):
  with pytest.raises(ValueError, match=message) as caught:
    find(train, held)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_large_integers_are_classes():
  assert find([10**400, 1]).names == (1, 10**400)
