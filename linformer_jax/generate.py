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

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from linformer_jax import loading, models
from linformer_jax.data import labeled
from linformer_jax.data.text import json_lines
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.run import console, files

_BATCH = 16  # prompts of a file that are continued together
_BLOCK = 64  # rows of a prompt read at a time, by an attention without blocks
_STRIDE = 16  # tokens between two looks at a batch of a file
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # of a character that is not whole yet


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a token is drawn.

  Attributes:
    temperature: that logits are divided by; 0 takes the likeliest token.
    top_k: draw from so many of the likeliest tokens; 0 for all.
    top_p: draw from the fewest tokens whose probabilities add up to this
      (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751).
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self):
    if not 0 <= self.temperature < math.inf:
      raise ValueError(f"temperature {self.temperature} must be 0 or more")
    if self.top_k < 0:
      raise ValueError(f"top_k {self.top_k} must be 0, for all, or more")
    if not 0 < self.top_p <= 1:
      raise ValueError(f"top_p {self.top_p} must be above 0, and 1 at most")

  def draw(self, logits: jax.Array, keys: jax.Array) -> jax.Array:
    """Returns a token of each row of logits [B, V], with a key for each."""
    if not self.temperature:
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits.astype(jnp.float32) / self.temperature
    if self.top_k and self.top_k < logits.shape[-1]:
      least = jax.lax.top_k(logits, self.top_k)[0][:, -1:]
      logits = jnp.where(logits < least, -jnp.inf, logits)
    if self.top_p < 1:
      # Keep a token if those likelier than it add up to less than top_p.
      ranked = jnp.sort(logits, axis=-1)[:, ::-1]
      shares = jax.nn.softmax(ranked)
      kept = jnp.cumsum(shares, axis=-1) - shares < self.top_p
      least = jnp.min(jnp.where(kept, ranked, jnp.inf), -1, keepdims=True)
      logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


