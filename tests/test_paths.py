"""Paths as a user writes them, and the streams that a command prints to."""

import os
import subprocess
import sys

import pytest

from linformer_jax.data import cache
from linformer_jax.run import command_line, files, paths


@pytest.mark.parametrize(
  "path, expanded",
  [
    ("runs/x", "runs/x"),
    ("~", "{home}"),
    ("~/x", "{home}/x"),
    ("gs://bucket/x", "gs://bucket/x"),
    ("x/~/y", "x/~/y"),
    ("a b/[1]/é", "a b/[1]/é"),
  ],
)
def test_a_home_folder_is_found(path, expanded, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  expanded = expanded.format(home=tmp_path)
  assert paths.expand(path, "x", bucket=True) == expanded
  if not path.startswith("gs:"):
    assert cache.root_directory(path) == os.path.abspath(expanded)


def test_what_exists_is_taken_literally(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "~").mkdir()
  assert paths.expand("~", "x") == "~"


@pytest.mark.parametrize(
  "path", ["s3://x/y", "file:///x", "http://x", "~no-such-user/x"]
)
def test_what_leads_nowhere_is_named_with_its_field(path, monkeypatch):
  with pytest.raises(ValueError, match=f"--workdir={path}: "):
    files.folder(path)
  with pytest.raises(ValueError, match=f"data.cache_dir={path}: "):
    cache.root_directory(path)
  monkeypatch.setenv("LINFORMER_CACHE", path)
  with pytest.raises(ValueError, match=f"LINFORMER_CACHE={path}: "):
    cache.root_directory("")


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_that_is_none(home, monkeypatch):
  monkeypatch.setenv("HOME", home)
  with pytest.raises(ValueError, match="no home folder for ~"):
    paths.expand("~/x", "x")


def test_places_where_no_folder_can_be_made(tmp_path):
  (tmp_path / "file").touch()
  (tmp_path / "link").symlink_to(tmp_path / "nothing")
  files.check_place(tmp_path / "new" / "folder")
  for name in ("file/x", "file/x/y", "link", "x" * 300):
    with pytest.raises(OSError):
      files.check_place(tmp_path / name)


def test_a_config_that_is_not_here_is_taken_from_the_checkout(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert command_line.load_config("configs/smoke.py").model.max_length == 64
  (tmp_path / "configs").mkdir()
  here = tmp_path / "configs" / "smoke.py"
  here.write_text("raise ValueError('mine')")
  with pytest.raises(command_line.UsageError, match="line 1: mine"):
    command_line.load_config("configs/smoke.py")
  named = tmp_path / "a.py:b.py"  # and no argument
  named.write_text("raise ValueError('a colon')")
  with pytest.raises(command_line.UsageError, match="a colon"):
    command_line.load_config("a.py:b.py")


PRINTS = """
import sys
from linformer_jax.run import console
console.open_streams()
for number in range(100_000):
  console.say("a line with \\udc80 and é")
open(sys.argv[1], "w").write("done")
sys.exit(console.fail("a\\nb", 2))
"""


@pytest.mark.parametrize("redirection", ["| head -1", ">&-", ">&- 2>&- <&-"])
def test_nobody_has_to_read(redirection, tmp_path):
  command = f'{{ "$0" -c "$1" "$2"; echo $? >"$3"; }} {redirection}'
  words = ["bash", "-c", command, sys.executable, PRINTS]
  done = subprocess.run(
    [*words, tmp_path / "done", tmp_path / "status"],
    env=os.environ | {"PYTHONIOENCODING": "ascii"},
    capture_output=True,
    text=True,
  )
  assert (tmp_path / "done").read_text() == "done"
  assert (tmp_path / "status").read_text() == "2\n"
  told = "linformer_jax: a b\n" if "2>&-" not in redirection else ""
  assert done.stderr == told
