"""Labeled texts of files: JSON lines, CSV and TSV alike; floats as they are."""

import json

import numpy as np
import pytest
import test_data_config

from linformer_jax.data import pipeline
from tests import labeled

TEXTS = [
  "plain words",
  'a "quoted" word, a comma\tand a tab',
  "two\nlines and\r\nmore\r",
  "☃ and é",
  "  spaces around  ",
  "12",
  '"',
]
LABELS = {
  "integers": (3, -1, 10),
  "strings": ("b", "a, b", "10"),
  "floats": (0.5, 2, -1e-7),
}


def open_data(path, cache, known=None, **fields):
  config = test_data_config.config(
    cache, source="labeled", files=str(path), holdout_fraction=0.3, **fields
  )
  return pipeline.prepare(config, known)


def rows_of(kind, pair="text_pair", count=60):
  """Rows, of which some have no pair."""
  names = LABELS[kind]
  return [
    {
      "text": f"{TEXTS[i % 7]} {i}",
      pair: f"pair {TEXTS[-i % 7]}" if i % 5 else "",
      "label": names[i % 3] if i % 2 else names[0],
    }
    for i in range(count)
  ]


def contents(data):
  """All rows with their texts and the names of their labels."""
  return [
    (
      data.tokenizer.decode(row["text"]),
      data.tokenizer.decode(row["pair"]),
      data.labels[row["label"]] if data.labels else row["label"],
    )
    for rows in (data.train, data.validation)
    for row in (rows[i] for i in range(len(rows)))
  ]


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", ["a.csv", "A.TSV", "a.csv.gz", "a.tsv.gz"])
def test_csv_equals_json_lines(tmp_path, name, kind):
  rows = rows_of(kind)
  (tmp_path / "json").mkdir()
  json_lines = labeled.save(tmp_path / "json" / "a.jsonl", rows)
  one = open_data(json_lines, tmp_path / "one")
  other = open_data(labeled.save(tmp_path / name, rows), tmp_path / "other")
  assert one.record.tokens == other.record.tokens  # bytes of every file
  assert one.labels == other.labels
  names = () if kind == "floats" else tuple(sorted(LABELS[kind]))
  assert one.labels == names
  clean = [
    (
      *(row[field].replace("\r\n", "\n").replace("\r", "\n") for field in row),
      label,
    )
    for row in rows
    if (label := row.pop("label")) is not None
  ]
  assert sorted(contents(one)) == sorted(contents(other)) == sorted(clean)


@pytest.mark.parametrize("kind", LABELS)
def test_files_of_both_formats_are_read_together(tmp_path, kind):
  rows = rows_of(kind)
  labeled.save(tmp_path / "a.csv", rows[:20])
  labeled.save(tmp_path / "b.jsonl", rows[20:40])
  labeled.save(tmp_path / "c.tsv", rows[40:])
  mixed = open_data(f"{tmp_path}/*.*", tmp_path / "cache" / "one")
  path = labeled.save(tmp_path / "cache" / "all.jsonl", rows)
  assert mixed.record.tokens == open_data(path, tmp_path).record.tokens


FLOATS = [-0.0, 0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 2.0**53, -2.5, 4]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
def test_floats_survive_bit_for_bit(tmp_path, name):
  values = FLOATS + np.random.default_rng(0).standard_normal(100).tolist()
  rows = [{"text": f"row {i}", "label": x} for i, x in enumerate(values)]
  path = labeled.save(tmp_path / name, rows)
  held = labeled.save(tmp_path / f"held_{name}", rows[::-1])
  fields = {"validation_files": str(held)}
  data = open_data(path, tmp_path, **fields)
  again = open_data(path, tmp_path, data.record, **fields)
  path.unlink()
  without = open_data(path, tmp_path, data.record, **fields)
  for opened in (data, again, without):
    assert opened.labels == ()
    for split, expected in (
      (opened.train, values),
      (opened.validation, values[::-1]),
    ):
      assert split.labels.dtype == np.float64
      assert split.labels.tobytes() == np.array(expected, "<f8").tobytes()
      assert all(type(split[i]["label"]) is float for i in range(len(split)))
      assert [split[i]["label"] for i in range(len(split))] == expected


def test_classes_are_integers_and_lengths_are_those_of_the_rows(tmp_path):
  path = labeled.save(tmp_path / "a.csv", rows_of("strings"))
  data = open_data(path, tmp_path)
  for rows in (data.train, data.validation):
    assert rows.labels.dtype == np.int64 and type(rows[0]["label"]) is int
    assert rows.lengths.dtype == np.int64
    assert rows.lengths.shape == (len(rows), 2)
    assert rows.lengths.tolist() == [
      [len(rows[i]["text"]), len(rows[i]["pair"])] for i in range(len(rows))
    ]
  assert data.train.lengths[:, 0].min() > 0
  assert (data.train.lengths[:, 1] == 0).any()
  assert (data.train.lengths[:, 1] > 0).any()


