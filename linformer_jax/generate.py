"""Continues texts with a causal language model, a token at a time.

import linformer_jax
from linformer_jax import generate

run = linformer_jax.load("runs/causal")
writer = generate.TextGenerator(run, generate.Sampling(top_p=0.9))
for pieces in writer.stream(["The people"], number=50):
  print(pieces[0], end="", flush=True)

What earlier tokens leave is in a cache, so a token costs what its attention
costs for one row.
"""

import itertools
import json
import pathlib
from collections.abc import Iterator

import numpy as np

from linformer_jax import loading
from linformer_jax.data import labeled
from linformer_jax.data.text import json_lines
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.models import generator
from linformer_jax.run import console, files

Sampling, Generator = generator.Sampling, generator.Generator

_BATCH = 16  # prompts of a file that are continued together
_STRIDE = 16  # tokens between two looks at a batch of a file
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # of a character that is not whole yet


class _Text:
  """The text of one sequence, as it grows.

  Attributes:
    text: what has been generated and is whole.
    done: whether the text has ended.
  """

  def __init__(self, run: loading.Run, prompt: list[int], stop: str):
    self._run, self._prompt, self._stop = run, prompt, stop
    self._before = run.tokenizer.decode(prompt)
    self._ids, self.text, self.done = [], "", False

  def add(self, token: int) -> None:
    """Adds a token; the end of a text, or `stop`, is left out."""
    if self.done:
      return
    if token == self._run.special.eos:
      self.done = True
      return
    self._ids.append(token)
    # With the prompt, as a tokenizer may treat the first token differently.
    whole = self._run.tokenizer.decode(self._prompt + self._ids)
    self.text = whole[len(self._before) :]
    if self._stop and self._stop in self.text:
      self.text = self.text[: self.text.index(self._stop)]
      self.done = True

  def shown(self) -> str:
    """Returns the text that nothing to come can change."""
    if self.done:
      return self.text
    text = self.text.rstrip(_BROKEN)
    for size in range(min(len(self._stop) - 1, len(text)), 0, -1):
      if text.endswith(self._stop[:size]):  # perhaps the start of `stop`
        return text[:-size]
    return text


class TextGenerator:
  """Continues texts by a causal language model.

  A text ends after `number` tokens, with the token that ends a text in
  training, or before the string `stop`.
  """

  def __init__(self, run: loading.Run, sampling: Sampling | None = None):
    """Takes a run or an exported model; by default tokens are drawn from all.

    Raises:
      ValueError: see `Generator`.
    """
    size = getattr(run.model.config, "vocab_size", 0)
    allowed = np.arange(size) < tokenizer_lib.size(run.tokenizer)
    special = run.special
    allowed[[special.bos, special.pad, special.mask, special.unk]] = False
    self._run = run
    self._generator = Generator(
      run.model, run.variables, sampling or Sampling(), allowed
    )

  def _prompt(self, text: str) -> np.ndarray:
    """Returns the ids of a row of training that begins with a text."""
    ids = tokenizer_lib.encode(self._run.tokenizer, [text])[0]
    return np.array([self._run.special.bos, *ids], np.int32)

  def check(self, text: str, number: int):
    """Raises a ValueError if a text and `number` tokens are too long."""
    self._generator.check(len(self._prompt(text)), number)

  def _grow(self, prompts, number, seed, stop, names, stride):
    """Yields the texts of all prompts each time that they have grown."""
    rows = [self._prompt(text) for text in prompts]
    texts = [_Text(self._run, row.tolist(), stop) for row in rows]
    left = number
    for drawn in self._generator.tokens(rows, number, seed, names, stride):
      left -= drawn.shape[1]
      for text, tokens in zip(texts, drawn, strict=True):
        for token in tokens:
          text.add(int(token))
        text.done |= not left
      yield texts
      if all(text.done for text in texts):
        return

  def stream(
    self, prompts: list[str], number: int = 100, seed: int = 0, stop: str = ""
  ) -> Iterator[list[str]]:
    """Yields the next piece of text of each prompt; it may be empty.

    Args:
      prompts: the texts to continue; '' is a text's beginning.
      number: tokens to add, at most.
      seed: of the draws.
      stop: a string that ends a text, and is left out; '' for none.

    Raises:
      ValueError: if a prompt and `number` are longer than the model takes.
    """
    shown = [0] * len(prompts)
    for texts in self._grow(prompts, number, seed, stop, None, stride=1):
      found = [text.shown() for text in texts]
      pieces = [x[at:] for x, at in zip(found, shown, strict=True)]
      shown = [max(len(x), at) for x, at in zip(found, shown, strict=True)]
      yield pieces

  def complete(
    self,
    prompts: list[str],
    number: int = 100,
    seed: int = 0,
    stop: str = "",
    names: list[int] | None = None,
  ) -> list[str]:
    """Returns what `stream` yields for each prompt, joined.

    Args:
      prompts, number, seed, stop: as for `stream`.
      names: as for `Generator.tokens`.
    """
    grown = self._grow(prompts, number, seed, stop, names, _STRIDE)
    *_, texts = grown
    return [text.text for text in texts]

  def complete_file(
    self, source: str, to: str, number: int = 100, seed: int = 0, stop: str = ""
  ) -> tuple[int, int]:
    """Appends a line to `to` for each prompt of a file that has none yet.

    Args:
      source: JSON lines, CSV or TSV with the prompts in the field `text`.
      to: JSON lines of `text` and `completion`; complete lines of an earlier
        call are kept.
      number, seed, stop: as for `stream`.

    Returns:
      (lines that were there, lines written).

    Raises:
      ValueError: in one line, for a bad row; lines before it are written.
    """
    path, rows = pathlib.Path(to), enumerate(_prompts(source))
    there = files.skip_answered(rows, source, to)
    written = 0
    with path.open("a", encoding="utf-8") as file:
      while batch := list(itertools.islice(rows, _BATCH)):
        for _, (text, place) in batch:
          try:
            self.check(text, number)
          except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        names, texts = [i for i, _ in batch], [text for _, (text, _) in batch]
        found = self.complete(texts, number, seed, stop, names)
        for text, completion in zip(texts, found, strict=True):
          line = {"text": text, "completion": completion}
          file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        written += len(batch)
        console.say(f"{there + written:,} prompts")
    return there, written


def _prompts(source: str) -> Iterator[tuple[str, str]]:
  """Yields each prompt of a file, and its place."""
  for value, place in labeled.values(source, ["text"]):
    yield json_lines.text_of(value, "text", place), place
