"""ListOps and images as texts, for the Long Range Arena."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest

from experiments.lra import listops, pixels
from experiments.lra import words as words_lib
from linformer_jax.data.text import special
from linformer_jax.data.text import tokenizer as tokenizer_lib

SMALL = listops.Recipe(shortest=10, longest=60)


@pytest.mark.parametrize(
  "text, value",
  [
    ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
    ("[MIN 2 9 [MAX 4 7 ] 5 ]", 2),
    ("[SM 9 9 [SM 1 1 ] 4 ]", 4),
    ("[MED 1 2 ]", 1),  # the integer part of 1.5
    ("[MED 9 1 5 ]", 5),
    ("7", 7),
  ],
)
def test_values_of_lists(text, value):
  assert listops.evaluate(text) == value


def test_texts_have_their_value_and_length_and_are_distinct():
  found = list(listops.texts(300, SMALL, seed=0))
  assert found == list(listops.texts(300, SMALL, seed=0))
  assert found[:5] != list(listops.texts(5, SMALL, seed=1))
  assert len({text for text, _ in found}) == 300
  for text, value in found:
    assert listops.evaluate(text) == value
    assert SMALL.shortest < len(text.split()) < SMALL.longest
  counts = np.bincount([value for _, value in found], minlength=10)
  assert np.all(counts > 0)


def test_nodes_are_drawn_by_the_published_recipe():
  """A root is an operator with probability 1/4; lists have 2 to 10 arguments.

  Trees that are too long are left out, so long ones must be allowed.
  """
  rng = random.Random(0)
  recipe = listops.Recipe(0, 10**6, depth=2, arguments=10)
  drawn = [listops.draw(rng, recipe)[0] for _ in range(4_000)]
  lists = [words for words in drawn if len(words) > 1]
  # Five standard deviations of a binomial share.
  assert abs(len(lists) / 4_000 - 0.25) < 5 * (0.25 * 0.75 / 4_000) ** 0.5
  sizes = [len(words) - 2 for words in lists]  # digits alone, at this depth
  assert {*sizes} == set(range(2, 11))
  assert {words[0] for words in lists} == set(listops.OPERATORS)
  assert listops.draw(rng, listops.Recipe(0, 0)) is None


def test_listops_are_written_as_labeled_texts(tmp_path, capsys):
  words = ["--to", f"{tmp_path}/a", "--train=20", "--valid=3", "--test=4"]
  assert listops.main([*words, "--shortest=10", "--longest=60"]) == 0
  assert "27 texts in" in capsys.readouterr().out
  rows = {
    split: [
      json.loads(line)
      for line in (tmp_path / "a" / f"{split}.jsonl").read_text().splitlines()
    ]
    for split in words_lib.SIZES
  }
  assert [len(found) for found in rows.values()] == [20, 3, 4]
  tokenizer = tokenizer_lib.load(tmp_path / "a" / "tokenizer.json", 20)
  assert special.of(tokenizer).ids == (0, 1, 2, 3, 4)
  text = rows["test"][0]["text"]
  (ids,) = tokenizer_lib.encode(tokenizer, [text])
  assert [tokenizer.id_to_token(i) for i in ids] == text.split()
  with pytest.raises(SystemExit):
    listops.main(["--to=x", "--shortest=60", "--longest=60"])
  assert "leave room below --longest=60" in capsys.readouterr().err


def test_images_are_words_of_gray_levels(tmp_path):
  rng = np.random.default_rng(0)
  images, labels = rng.integers(0, 17, (20, 3, 4)), rng.integers(0, 10, 20)
  splits = {"train": (images, labels), "test": (images[:2], labels[:2])}
  pixels.write(tmp_path, splits, 17)
  sizes = {}
  for split in words_lib.SIZES:
    lines = (tmp_path / f"{split}.jsonl").read_text().splitlines()
    sizes[split] = len(lines)
  assert sizes == {"train": 18, "valid": 2, "test": 2}
  row = json.loads(lines[1])
  tokenizer = tokenizer_lib.load(tmp_path / "tokenizer.json", 22)
  (ids,) = tokenizer_lib.encode(tokenizer, [row["text"]])
  np.testing.assert_array_equal(ids - 5, images[1].ravel())
  assert row["label"] == labels[1]


def test_white_is_white_and_black_is_black():
  colors = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], np.uint8)
  assert pixels.gray(colors).tolist() == [0, 255, 76]


_MOCKED = """
import tensorflow_datasets as tfds
from experiments.lra import pixels
with tfds.testing.mock_data(num_examples=10):
  pixels.main(["--images=cifar10", "--to={}"])
"""


@pytest.mark.slow
def test_cifar10_comes_through_tfds(tmp_path):
  # In a process whose XLA flags are the user's.
  subprocess.run([sys.executable, "-c", _MOCKED.format(tmp_path)], check=True)
  line = json.loads((tmp_path / "test.jsonl").read_text().splitlines()[0])
  levels = np.array(line["text"].split(), int)
  assert levels.shape == (32 * 32,) and levels.max() < 256
