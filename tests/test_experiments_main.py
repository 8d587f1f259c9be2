"""python -m experiments: names, flags, statuses, and what is rendered when."""

import importlib.util
import sys

import pytest

from experiments import __main__ as main_lib


@pytest.fixture
def ran(monkeypatch):
  """ran(words, statuses): the exit status, and the modules that were run."""

  def run(*words, **statuses):
    calls = []

    def start(module, *rest):
      calls.append((module, *rest))
      return statuses.get(module.split(".")[-1], 0)

    monkeypatch.setattr(main_lib, "run", start)
    monkeypatch.setattr(sys, "argv", ["experiments", *words])
    return main_lib.main(), calls

  return run


def test_every_module_is_there():
  for measure, page in main_lib.EXPERIMENTS.values():
    for module in filter(None, (measure, page)):
      assert importlib.util.find_spec(f"experiments.{module}"), module


def test_a_page_is_rendered_after_measuring(ran):
  status, calls = ran("theorems", "--only=x")
  assert status == 0
  assert calls == [("theorems.measure", "--only=x"), ("theorems.render",)]


@pytest.mark.parametrize("word", ["--list", "--help", "--results=x.jsonl"])
def test_no_page_is_rendered_after_looking(ran, word):
  assert ran("speed", word) == (0, [("speed.measure", word)])


@pytest.mark.parametrize("status, rendered", [(1, True), (2, False)])
def test_the_status_is_that_of_the_measurement(ran, status, rendered):
  found, calls = ran("faults", campaign=status)
  assert found == status
  assert (("faults.render",) in calls) == rendered


def test_every_page_is_rendered_at_once(ran):
  status, calls = ran("render", render=0)
  assert status == 0 and calls[-1] == ("summary",)
  pages = {page for _, page in main_lib.EXPERIMENTS.values()}
  assert {module for (module,) in calls[:-1]} == pages


def test_a_wrong_name_is_one_line(ran, capsys):
  assert ran("sped") == (2, [])
  err = capsys.readouterr().err
  assert err.count("\n") == 1 and "'sped' is not one of render, smoke" in err


def test_names_are_listed(ran, capsys):
  assert ran() == (0, [])
  assert "speed, memory" in capsys.readouterr().out
