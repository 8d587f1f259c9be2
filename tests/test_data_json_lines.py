"""JSON lines: known under any name, and errors that name the line."""

import json

import pytest
import test_data_reading

from linformer_jax.data.text import json_lines


@pytest.mark.parametrize("packer", test_data_reading.PACKERS)
@pytest.mark.parametrize(
  "name",
  [
    "a.jsonl{}",
    "a.json{}",
    "A.NDJSON{}",
    "a.jsonl{}-00000-of-00002",
    "a.jsonl-00001-of-00002{}",
    "a-00001-of-00002.JsonL{}",
  ],
)
def test_a_line_of_json_is_a_document(tmp_path, name, packer):
  suffix, pack = test_data_reading.PACKERS[packer]
  for case in (str.lower, str.upper):
    path = test_data_reading.save(
      tmp_path / name.format(case(suffix)), pack(test_data_reading.LINES)
    )
    assert test_data_reading.read(path) == ["one", "two"]


DEEP = b"[" * 100_000
BAD_LINES = {
  "cut": (b'{"body": "x"}\n{"body": \n', r"a.jsonl:2: not JSON.*column 9"),
  "only": (b'{"body": "x', r"a.jsonl:1: not JSON"),
  "no value": (b'{"body": ', r"a.jsonl:1: not JSON"),
  "two": (b'{"body": "x"}{"body": "y"}\n', r"a.jsonl:1: not JSON.*column 14"),
  "field": (b'{"body": "x"}\n{"text": "y"}\n', r"a.jsonl:2.*'body'.*'text'"),
  "empty": (b"{}", r"a.jsonl:1.*'body'; there is no field at all"),
  "number": (b'{"body": 3}\n', r"a.jsonl:1: no text.*'body'.*a number"),
  "null field": (b'\n{"body": null}', r"a.jsonl:2: no text.*'body'.*null"),
  "list": (b'{"body": ["x"]}', r"a.jsonl:1: no text.*'body'.*an array"),
  "object": (b'{"body": {}}', r"a.jsonl:1: no text.*'body'.*an object"),
  "null": (b'{"body": "x"}\nnull\n', r"a.jsonl:2: null, not an object"),
  "string": (b'"x"', r"a.jsonl:1: a string, not an object"),
  "later list": (b'{"body": ""}\n["x"]', r"a.jsonl:2: an array, not an obj"),
  "latin": (b'{"body": "\xff"}\n', r"a.jsonl:1: not UTF-8 at byte 10"),
  "deep": (b'{"body": ' + DEEP, r"a.jsonl:1: .*nested too deeply"),
  "deep list": (DEEP, r"a.jsonl:1: .*nested too deeply"),
  "digits": (b'{"n": ' + b"1" * 5000 + b"}", r"a.jsonl:1: .*4300 digits"),
  "array": (b'[{"body": "x"}]', r"a.jsonl is one JSON array.*jq -c '\.\[\]'"),
  "open array": (b'\n[\n{"body": "x"}\n]', r"one JSON array.*jq -c '\.\[\]'"),
  "pretty": (b'{\n  "body": "x"\n}\n', r"object over many lines.*jq -c \. "),
  "half pretty": (b'{"body": "x",\n"n": 1}\n', r"over many lines.*jq -c \. "),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_bad_lines_are_named(tmp_path, kind):
  data, message = BAD_LINES[kind]
  path = test_data_reading.save(tmp_path / "a.jsonl", data)
  with pytest.raises(ValueError, match=message) as caught:
    test_data_reading.read(path)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_line_has_a_longest_length(tmp_path, monkeypatch):
  monkeypatch.setattr(json_lines, "LONGEST_LINE", 2**20)
  line = json.dumps({"body": "x" * (2**20 - 13)}).encode() + b"\n"
  assert (
    len(
      test_data_reading.read(test_data_reading.save(tmp_path / "a.jsonl", line))
    )
    == 1
  )
  line = json.dumps({"body": "x" * 2**20}).encode()
  with pytest.raises(ValueError, match="a.jsonl:2: .*more than 1 MiB: divide"):
    test_data_reading.read(
      test_data_reading.save(
        tmp_path / "a.jsonl", test_data_reading.LINES[:16] + line
      )
    )
  with pytest.raises(ValueError, match="one JSON array"):
    test_data_reading.read(
      test_data_reading.save(tmp_path / "a.jsonl", b"[" + line)
    )


def test_half_a_surrogate_pair_is_not_passed_on(tmp_path):
  path = test_data_reading.save(
    tmp_path / "a.jsonl", b'{"body": "a\\ud800b"}\n'
  )
  assert test_data_reading.read(path) == ["a?b"]


@pytest.mark.parametrize("packer", ["plain", "gzip"])
@pytest.mark.parametrize("length", [1, 3 * 2**20], ids=["short", "long"])
def test_json_lines_under_another_name_are_refused(tmp_path, packer, length):
  line = json.dumps({"n": 1, "body": "x" * length}).encode() + b"\n"
  path = test_data_reading.save(
    tmp_path / "a.txt", test_data_reading.PACKERS[packer][1](b"\n" + line * 2)
  )
  with pytest.raises(ValueError, match="a.txt begins .*'body'.*to .jsonl"):
    test_data_reading.read(path)
  assert len(test_data_reading.read(path, "other")) >= 1
  for text in (b'{"other": 1}\n"body":', b"{ body }", b"{", b'["body"]'):
    assert test_data_reading.read(test_data_reading.save(path, text)) == [
      text.decode()
    ]
