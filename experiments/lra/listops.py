"""Writes ListOps: nested lists of digits, and what they evaluate to.

  .venv/bin/python -m experiments.lra.listops --to=runs/lra/listops

Nangia and Bowman 2018 (arXiv 1804.06028) with the recipe of the Long Range
Arena (arXiv 2011.04006), whose sizes are the defaults: a node is an operator
with probability 1/4 down to a depth, and else a digit; a list has two arguments
or more; trees are drawn until the length fits, and none occurs twice. Writes
train.jsonl, valid.jsonl, test.jsonl and tokenizer.json; the same seed writes
the same files. The defaults take minutes.
"""

import argparse
import dataclasses
import json
import pathlib
import random
import statistics
import sys

from experiments.lra import words as words_lib
from linformer_jax.run import report

OPERATORS = {
  "[MIN": min,
  "[MAX": max,
  "[MED": lambda values: int(statistics.median(values)),
  "[SM": lambda values: sum(values) % 10,
}
END = "]"
WORDS = (*OPERATORS, END, *map(str, range(10)))
_OPERATOR_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How trees are drawn.

  Attributes:
    shortest, longest: words of a text, both exclusive as in the Arena.
    depth: of the innermost digits.
    arguments: of a list, at most.
  """

  shortest: int = 500
  longest: int = 2_000
  depth: int = 10
  arguments: int = 10


def draw(rng: random.Random, recipe: Recipe) -> tuple[list[str], int] | None:
  """Returns the words of a tree and its value; None if it grows too long."""
  words = []

  def node(depth: int) -> int:
    if len(words) >= recipe.longest:
      raise OverflowError
    if depth >= recipe.depth or rng.random() > _OPERATOR_SHARE:
      words.append(str(rng.randrange(10)))
      return int(words[-1])
    operator = rng.choice(list(OPERATORS))
    words.append(operator)
    count = rng.randint(2, recipe.arguments)
    values = [node(depth + 1) for _ in range(count)]
    words.append(END)
    return OPERATORS[operator](values)

  try:
    value = node(1)
  except OverflowError:
    return None
  return words, value


def evaluate(text: str) -> int:
  """Returns the value of a text."""
  stack = []
  for word in text.split():
    if word != END:
      stack.append(int(word) if word.isdigit() else word)
      continue
    values = []
    while isinstance(stack[-1], int):
      values.append(stack.pop())
    stack.append(OPERATORS[stack.pop()](values))
  (value,) = stack
  return value


def texts(count: int, recipe: Recipe, seed: int):
  """Yields pairs of a text and its value, no text twice."""
  rng, seen = random.Random(seed), set()
  while len(seen) < count:
    found = draw(rng, recipe)
    if found is None or not recipe.shortest < len(found[0]) < recipe.longest:
      continue
    text = " ".join(found[0])
    if text not in seen:
      seen.add(text)
      yield text, found[1]


def write(folder: pathlib.Path, sizes: dict[str, int], recipe: Recipe, seed=0):
  """Writes a file for each split, with so many texts, and the tokenizer."""
  folder.mkdir(parents=True, exist_ok=True)
  count = sum(sizes.values())
  made = words_lib.told(texts(count, recipe, seed), count, "texts")
  for split, size in sizes.items():
    with (folder / f"{split}.jsonl").open("w") as file:
      for _ in range(size):
        text, value = next(made)
        file.write(json.dumps({"text": text, "label": value}) + "\n")
  words_lib.tokenizer(WORDS).save(str(folder / "tokenizer.json"))
  report.say(f"{count:,} texts in {folder}")


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--to", required=True, help="the folder to write")
  parser.add_argument("--seed", type=int, default=0)
  for split, size in words_lib.SIZES.items():
    help_text = f"{split} texts (default {size:,})"
    parser.add_argument(f"--{split}", type=int, default=size, help=help_text)
  for field in dataclasses.fields(Recipe):
    parser.add_argument(
      f"--{field.name}", type=int, default=field.default,
      help=f"default {field.default:,}",
    )  # fmt: skip
  given = parser.parse_args(words)
  recipe = Recipe(given.shortest, given.longest, given.depth, given.arguments)
  if not 3 <= recipe.shortest + 1 < recipe.longest or recipe.arguments < 2:
    parser.error(
      f"--shortest={recipe.shortest} must be 2 or more and leave room below "
      f"--longest={recipe.longest}, and --arguments={recipe.arguments} be 2 or "
      "more"
    )
  sizes = {split: getattr(given, split) for split in words_lib.SIZES}
  write(pathlib.Path(given.to), sizes, recipe, given.seed)
  return 0


if __name__ == "__main__":
  sys.exit(main())
