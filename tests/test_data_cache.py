"""The cache: written once, by one, whole; checked and mended when opened."""

import dataclasses
import errno
import fcntl
import json
import logging
import os
import pathlib
import subprocess
import sys
import threading
from concurrent import futures
from unittest import mock

import numpy as np
import pytest
import test_data_config

from linformer_jax.data import cache, pipeline
from linformer_jax.data.text import ingest, tokenizer

SETTINGS = {"a": 1}


@pytest.fixture
def builds(monkeypatch):
  """Counts calls of `ingest.build`."""
  counting = mock.Mock(wraps=ingest.build)
  monkeypatch.setattr(ingest, "build", counting)
  return counting


@pytest.fixture
def files(tmp_path):
  for i in range(20):
    words = [f"word{i * j % 17}" for j in range(60)]
    (tmp_path / f"{i:02d}.txt").write_text(" ".join(words))
  return test_data_config.config(
    tmp_path / "cache",
    source="files",
    files=f"{tmp_path}/*.txt",
    vocab_size=265,
  )


def entries(root):
  return [str(x) for x in pathlib.Path(root).iterdir() if x.is_dir()]


def hello(writer):
  with writer.file("hello.bin") as write:
    write(b"hello ")
    write(b"world")


def failing(error):
  """What builds an entry until it fails, with a part of it written."""

  def build(writer):
    hello(writer)
    raise error

  return build


def test_the_second_time_nothing_is_tokenized(files, builds):
  first = pipeline.prepare(files)
  again = pipeline.prepare(files)
  assert builds.call_count == 1 and first.directory == again.directory
  np.testing.assert_array_equal(first.train.tokens, again.train.tokens)
  np.testing.assert_array_equal(first.token_counts, again.token_counts)
  assert first.tokenizer.to_str() == again.tokenizer.to_str()


def test_what_does_not_change_the_tokens_shares_them(files, builds):
  pipeline.prepare(files)
  for changes in ({"sequence_length": 16}, {"seed": 5}):
    pipeline.prepare(dataclasses.replace(files, **changes))
  assert builds.call_count == 1


@pytest.mark.parametrize(
  "changes",
  [
    {"vocab_size": 290},
    {"holdout_fraction": 0.2},
    {"tokenizer_train_megabytes": 0.5},
    {"source": "synthetic", "files": ""},
  ],
)
def test_what_changes_the_tokens_has_an_entry_of_its_own(files, changes):
  first = pipeline.prepare(files)
  other = pipeline.prepare(dataclasses.replace(files, **changes))
  assert first.directory != other.directory


def test_a_changed_file_is_another_corpus(files, builds):
  first = pipeline.prepare(files)
  path = files.files.replace("*", "00")
  os.utime(path, ns=(1, 1))
  assert pipeline.prepare(files).directory == first.directory
  pathlib.Path(path).write_text("another text")
  assert pipeline.prepare(files).directory != first.directory
  assert builds.call_count == 2


def test_the_tokenizer_is_part_of_the_key(files, tmp_path):
  directories = set()
  for name, text in [("a", "ab ab ab"), ("b", "cd cd cd")]:
    path = tmp_path / f"{name}.json"
    tokenizer.train([text], 263).save(str(path))
    config = dataclasses.replace(files, tokenizer_path=str(path))
    directories.add(pipeline.prepare(config).directory)
  assert len(directories) == 2


def test_counts_are_those_of_training(files):
  corpus = pipeline.prepare(files)
  np.testing.assert_array_equal(
    corpus.token_counts, np.bincount(corpus.train.tokens, minlength=265)
  )
  assert corpus.train.tokens.dtype == np.uint16
  assert ingest.token_dtype(2**16) == np.uint16
  assert ingest.token_dtype(2**16 + 1) == np.uint32


def truncate(path):
  path.write_bytes(path.read_bytes()[:-2])


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize("harm", [truncate, flip, pathlib.Path.unlink])
@pytest.mark.parametrize(
  "name", ["train.bin", "counts.bin", "tokenizer.json", "meta.json"]
)
def test_damage_is_reported_in_a_line_and_mended(files, caplog, harm, name):
  first = pipeline.prepare(files)
  tokens = np.array(first.train.tokens)
  harm(pathlib.Path(first.directory) / name)
  caplog.clear()  # of the building, where an earlier test wants to see it
  with caplog.at_level(logging.WARNING, logger="linformer_jax"):
    mended = pipeline.prepare(files)
  (record,) = caplog.records
  message = record.getMessage()
  assert first.directory in message and name in message
  assert "\n" not in message
  np.testing.assert_array_equal(mended.train.tokens, tokens)
  assert entries(files.cache_dir) == [first.directory]


def test_files_are_hashed_if_they_were_touched_or_on_demand(tmp_path):
  directory = cache.open_or_build(str(tmp_path), "x", SETTINGS, hello)
  path = pathlib.Path(directory) / "hello.bin"
  written = path.stat()
  path.write_bytes(bytes(written.st_size))  # of the same size
  expected = "the checksum of hello.bin is wrong"
  assert cache.damage(directory, SETTINGS) == expected
  os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
  assert cache.damage(directory, SETTINGS) is None  # nothing tells
  token = cache.VERIFY.set(True)
  try:
    assert cache.damage(directory, SETTINGS) == expected
  finally:
    cache.VERIFY.reset(token)


