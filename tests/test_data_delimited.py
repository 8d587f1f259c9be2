"""CSV and TSV: cells by their columns, and errors that name the line."""

import csv
import io

import pytest
import test_data_reading

from linformer_jax.data.text import reading

CELLS = [
  {"a": "plain", "b": "☃"},
  {"a": 'a "quote", a comma and\ta tab', "b": ""},
  {"a": "two\nlines", "b": "  spaces  "},
  {"a": "\r\n", "b": "\r"},
]


def read(path, columns=("a", "b")):
  return list(reading.cells(str(path), columns))


def written(end, delimiter=",", bom=""):
  text = io.StringIO(newline="")
  # Or the writer leaves line ends of another kind unquoted.
  form = {"lineterminator": end, "quoting": csv.QUOTE_ALL}
  writer = csv.DictWriter(text, "ab", delimiter=delimiter, **form)
  writer.writeheader()
  writer.writerows(CELLS)
  return (bom + text.getvalue()).encode()


@pytest.mark.parametrize("packer", test_data_reading.PACKERS)
@pytest.mark.parametrize(
  "name, delimiter",
  [
    ("a.csv{}", ","),
    ("A.CSV{}", ","),
    ("a.tsv{}", "\t"),
    ("a.csv{}-00000-of-00002", ","),
    ("a.tsv-00000-of-00002{}", "\t"),
  ],
)
def test_cells_come_by_their_columns(tmp_path, name, delimiter, packer):
  suffix, pack = test_data_reading.PACKERS[packer]
  data = pack(written("\n", delimiter))
  path = test_data_reading.save(tmp_path / name.format(suffix), data)
  found = read(path)
  assert [cells for cells, _ in found] == CELLS
  assert [place for _, place in found] == [f"{path}:{i}" for i in (2, 3, 4, 6)]


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_lines_and_a_byte_order_mark_make_no_difference(
  tmp_path, end, bom
):
  path = test_data_reading.save(tmp_path / "a.csv", written(end, bom=bom))
  assert [cells for cells, _ in read(path)] == CELLS


def test_blank_lines_are_skipped_and_the_last_line_needs_no_end(tmp_path):
  path = test_data_reading.save(tmp_path / "a.csv", b"\na, b\n\n1,2\n\n3,4")
  assert read(path) == [
    ({"a": "1", "b": "2"}, f"{path}:4"),
    ({"a": "3", "b": "4"}, f"{path}:6"),
  ]


BAD = {
  "empty": (b"", "a.csv: no header, which names 'a', 'b'"),
  "blank": (b"\n\n", "a.csv: no header, which names 'a', 'b'"),
  "column": (b"a,c\n1,2\n", "a.csv:1: the header has no column 'b'.*'a', 'c'"),
  "tabs": (b"a\tb\n1\t2\n", "a.csv:1: .*no column 'a'.*commas.*csv.*tsv"),
  "semicolons": (b"a;b\n1;2\n", "a.csv:1: .*no column 'a'.*'a;b'.*commas"),
  "twice": (b"a,b,a\n1,2,3\n", "a.csv:1: the header has column 'a' twice"),
  "other twice": (b"a,b,c,c\n1,2,3,4\n", "a.csv:1: .* column 'c' twice"),
  "few": (b"a,b\n1,2\n3\n", "a.csv:3: 1 cell, and the header has 2"),
  "many": (b'a,b\n"1\n",2\n3,4,5\n', "a.csv:4: 3 cells, and the header has 2"),
  "latin": (b"a,b\n1,caf\xe9\n", "a.csv:2: not UTF-8 at byte 5 of the line"),
  "late": (b'a,b\n"\n\xff",2\n', "a.csv:3: not UTF-8 at byte 0 of the line"),
  "nul": (b"a,b\n" + b"1,2\n" * 200 + b"\0", "a.csv.* byte 804 is NUL"),
  "open": (b'a,b\n1,"2\n3,4\n', "a.csv:2: quotes that do not match"),
  "inside": (b'a,b\n1,2\n1,"2" x\n', "a.csv:3: quotes that do not match"),
  "limit": (
    b"a,b\n1," + b"x" * 131_073,
    "a.csv:2: a cell of more than 131,072 characters.*JSON lines",
  ),
  "line": (b"a,b\n" + b"1," * 2**24 + b"2", "a.csv:2: a line of more than 32"),
  "zip": (b"PK\x03\x04 and more", "a.csv is a zip archive"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_one_line(tmp_path, kind):
  data, message = BAD[kind]
  path = test_data_reading.save(tmp_path / "a.csv", data)
  with pytest.raises(ValueError, match=message) as caught:
    read(path)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_limit_of_csv_is_left_alone(tmp_path):
  before = csv.field_size_limit()
  path = test_data_reading.save(tmp_path / "a.csv", written("\n"))
  assert len(read(path)) == 4 and csv.field_size_limit() == before
