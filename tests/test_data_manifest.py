"""Files are found under whatever name they have, and hashed once."""

import json
import os
import pathlib

import pytest

from linformer_jax.data.text import manifest, progress


def found(patterns):
  return [os.path.basename(p) for p in manifest.find(patterns, "data.files")]


def touch(folder, *names):
  for name in names:
    path = pathlib.Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)


def test_globs_are_joined_and_a_file_is_named_once(tmp_path):
  touch(tmp_path, "a.txt", "deep/er/b.txt")
  patterns = f"{tmp_path}/a.txt, {tmp_path}/**/*.txt"
  assert found(patterns) == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
  "name",
  ["x[1].txt", "a,b.txt", "a, b.txt", " c ", "*.txt", "what?", "d~", "**", "☃"],
)
def test_what_exists_is_taken_literally(tmp_path, name):
  touch(tmp_path, name, "x1.txt", "a", "b.txt", "whats")
  assert found(f"{tmp_path}/{name}") == [name]
  if name.strip() == name:
    assert set(found(f"{tmp_path}/{name},{tmp_path}/x1.txt")) == {
      name,
      "x1.txt",
    }


@pytest.mark.parametrize("folder", ["x[1]", "a,b", "a b", "*", "~", "**"])
def test_a_folder_before_a_glob_is_taken_literally(
  tmp_path, monkeypatch, folder
):
  touch(tmp_path, f"{folder}/right.txt", "x1/wrong.txt", "a/wrong.txt")
  assert found(f"{tmp_path}/{folder}/*.txt") == ["right.txt"]
  both = f"{tmp_path}/{folder}/*.txt,{tmp_path}/{folder}/r*"
  assert found(both) == ["right.txt"]
  monkeypatch.chdir(tmp_path)
  if folder != "~":
    assert found(f"{folder}/r*") == ["right.txt"]
  assert found(f"{folder}/right.txt") == ["right.txt"]


def test_a_list_of_globs_is_no_glob(tmp_path, monkeypatch):
  touch(tmp_path, "a.txt", "b.md", "c.txt,d.md")
  monkeypatch.chdir(tmp_path)
  assert found("*.txt,*.md") == ["a.txt", "b.md", "c.txt,d.md"]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  touch(tmp_path, "data/a.txt")
  assert found("~/data/*.txt,~/data/a.txt") == ["a.txt"]


def test_what_is_not_there_is_named(tmp_path):
  touch(tmp_path, "a.txt", "folder/b.txt")
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(
    manifest.MissingText, match=r"data.files: no file matches .*/nothing\*"
  ):
    found(f"{tmp_path}/a.txt,{tmp_path}/nothing*")
  for pattern in (tmp_path, f"{tmp_path}/fold*", f"{tmp_path}/folder/"):
    with pytest.raises(ValueError, match=r"only folders.*\*\*/\*\.txt"):
      found(str(pattern))
  with pytest.raises(ValueError, match="pipe.* is not a regular file"):
    found(f"{tmp_path}/pipe")
  with pytest.raises(ValueError, match="no glob"):
    found(" , ")
  for url in ("gs://bucket/a.txt", "s3://x/*", "https://example.org/a.txt"):
    with pytest.raises(ValueError, match="data.files=.*not supported here"):
      found(f"{tmp_path}/a.txt,{url}")


@pytest.fixture
def reads(monkeypatch):
  """The files that were hashed."""
  seen = []
  hashed = manifest._sha256

  def counting(path, report):
    seen.append(os.path.basename(path))
    return hashed(path, report)

  monkeypatch.setattr(manifest, "_sha256", counting)
  return seen


def test_hashes_are_remembered_until_a_file_changes(tmp_path, reads):
  touch(tmp_path, "a.txt", "b.txt")
  files = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
  cache = str(tmp_path / "cache")
  first = manifest.digests(files, cache)
  assert manifest.digests(files, cache) == first
  assert reads == ["a.txt", "b.txt"]
  os.utime(files[0], ns=(1, 1))
  assert manifest.digests(files, cache) == first
  assert reads == ["a.txt", "b.txt"] * 2
  assert manifest.digests(files, "") == first
  assert len(reads) == 6


@pytest.mark.parametrize(
  "damage",
  ["", "[", "null", "[]", '["x", "y"]', "[1, 2]", "[" * 100_000, "\xff"],
  ids=["empty", "cut", "null", "none", "words", "numbers", "deep", "bytes"],
)
def test_a_damaged_memory_is_ignored(tmp_path, reads, damage):
  touch(tmp_path, "a.txt", "b.txt")
  files = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
  cache = tmp_path / "cache"
  first = manifest.digests(files, str(cache))
  (memo,) = cache.iterdir()
  memo.write_bytes(damage.encode("latin-1"))
  assert manifest.digests(files, str(cache)) == first and len(reads) == 4
  assert len(json.loads(memo.read_text())) == 2


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, reads):
  touch(tmp_path, "a.txt", "cache")
  files = [str(tmp_path / "a.txt")]
  for _ in range(2):
    ((_, size, _),) = manifest.digests(files, str(tmp_path / "cache"))
  assert size == 5 and len(reads) == 2
  assert sorted(os.listdir(tmp_path)) == ["a.txt", "cache"]


def test_a_file_that_is_gone_is_named(tmp_path):
  with pytest.raises(ValueError, match="cannot read .*a.txt"):
    manifest.digests([str(tmp_path / "a.txt")], "")


def test_hashing_is_reported(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(progress, "SECONDS_BETWEEN_REPORTS", 0.0)
  touch(tmp_path, "a.txt")
  with caplog.at_level("INFO", logger="linformer_jax"):
    manifest.digests([str(tmp_path / "a.txt")], "")
  assert "Hashing files: 1 documents" in caplog.text
