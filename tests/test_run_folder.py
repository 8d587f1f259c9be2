"""A run's folder: whole in itself, and true to what the run was trained on."""

import hashlib
import json
import os
import random
import re
import shutil

import pytest

from linformer_jax import train
from linformer_jax.run import workdir
from tests import runs

FLAGS = (
  "--config=tests/tiny.py",
  *runs.QUICK_FLAGS,
  "--config.data.source=files",
  "--config.data.files={tmp}/text/*.jsonl",
  "--workdir={tmp}/run",
)
EVALUATE = ("evaluate", "--workdir={tmp}/run")


def write_text(path, seed, documents=60):
  words = [f"word{i}" for i in range(50)]
  draw = random.Random(seed)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w") as file:
    for _ in range(documents):
      text = " ".join(draw.choices(words, k=40))
      file.write(json.dumps({"text": text}) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A folder with two files, a complete run on them, and the cache."""
  folder = tmp_path_factory.mktemp("made")
  write_text(folder / "text" / "a.jsonl", 1)
  write_text(folder / "text" / "b.jsonl", 2)
  experiment = runs.experiment(
    **runs.QUICK,
    data__source="files",
    data__files=f"{folder}/text/*.jsonl",
    data__cache_dir=f"{folder}/cache",
  )
  run = folder / "run"
  with workdir.claim(run, experiment.config, experiment.corpus):
    train.train_and_evaluate(experiment, run)
  return folder


@pytest.fixture
def run(made, command, tmp_path):
  """The same in {tmp}, as if it had been made there; returns the command."""
  shutil.copytree(made, tmp_path, dirs_exist_ok=True)
  for name in ("config.json", "corpus.json"):
    path = tmp_path / "run" / name
    text = path.read_text().replace(f"{made}/cache", f"{tmp_path}/cache")
    text = text.replace(f'"{tmp_path}/cache",', '"",')
    path.write_text(text.replace(str(made), str(tmp_path)))
  return command


def perplexity(found):
  status, out, err = found
  assert status == 0, err
  return re.search(r"validation perplexity ([\d.]+),", out)[1]


def refused(found, *words):
  status, _, err = found
  assert status == 2
  line = err.strip().splitlines()[-1]
  assert line.startswith("linformer_jax: ") and "Traceback" not in err
  for word in words:
    assert word in line


def test_the_folder_says_what_the_run_was_trained_on(run, tmp_path):
  folder = tmp_path / "run"
  record = json.loads((folder / "corpus.json").read_text())
  digest = hashlib.sha256((folder / "tokenizer.json").read_bytes())
  assert record["tokens"]["tokenizer.json"]["sha256"] == digest.hexdigest()
  for name in ("train.bin", "validation.bin"):
    path = os.path.join(record["directory"], name)
    with open(path, "rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert record["tokens"][name]["sha256"] == digest
  paths = [path for path, _, _ in record["inputs"]]
  assert paths == [str(tmp_path / "text" / f"{x}.jsonl") for x in "ab"]


def test_text_that_changed_is_named(run, tmp_path):
  before = perplexity(run(*EVALUATE))
  text = tmp_path / "text"

  write_text(text / "c.jsonl", 3)
  refused(run(*EVALUATE), "c.jsonl is new", "another --workdir")
  (tmp_path / "run" / "result.json").unlink()  # as if it were not complete
  refused(run("train", *FLAGS), "c.jsonl is new")
  (text / "c.jsonl").unlink()
  assert perplexity(run(*EVALUATE)) == before

  kept = (text / "b.jsonl").read_text()
  write_text(text / "b.jsonl", 4)
  refused(run(*EVALUATE), "b.jsonl has changed")
  (text / "b.jsonl").unlink()
  refused(run(*EVALUATE), "b.jsonl is gone")
  (text / "b.jsonl").write_text(kept)
  assert perplexity(run(*EVALUATE)) == before

  (text / "a.jsonl").rename(text / "z.jsonl")
  refused(run(*EVALUATE), "another order")


@pytest.mark.slow
def test_the_same_text_in_another_place_goes_on(run, tmp_path, monkeypatch):
  before = perplexity(run(*EVALUATE))
  os.utime(tmp_path / "text" / "a.jsonl", ns=(1, 1))
  assert perplexity(run(*EVALUATE)) == before
  # Copied, with a cache that has to be built anew, and the run moved as well.
  shutil.copytree(tmp_path / "text", tmp_path / "copy")
  shutil.rmtree(tmp_path / "text")
  shutil.rmtree(tmp_path / "cache")
  (tmp_path / "run").rename(tmp_path / "moved")
  flags = [
    flag.replace("/text/", "/copy/").replace("/run", "/moved") for flag in FLAGS
  ]
  status, out, err = run(
    "train", *flags, "--extend", "--config.train.num_steps=7"
  )
  assert status == 0, err
  assert "resuming at update 4 of 7" in out
  perplexity(run("evaluate", "--workdir={tmp}/moved"))


def test_without_the_text_the_tokens_do(run, tmp_path, monkeypatch):
  before = perplexity(run(*EVALUATE))
  shutil.rmtree(tmp_path / "text")
  assert perplexity(run(*EVALUATE)) == before
  (tmp_path / "cache").rename(tmp_path / "elsewhere")
  refused(run(*EVALUATE), "no file matches", "tokens of this run are neither")
  monkeypatch.setenv("LINFORMER_CACHE", str(tmp_path / "elsewhere"))
  assert perplexity(run(*EVALUATE)) == before
  status, out, err = run(
    "train", *FLAGS, "--extend", "--config.train.num_steps=7"
  )
  assert status == 0, err
  # Damaged tokens are not at hand.
  for path in (tmp_path / "elsewhere").glob("*/train.bin"):
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
  refused(run(*EVALUATE), "tokens of this run are neither")


def test_a_tokenizer_that_changed_is_named(run, tmp_path):
  command = run
  (tmp_path / "run").rename(tmp_path / "first")
  given = tmp_path / "given.json"
  shutil.copy(tmp_path / "first" / "tokenizer.json", given)
  own = f"--config.data.tokenizer_path={given}"
  assert command("train", *FLAGS, own)[0] == 0
  before = perplexity(command(*EVALUATE))
  tokenizer = json.loads(given.read_text())
  given.write_text(json.dumps(tokenizer))  # spelled otherwise, the same
  assert perplexity(command(*EVALUATE)) == before
  vocabulary = tokenizer["model"]["vocab"]
  first, second = list(vocabulary)[10:12]
  vocabulary[first], vocabulary[second] = (
    vocabulary[second],
    vocabulary[first],
  )
  given.write_text(json.dumps(tokenizer))
  refused(command(*EVALUATE), "tokenizer.sha256 was")
  given.unlink()
  assert perplexity(command(*EVALUATE)) == before


def test_files_that_are_damaged_or_gone(run, tmp_path):
  before = perplexity(run(*EVALUATE))
  record = tmp_path / "run" / "corpus.json"
  kept = record.read_text()
  for damaged in (kept[:100], "[]", '{"text": 3}', "null", ""):
    record.write_text(damaged)
    refused(run(*EVALUATE), "corpus.json cannot be read", "delete it")
  record.unlink()
  assert perplexity(run(*EVALUATE)) == before
  (tmp_path / "run" / "tokenizer.json").write_text("{")
  status, _, err = run(
    "train", *FLAGS, "--extend", "--config.train.num_steps=7"
  )
  assert status == 0, err
  assert json.loads((tmp_path / "run" / "tokenizer.json").read_text())
  assert json.loads(record.read_text())["tokens"] == json.loads(kept)["tokens"]


@pytest.mark.parametrize("name", ["train.log", "nohup.out", "odd-name"])
def test_a_log_in_the_folder_does_not_block_the_run(tmp_path, name):
  folder = tmp_path / "run"
  folder.mkdir()
  log = os.open(folder / name, os.O_WRONLY | os.O_CREAT)
  output = os.dup(1)
  os.dup2(log, 1)  # as ./launch.sh train ... > runs/x/NAME
  try:
    assert workdir.stored_config(folder) is None
  finally:
    os.dup2(output, 1)
  if name == "odd-name":
    with pytest.raises(ValueError, match="odd-name"):
      workdir.stored_config(folder)
