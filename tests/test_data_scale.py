"""Memory and time of preparing text: bounded, and linear in its size.

The tests of an hour take 1 GB in each shape; `test_small` takes a few MB of
each, in one process, and bounds what the process adds by bytes for a byte of
text.
"""

import json
import random
import subprocess
import sys

import pytest

MIB = 2**20

SCRIPT = """
import json, logging, os, resource, sys
from linformer_jax.data import pipeline
sys.path.insert(0, "tests")
import test_data_config
logging.basicConfig(level=logging.INFO, format="%(message)s")

def peak():  # ru_maxrss begins with what the parent process had
  with open("/proc/self/status") as status:
    lines = [line for line in status if line.startswith("VmHWM")]
  return int(lines[0].split()[1]) * 1024

root, shapes = sys.argv[1], sys.argv[2:]
before = peak()
for shape in shapes:
  corpus = pipeline.prepare(test_data_config.config(
    f"{root}/cache", source="files", files=f"{root}/{shape}/*",
    holdout_fraction=0.05, vocab_size=700, tokenizer_train_megabytes=2.0))
  used = resource.getrusage(resource.RUSAGE_SELF)
  print(json.dumps({
    "shape": shape, "before": before, "peak": peak(),
    "seconds": used.ru_utime + used.ru_stime,
    "train": len(corpus.train.tokens), "held": len(corpus.validation.tokens),
  }))
"""


def blocks():
  """Endless text of seeded words, 16 kB at a time, few of them alike."""
  rng = random.Random(0)
  words = [
    "".join(rng.choice("bcdfgklmnprst") + rng.choice("aeiou") for _ in "abc")
    for _ in range(200)
  ]
  ready = [" ".join(rng.choices(words, k=2300)) for _ in range(64)]
  while True:
    yield f"{rng.random()} {rng.choice(ready)}"


def one_line(folder, size):
  with open(folder / "a.txt", "w") as file:
    for block in blocks():
      file.write(block + " ")
      if file.tell() >= size:
        return


def lines(folder, size):
  with open(folder / "a.txt", "w") as file:
    for block in blocks():
      file.write(block.replace(" ba", "\nba") + "\n\n")
      if file.tell() >= size:
        return


def many_files(folder, size):
  count = 3000
  text = blocks()
  for i in range(count):
    one = " ".join(next(text) for _ in range(-(-size // count // 16_000)))
    (folder / f"{i}.txt").write_text(one[: size // count])


def long_runs(folder, size):
  rng = random.Random(1)
  runs = (" ", "=", "\n", "a", "-=", "aZ9+")
  with open(folder / "a.txt", "w") as file:
    for i, block in enumerate(blocks()):
      file.write(block)
      if i % 16 == 0:
        file.write("".join(rng.choices(rng.choice(runs), k=300_000)))
      if file.tell() >= size:
        return


def json_lines(folder, size):
  """Half of the text in documents of 16 MB, or of a fifth of the whole."""
  text = blocks()
  with open(folder / "a.jsonl", "w") as file:
    while file.tell() < size:
      long = []
      for _ in range(min(1000, size // 5 // 16_000)):
        long.append(next(text))
        file.write(json.dumps({"text": next(text)}) + "\n")
      file.write(json.dumps({"text": " ".join(long)}) + "\n")


SHAPES = {
  "one_line": one_line,
  "lines": lines,
  "many_files": many_files,
  "long_runs": long_runs,
  "json_lines": json_lines,
}


def measured(tmp_path, size, *shapes):
  for shape in shapes:
    (tmp_path / shape).mkdir(parents=True)
    SHAPES[shape](tmp_path / shape, size)
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT, str(tmp_path), *shapes],
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  rows = list(map(json.loads, done.stdout.splitlines()))
  print(*rows, sep="\n")
  return rows


@pytest.mark.slow
def test_small(tmp_path):
  size = 4_000_000
  rows = measured(tmp_path, size, *SHAPES)
  assert [row["shape"] for row in rows] == list(SHAPES)
  for row in rows:
    # A batch of 1 MiB takes up to 200 bytes for each; a text in memory whole
    # took 120 for each of all of them.
    assert row["peak"] - row["before"] < 48 * size, row
    assert 0 < row["held"] < row["train"] / 4, row


@pytest.mark.hour
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gigabyte(tmp_path, shape):
  (small,) = measured(tmp_path / "small", 125_000_000, shape)
  (large,) = measured(tmp_path / "large", 1_000_000_000, shape)
  assert large["peak"] < 1024 * MIB
  # Processor seconds, those of imports among them; a half more for noise.
  assert large["seconds"] < 8 * 1.5 * small["seconds"]