def test_the_size_is_checked(tmp_path):
  directory = cache.open_or_build(str(tmp_path), "x", SETTINGS, hello)
  path = pathlib.Path(directory) / "hello.bin"
  written = path.stat()
  truncate(path)
  os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
  expected = "hello.bin has 9 bytes, not 11"
  assert cache.damage(directory, SETTINGS) == expected


def test_any_flipped_bit_of_the_record_is_noticed(tmp_path):
  directory = cache.open_or_build(str(tmp_path), "x", SETTINGS, hello)
  path = pathlib.Path(directory) / cache.META
  whole = path.read_bytes()
  meta = json.loads(whole)
  for i in range(len(whole)):
    path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
    if cache.damage(directory) is None:  # white space
      assert json.loads(path.read_bytes()) == meta, i


def test_another_entry_under_the_same_name_is_not_trusted(tmp_path):
  directory = cache.open_or_build(str(tmp_path), "x", SETTINGS, hello)
  assert cache.damage(directory, SETTINGS) is None
  assert "other settings" in cache.damage(directory, {"a": 2})


def test_a_file_in_the_place_of_an_entry_is_replaced(tmp_path):
  directory = cache.open_or_build(str(tmp_path), "x", SETTINGS, hello)
  for path in pathlib.Path(directory).iterdir():
    path.unlink()
  os.rmdir(directory)
  pathlib.Path(directory).write_text("in the way")
  assert cache.open_or_build(str(tmp_path), "x", SETTINGS, hello) == directory
  assert cache.damage(directory, SETTINGS) is None


def test_a_failed_build_leaves_nothing(tmp_path):
  build = failing(ValueError("no text"))
  with pytest.raises(ValueError, match="no text"):
    cache.open_or_build(str(tmp_path), "x", SETTINGS, build)
  assert not entries(tmp_path)


def test_a_full_disk_is_named_and_other_errors_stay(tmp_path):
  full, denied = (
    failing(OSError(number, os.strerror(number)))
    for number in (errno.ENOSPC, errno.EACCES)
  )
  message = f"cannot write to cache_dir {tmp_path}: .*No space left"
  with pytest.raises(ValueError, match=message):
    cache.open_or_build(str(tmp_path), "x", SETTINGS, full)
  with pytest.raises(PermissionError):
    cache.open_or_build(str(tmp_path), "x", SETTINGS, denied)
  assert not entries(tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
  monkeypatch.setattr(cache.shutil, "rmtree", lambda *_, **__: None)
  killed = failing(KeyboardInterrupt())
  with pytest.raises(KeyboardInterrupt):
    cache.open_or_build(str(tmp_path), "x", SETTINGS, killed)
  assert len(entries(tmp_path)) == 1
  monkeypatch.undo()
  directory = cache.open_or_build(str(tmp_path), "x", SETTINGS, hello)
  assert entries(tmp_path) == [directory]


def test_without_locks_the_first_rename_wins(tmp_path, monkeypatch):
  def no_locks(*_):
    raise OSError(errno.ENOLCK, "no locks here")

  monkeypatch.setattr(fcntl, "flock", no_locks)
  barrier = threading.Barrier(3, timeout=20)

  def build(writer):
    barrier.wait()
    hello(writer)

  def prepare(_):
    return cache.open_or_build(str(tmp_path), "x", SETTINGS, build)

  with futures.ThreadPoolExecutor(3) as pool:
    found = list(pool.map(prepare, range(3)))
  assert len(found) == 3 and len(set(found)) == 1
  assert entries(tmp_path) == [found[0]]
  assert cache.damage(found[0], SETTINGS) is None


RACER = """
import json, pathlib, sys, time
from linformer_jax.data import pipeline
from linformer_jax.data.text import ingest
root, me, fields = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
build = ingest.build
def slow(*args):
  (root / f"built-{me}").touch()
  time.sleep(0.3)  # Long enough for the other to arrive.
  build(*args)
ingest.build = slow
(root / f"ready-{me}").touch()
while len(list(root.glob("ready-*"))) < 2:
  time.sleep(0.001)
corpus = pipeline.prepare(pipeline.DataConfig(**json.loads(fields)))
print(corpus.directory, len(corpus.train))
"""


def test_two_processes_at_once_make_one_entry(files, tmp_path):
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", RACER, tmp_path, name, json.dumps(vars(files))],
      stdout=subprocess.PIPE,
      text=True,
    )
    for name in "ab"
  ]
  outputs = [process.communicate(timeout=60)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  assert outputs[0] == outputs[1]
  assert len(list(tmp_path.glob("built-*"))) == 1
  assert entries(files.cache_dir) == [outputs[0].split()[0]]


def test_the_folder_is_configured_or_from_the_environment(monkeypatch):
  monkeypatch.setenv("HOME", "/home/someone")
  monkeypatch.delenv("LINFORMER_CACHE", raising=False)
  default = "/home/someone/.cache/linformer_jax"
  assert cache.root_directory("") == default
  monkeypatch.setenv("LINFORMER_CACHE", "~/elsewhere")
  assert cache.root_directory("") == "/home/someone/elsewhere"
  assert cache.root_directory("/here") == "/here"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="cannot write to cache_dir .*file"):
    cache.open_or_build(str(tmp_path / "file"), "x", SETTINGS, hello)