class Generator:
  """A causal language model and its jitted steps.

  A token is drawn with a key of the seed, the prompt's own number and the
  token's position, so it does not depend on the other prompts of a batch.
  """

  def __init__(
    self,
    model: models.CausalLM,
    variables,
    sampling: Sampling = Sampling(),
    allowed: np.ndarray | None = None,
  ):
    """Prepares to generate.

    Args:
      model: the model.
      variables: its parameters and constants.
      sampling: how tokens are drawn.
      allowed: bool [V], the tokens that may be drawn, or None for all.

    Raises:
      ValueError: if it is no causal language model, or an attention has no
        cache.
    """
    if not isinstance(model, models.CausalLM):
      name = type(model).__name__
      raise ValueError(
        f"this is a {name}, which does not generate text: train one with "
        "configs/causal.py"
      )
    self.config, self._variables = model.config, variables
    models.init_cache(model.config, 1, 1)
    self._model, self._sampling = model, sampling
    self._allowed = allowed
    self.block = models.extend_block(model.config) or _BLOCK
    self._read = jax.jit(self._extend, donate_argnums=2)
    self._jitted = jax.jit(self._steps, static_argnums=5, donate_argnums=1)

  def _extend(self, variables, tokens, cache, start, count):
    return self._model.apply(
      variables, tokens, cache, start, count, method="extend"
    )

  def write(self, cache, logits, at, keys, count: int):
    """Draws `count` tokens of each sequence, a program for each count.

    Args:
      cache, logits, at: as `prefill` returns them; the cache is donated.
      keys: a random key for each sequence.
      count: tokens to draw.

    Returns:
      (cache, logits, at) after them, and the tokens, int32 [B, count].
    """
    return self._jitted(self._variables, cache, logits, at, keys, count)

  def _steps(self, variables, cache, logits, at, keys, count):
    """Draws `count` tokens; returns the state, and them, [B, count]."""

    def step(state, _):
      cache, logits, at = state
      if self._allowed is not None:
        logits = jnp.where(self._allowed, logits, -jnp.inf)
      drawn = self._sampling.draw(
        logits, jax.vmap(jax.random.fold_in)(keys, at)
      )
      one = jnp.ones_like(at)
      logits, cache = self._extend(variables, drawn[:, None], cache, at, one)
      return (cache, logits, at + 1), drawn

    state, drawn = jax.lax.scan(step, (cache, logits, at), length=count)
    return state, drawn.T

  def check(self, length: int, number: int):
    """Raises a ValueError unless a prompt has a length and room to grow."""
    if length < 1 or number < 1:
      raise ValueError(
        f"{length} tokens of a prompt and {number} new ones: both must be at "
        "least 1"
      )
    if self.config.rotary:
      return  # there is no table that could end
    if length + number > self.config.max_length:
      raise ValueError(
        f"{length} tokens of a prompt and {number} new ones are more than the "
        f"model's max_length {self.config.max_length}: ask for fewer"
      )

  def prefill(self, prompts: list[np.ndarray], length: int):
    """Reads prompts, a block of rows at a time.

    Args:
      prompts: ids of each, at least one.
      length: the most tokens of a sequence, with those to come.

    Returns:
      The cache, float32 logits [B, V] of the next token, and how many tokens
      each has, int32 [B].
    """
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    step = self.block
    tokens = np.zeros(
      (len(prompts), -(-lengths.max() // step) * step), np.int32
    )
    for row, prompt in zip(tokens, prompts, strict=True):
      row[: len(prompt)] = prompt
    # Whole blocks, and so fewer programs to compile.
    cache = models.init_cache(
      self.config, len(prompts), -(-length // step) * step
    )
    logits = jnp.zeros((len(prompts), self.config.vocab_size), jnp.float32)
    for at in range(0, tokens.shape[1], step):
      count = np.clip(lengths - at, 0, step)
      start = np.minimum(lengths, at)
      found, cache = self._read(
        self._variables, tokens[:, at : at + step], cache, start, count
      )
      logits = jnp.where(count[:, None] > 0, found, logits)
    return cache, logits, lengths

  def tokens(
    self,
    prompts: list[np.ndarray],
    number: int,
    seed: int = 0,
    names: list[int] | None = None,
    stride: int = 1,
  ) -> Iterator[np.ndarray]:
    """Yields the next tokens, int32 [B, stride or fewer], `number` in all.

    Args:
      prompts: ids of each, at least one.
      number: tokens to add to each.
      seed: of the draws.
      names: a number for each prompt; by default they are counted from 0.
      stride: tokens drawn between two yields.

    Raises:
      ValueError: if a prompt is empty, or prompt and `number` together are
        longer than the model's max_length.
    """
    names = range(len(prompts)) if names is None else names
    most = max(map(len, prompts))
    for prompt in prompts:
      self.check(len(prompt), number)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    keys = fold(jax.random.key(seed), jnp.asarray(list(names), jnp.uint32))
    state = self.prefill(prompts, most + number)
    for first in range(0, number, stride):
      count = min(stride, number - first)
      state, drawn = self.write(*state, keys, count)
      yield np.asarray(drawn)


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

  def __init__(self, run: loading.Run, sampling: Sampling = Sampling()):
    """Takes a run or an exported model.

    Raises:
      ValueError: see `Generator`.
    """
    size = getattr(run.model.config, "vocab_size", 0)
    allowed = np.arange(size) < tokenizer_lib.size(run.tokenizer)
    special = run.special
    allowed[[special.bos, special.pad, special.mask, special.unk]] = False
    self._run = run
    self._generator = Generator(run.model, run.variables, sampling, allowed)

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
    there = files.whole_lines(path)
    skipped = sum(1 for _ in itertools.islice(rows, there))
    if skipped < there:
      raise ValueError(
        f"{to} has {there:,} lines, and {source} only {skipped:,} rows: name "
        "another file"
      )
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
