"""The workers of pytest-xdist have to collect the same tests, in one order."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parent.parent
COLLECT = """
  import sys
  import pytest
  options = ["--override-ini=addopts=", "-p", "no:cacheprovider"]
  sys.exit(pytest.main([*options, "--collect-only", "-q", *sys.argv[1:]]))
"""
# Another day, and folders that list their files the other way around.
ELSEWHERE = """
  import os, time
  now, scan, names = time.time, os.scandir, os.listdir
  class Backward(list):
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def close(self): pass
  def scandir(path="."):
    with scan(path) as entries:
      return Backward(reversed(list(entries)))
  time.time = lambda: now() + 86400
  os.scandir = scandir
  os.listdir = lambda path=".": names(path)[::-1]
"""


def collect(code, seed, folder):
  """Starts a process that prints the ids of the tests in a folder."""
  return subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(code), str(folder)],
    cwd=ROOT,
    env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"},
    stdout=subprocess.PIPE,
    text=True,
  )


def both(folder):
  """The ids by each of two processes that have little in common."""
  started = [
    collect(COLLECT, "1", folder),
    collect(ELSEWHERE + COLLECT, "2", folder),
  ]
  printed = [process.communicate()[0] for process in started]
  assert [process.returncode for process in started] == [0, 0], printed
  return [
    [line for line in text.splitlines() if "::" in line] for text in printed
  ]


@pytest.mark.slow
def test_every_process_collects_the_same_tests():
  first, second = both(ROOT / "tests")
  assert first == second and len(first) > 1000


def test_what_differs_is_found(tmp_path):
  for name in ("b", "a"):
    (tmp_path / name).touch()
  (tmp_path / "test_it.py").write_text(
    textwrap.dedent("""
      import gzip, os, pathlib, pytest
      HERE = pathlib.Path(__file__).parent
      @pytest.mark.parametrize("_", [gzip.compress(b"x")])
      def test_clock(_): pass
      @pytest.mark.parametrize("_", {"a", "b", "c", "d"})
      def test_set(_): pass
      @pytest.mark.parametrize("_", [p.name for p in HERE.iterdir()])
      def test_folder(_): pass
      @pytest.mark.parametrize("_", [p.name for p in HERE.glob("?")])
      def test_glob(_): pass
      @pytest.mark.parametrize("_", [os.getpid()])
      def test_process(_): pass
      def test_same(): pass
    """)
  )
  first, second = both(tmp_path)
  kinds = ("clock", "set", "folder", "glob", "process", "same")
  ids = [
    [[i for i in found if f"test_{kind}" in i] for kind in kinds]
    for found in (first, second)
  ]
  differ = [a != b for a, b in zip(*ids, strict=True)]
  assert all(ids[0]) and differ == [True] * 5 + [False]
