"""How a corpus differs from the one that a run was trained on, in words."""

import json

import pytest

from linformer_jax.data import cache
from linformer_jax.data.text import provenance

A, B = ["/x/a.txt", 3, "a" * 64], ["/x/b.txt", 4, "b" * 64]
NEW = ["/x/c.txt", 5, "c" * 64]
TEXT = {"source": {"name": "toy/1.0.0", "files": ["a" * 64, "b" * 64]}}


def record(inputs=(A, B), text=TEXT):
  tokens = {"train.bin": {"bytes": 2, "sha256": "d" * 64}}
  return provenance.Record(text, list(inputs), tokens, "/cache/x", "0.23")


def changed(*inputs):
  text = {"source": {"name": "toy/1.0.0", "files": [x[2] for x in inputs]}}
  return provenance.changes(record(), text, list(inputs))


def test_the_same_content_is_the_same_text():
  assert changed(A, B) == ""
  moved = [["/y/a.txt", 3, "a" * 64], ["/y/b.txt", 4, "b" * 64]]
  assert changed(*moved) == ""


@pytest.mark.parametrize(
  "inputs, words",
  [
    ((A, B, NEW), "/x/c.txt is new"),
    ((A,), "/x/b.txt is gone"),
    ((A, ["/x/b.txt", 4, "e" * 64]), "/x/b.txt has changed"),
    ((A, ["/y/b.txt", 4, "e" * 64]), "/y/b.txt has changed"),
    ((A, NEW), "/x/c.txt is new; /x/b.txt is gone"),
    ((B, A), "another order"),
    ((A, A, B), "/x/a.txt is new"),
    ((NEW, ["/d", 1, "0"], ["/e", 1, "1"], ["/f", 1, "2"]), "and 3 more"),
  ],
)
def test_what_is_not_is_named(inputs, words):
  assert words in changed(*inputs)


def test_without_files_the_fields_that_differ_are_named():
  text = {"source": TEXT["source"] | {"name": "toy/2.0.0"}}
  said = provenance.changes(record(), text, [A, B])
  assert said == "source.name was 'toy/1.0.0' and is 'toy/2.0.0'"


def test_a_record_is_read_as_it_was_written():
  assert provenance.from_json(record().to_json()) == record()


@pytest.mark.parametrize(
  "text",
  ["", "null", "[1]", "{}", "{", '{"text": 1}', "[" * 10**5]
  + [record().to_json().replace('"/cache/x"', "7")],
  ids=["empty", "null", "list", "no-field", "cut", "wrong", "deep", "number"],
)
def test_a_damaged_record_is_a_value_error(text):
  with pytest.raises(ValueError):
    provenance.from_json(text)


def test_only_a_sound_entry_with_just_these_files_is_found(tmp_path):
  def build(writer):
    with writer.file("a") as write:
      write(b"abc")

  entry = cache.open_or_build(str(tmp_path), "x", {"n": 1}, build)
  files = cache.files_of(entry)
  (tmp_path / "junk").mkdir()
  (tmp_path / "null").mkdir()
  (tmp_path / "null" / cache.META).write_text(json.dumps(None))
  places = [str(path) for path in sorted(tmp_path.iterdir())]
  assert cache.find([str(tmp_path / "gone"), *places], files) == entry
  other = {"a": files["a"] | {"sha256": "0" * 64}}
  assert cache.find(places, other) is None
  with open(f"{entry}/a", "wb") as file:
    file.write(b"abd")
  assert cache.find(places, files) is None
