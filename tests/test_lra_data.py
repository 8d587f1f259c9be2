"""ListOps and images as texts, for the Long Range Arena."""

import itertools
import json
import math
import random
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from experiments.lra import listops, pathfinder, pixels, retrieval
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


def release_images(folder, count=30):
  """Images as Pathfinder's release has them: two lists of a folder each."""
  rng, found = np.random.default_rng(0), {}
  (folder / "metadata").mkdir(parents=True)
  for part in range(2):
    (folder / "imgs" / str(part)).mkdir(parents=True)
    lines = []
    for i in range(count // 2):
      pixel = rng.integers(0, 256, (4, 5)).astype(np.uint8)
      name, label = f"sample_{i}.png", int(rng.integers(2))
      PIL.Image.fromarray(pixel).save(folder / "imgs" / str(part) / name)
      lines.append(f"imgs/{part} {name} {i} {label} 2 0.5")
      found[tuple(pixel.ravel().tolist())] = label
    (folder / "metadata" / f"{part}.npy").write_text("\n".join(lines) + "\n")
  return found


def test_pathfinder_is_read_as_released(tmp_path, capsys):
  known = release_images(tmp_path / "hard")
  words = ["--images=pathfinder", f"--released={tmp_path / 'hard'}"]
  for name, seed in (("a", 0), ("b", 0), ("c", 1)):
    assert (
      pixels.main([*words, f"--to={tmp_path / name}", f"--seed={seed}"]) == 0
    )
  read = {
    name: [
      (tmp_path / name / f"{split}.jsonl").read_text().splitlines()
      for split in words_lib.SIZES
    ]
    for name in "abc"
  }
  assert read["a"] == read["b"] != read["c"]
  assert [len(rows) for rows in read["a"]] == [24, 3, 3]
  rows = [json.loads(line) for line in sum(read["a"], [])]
  found = {tuple(map(int, row["text"].split())): row["label"] for row in rows}
  assert found == known


@pytest.mark.parametrize("seed", range(3))
def test_no_path_touches_another_and_dots_are_at_their_ends(seed):
  recipe = pathfinder.Recipe()
  paths = pathfinder.draw_paths(random.Random(seed), recipe)
  assert [*map(len, paths)] == [14, 14, 4, 4, 4, 4, 4]
  points = [pathfinder.points_of(path) for path in paths]
  for one, other in itertools.combinations(points, 2):
    least = min(math.dist(a, b) for a in one for b in other)
    assert least > recipe.apart - 0.5  # cells are quarters of a pixel
  for one in points:
    for i, j in itertools.combinations(range(len(one)), 2):
      if j // 3 - i // 3 > 1:  # dashes that do not follow each other
        assert math.dist(one[i], one[j]) >= recipe.apart
  first, second = paths[:2]
  for label, other in ((1, first), (0, second)):
    drawn = pathfinder.image(random.Random(seed), recipe, label)
    gray = np.asarray(drawn)
    assert gray.shape == (32, 32) and gray.dtype == np.uint8
    for x, y in (first[0][0], other[-1][1]):
      assert gray[int(y), int(x)] > 200
    full = np.argwhere(gray == 255)  # nothing but dots fills a pixel
    ends = [first[0][0], other[-1][1]]
    for y, x in full:
      assert min(math.dist((x + 0.5, y + 0.5), end) for end in ends) < 2


def test_drawn_paths_are_read_like_the_release(tmp_path):
  words = [f"--to={tmp_path / 'a'}", "--count=20", "--dashes=6"]
  assert pathfinder.main([*words, "--distractors=1"]) == 0
  rows = pixels.listed(tmp_path / "a")
  assert len(rows) == 20 and {label for _, label in rows} == {0, 1}
  given = ["--images=pathfinder", f"--released={tmp_path / 'a'}"]
  assert pixels.main([*given, f"--to={tmp_path / 'b'}"]) == 0
  lines = (tmp_path / "b" / "train.jsonl").read_text().splitlines()
  assert len(json.loads(lines[0])["text"].split()) == 1_024


def test_a_release_that_is_not_one_is_told_in_a_line(tmp_path, capsys):
  words = ["--images=pathfinder", f"--to={tmp_path / 'to'}"]
  with pytest.raises(SystemExit):
    pixels.main(words)
  assert "needs --released=FOLDER" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    pixels.main([*words, f"--released={tmp_path}"])
  assert "has no metadata/*.npy" in capsys.readouterr().err
  release_images(tmp_path / "hard")
  (tmp_path / "hard" / "metadata" / "1.npy").write_text("imgs/1 a.png 0 2\n")
  with pytest.raises(SystemExit):
    pixels.main([*words, f"--released={tmp_path / 'hard'}"])
  assert "1.npy, line 1: not a folder" in capsys.readouterr().err
  assert not (tmp_path / "to").exists()


def release_pairs(folder):
  folder.mkdir()
  rows = {"train": 5, "eval": 2, "test": 3}
  for name, count in rows.items():
    lines = [
      f'{i % 2}.0\tP{i}\tQ{i}\t{name} "one {i}\tÉtude, {i}'
      for i in range(count)
    ]
    path = folder / f"new_aan_pairs.{name}.tsv"
    path.write_text("\n".join(lines) + "\n")


def test_pairs_of_documents_are_read_as_released(tmp_path, capsys):
  release_pairs(tmp_path / "tsv")
  words = [f"--released={tmp_path / 'tsv'}", f"--to={tmp_path / 'to'}"]
  assert retrieval.main(words) == 0
  counts = []
  for split in words_lib.SIZES:
    lines = (tmp_path / "to" / f"{split}.jsonl").read_text().splitlines()
    counts.append(len(lines))
  assert counts == [5, 2, 3]
  row = {"text": 'test "one 1', "text_pair": "Étude, 1", "label": 1}
  assert json.loads(lines[1]) == row
  (tmp_path / "tsv" / "new_aan_pairs.test.tsv").write_text("0.0\ta\tb\tc\n")
  with pytest.raises(SystemExit):
    retrieval.main(words)
  assert "test.tsv, line 1: not a label" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    retrieval.main([f"--released={tmp_path}", f"--to={tmp_path / 'x'}"])
  assert "is missing: --released names" in capsys.readouterr().err
  assert not (tmp_path / "x").exists()


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
