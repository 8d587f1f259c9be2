"""Grids of measurements: what is measured, what is left alone, what is told."""

import dataclasses
import json

import pytest

from experiments import grid


@dataclasses.dataclass(frozen=True)
class Item:
  n: int
  kind: str = "a"


ITEMS = [Item(1), Item(2), Item(3, "b")]


def run(path, *words):
  """The items that a command line measures."""
  given = grid.parser("doc", path).parse_args(words)
  measured = []

  def measure(item):
    measured.append(item)
    return {"found": 10 * item.n}

  grid.work(ITEMS, given, measure, lambda line: f"found {line['found']}")
  return measured


def test_a_grid_goes_on_where_it_was(tmp_path, capsys):
  path = tmp_path / "results" / "x.jsonl"
  assert run(path, '--only="kind": "a"') == ITEMS[:2]
  with path.open("a") as file:  # a kill cuts a line short
    file.write('{"n": 3, "kind": "b", "fou')
  assert set(grid.records(path, Item)) == set(ITEMS[:2])
  assert run(path) == ITEMS[2:]
  assert run(path) == []
  assert run(path, "--again", '--only="n": 2') == [ITEMS[1]]
  found = grid.records(path, Item)
  assert {item: line["found"] for item, line in found.items()} == {
    item: 10 * item.n for item in ITEMS
  }
  assert all(
    {"commit", "device", "time", "wall_seconds"} <= set(line)
    for line in found.values()
  )
  assert "found 30" in capsys.readouterr().out


def test_the_list_measures_nothing(tmp_path, capsys):
  path = tmp_path / "x.jsonl"
  assert run(path, "--list") == []
  listed = capsys.readouterr().out.splitlines()
  assert [Item(**json.loads(line)) for line in listed] == ITEMS
  assert not path.exists()


def test_words_that_nothing_holds(tmp_path):
  with pytest.raises(SystemExit, match="nothing holds all of"):
    run(tmp_path / "x.jsonl", "--only=there is none")