def test_an_entry_of_the_first_format_is_not_read_as_this_one(tmp_path):
  path = labeled.save(tmp_path / "a.csv", rows_of("integers"))
  assert open_data(path, tmp_path).record.text["source"]["reading"] == 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_the_pair_feature_is_named(tmp_path, name):
  path = labeled.save(tmp_path / name, rows_of("strings", "hypothesis"))
  named = open_data(path, tmp_path, pair_feature="hypothesis")
  assert named.train.lengths[:, 1].any()
  assert not open_data(path, tmp_path).train.lengths[:, 1].any()
  usual = labeled.save(tmp_path / f"b{name}", rows_of("strings"))
  with pytest.raises(ValueError, match=r"a.*:\d: .*'hypothesis'.*'text_pair'"):
    open_data(usual, tmp_path, pair_feature="hypothesis")
  of_default = open_data(usual, tmp_path)
  assert of_default.record.tokens == named.record.tokens


@pytest.mark.parametrize("text", ["", " ", "\u3000\n", None])
def test_a_pair_may_be_empty(tmp_path, text):
  rows = [
    {"text": f"row {i}", "text_pair": text, "label": 0} for i in range(40)
  ]
  for pair_feature in ("", "text_pair"):
    for name in ("a.jsonl", "a.csv"):
      path = labeled.save(tmp_path / name, rows)
      data = open_data(path, tmp_path, pair_feature=pair_feature)
      assert not data.train.lengths[:, 1].any()


def test_half_a_surrogate_pair_is_a_question_mark(tmp_path):
  line = '{"text": "half \\ud800 %d", "label": "\\ud800"}\n'
  path = tmp_path / "a.jsonl"
  path.write_text("".join(line % i for i in range(40)))
  data = open_data(path, tmp_path)
  assert sorted(text for text, _, _ in contents(data)) == sorted(
    f"half ? {i}" for i in range(40)
  )
  assert data.labels == ("\ud800",)


GOOD = '{"text": "a", "label": 1}\n'
BAD = {
  "empty text": ("a.jsonl", GOOD + '{"text": "", "label": 1}', ":2: text is e"),
  "blank text": (
    "a.jsonl",
    '{"text": " \\n\\u3000", "label": 1}',
    ":1: text i",
  ),
  "empty cell": ("a.csv", "label,text\n1,a\n1,\n", ":3: text is empty"),
  "no label": ("a.jsonl", GOOD + '{"text": "a"}', ":2: label None is neither"),
  "null label": (
    "a.jsonl",
    '{"text": "a", "label": null}',
    ":1: label None is",
  ),
  "true": (
    "a.jsonl",
    '{"text": "a", "label": true}',
    ":1: label True is neith",
  ),
  "list": (
    "a.jsonl",
    '{"text": "a", "label": [1]}',
    r":1: label \[1\] is neit",
  ),
  "empty label": ("a.csv", "text,label\na,1\nb,\n", ":3: label is empty"),
  "blank label": ("a.jsonl", '{"text": "a", "label": " "}', ":1: label is emp"),
  "nan": (
    "a.jsonl",
    GOOD + '{"text": "a", "label": NaN}',
    ":2: label nan is n",
  ),
  "infinity": ("a.jsonl", '{"text": "a", "label": 1e999}', ":1: label inf is"),
  "nan cell": ("a.csv", "text,label\na,1\nb,nan\n", ":3: label 'nan' is not a"),
  "mixed": (
    "a.jsonl",
    GOOD + '{"text": "b", "label": "x"}',
    ":2: label 'x' is a string, and some labels are numbers.* 1 at .*a.jsonl:1",
  ),
  "no column": (
    "a.csv",
    "text,lable\na,1\n",
    ":1: the header has no column 'l",
  ),
  "no text": (
    "a.tsv",
    "body\tlabel\na\t1\n",
    ":1: the header has no column 't",
  ),
  "no cell": ("a.tsv", "text\tlabel\na\t1\nb\n", ":3: 1 cell, and the header"),
  "latin": ("a.csv", b"text,label\ncaf\xe9,1\n", ":2: not UTF-8"),
  "only a header": ("a.csv", "text,label\n", "no row for training"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, kind):
  name, content, message = BAD[kind]
  path = tmp_path / name
  content = content if isinstance(content, bytes) else content.encode()
  path.write_bytes(content)
  held = labeled.save(tmp_path / "held.jsonl", [json.loads(GOOD)])
  with pytest.raises(ValueError, match=message) as caught:
    open_data(path, tmp_path / "cache", validation_files=str(held))
  said = str(caught.value)
  assert "\n" not in said and str(path) in said


def test_a_label_of_validation_alone_is_named_with_its_place(tmp_path):
  path = labeled.save(tmp_path / "a.csv", [{"text": "a", "label": "x"}] * 3)
  rows = [{"text": "a", "label": label} for label in "xyz"]
  held = labeled.save(tmp_path / "held.tsv", rows)
  with pytest.raises(ValueError, match=rf"^{held}:3: label 'y' occurs only"):
    open_data(path, tmp_path / "cache", validation_files=str(held))
