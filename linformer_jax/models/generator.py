"""Draws tokens from a causal language model, one after the other."""

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from linformer_jax.models import cache as cache_lib
from linformer_jax.models import heads

_BLOCK = 64  # rows of a prompt read at a time, by an attention without blocks


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
    model: heads.CausalLM,
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
    if not isinstance(model, heads.CausalLM):
      name = type(model).__name__
      raise ValueError(
        f"this is a {name}, which does not generate text: train one with "
        "configs/causal.py"
      )
    self.config, self._variables = model.config, variables
    cache_lib.init_cache(model.config, 1, 1)
    self._model, self._sampling = model, sampling
    self._allowed = allowed
    self.block = cache_lib.extend_block(model.config) or _BLOCK
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
    cache = cache_lib.init_cache(
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
