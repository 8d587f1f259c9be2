"""Rows from tokens: embeddings of tokens, positions and, if any, segments."""

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.models.config import ModelConfig
from linformer_jax.parallel import gradients, layout


class Tokens(nn.Module):
  """Sum of token, position and segment embeddings, tied by `attend`.

  With rotary positions, there are no position embeddings.
  """

  config: ModelConfig

  def setup(self):
    config = self.config
    self.tokens = nn.Embed(
      config.vocab_size, config.embed_dim, embedding_init=config.token_init()
    )
    if not config.rotary:
      self.positions = self.param(
        "positions",
        config.positions_init(),
        (config.max_length + config.position_offset, config.embed_dim),
      )
    if config.num_segments:
      self.segments = nn.Embed(
        config.num_segments,
        config.embed_dim,
        embedding_init=nn.initializers.normal(config.embedding_std),
      )

  def __call__(self, tokens, segments=None, positions=None):
    """Returns rows float32 [B, N, M].

    Args:
      tokens: int [B, N], N at most `max_length`.
      segments: int [B, N], BERT's token types, or None for all 0.
      positions: int [B, N] from 0, or None for 0 to N - 1.

    Raises:
      ValueError: for more tokens than `max_length`, or segments of a model
        without segment embeddings.
    """
    config, length = self.config, tokens.shape[1]
    if length > config.max_length:
      raise ValueError(
        f"input of {length} tokens is longer than the model's max_length "
        f"{config.max_length}"
      )
    table = layout.constrain(self.tokens.embedding, "vocab")
    rows = jnp.take(table, tokens, axis=0)
    start = config.position_offset
    if not config.rotary and positions is None:
      positions = self.positions[start : start + length]
      # Reshard in two steps; XLA lowers each to an all-to-all.
      positions = layout.constrain(positions, None, "columns")
      rows += layout.constrain(positions, "sequence")
    elif not config.rotary:
      rows += jnp.take(self.positions, start + positions, axis=0)
    if config.num_segments:
      rows += self.segments(
        jnp.zeros_like(tokens) if segments is None else segments
      )
    elif segments is not None:
      raise ValueError("segments need a model with num_segments of 2 or more")
    return layout.constrain(rows, "batch", "sequence")

  def extend(self, tokens, start):
    """Returns rows float32 [B, n, M] of the next tokens.

    Args:
      tokens: int [B, n].
      start: int [B], the tokens before them.
    """
    rows = jnp.take(self.tokens.embedding, tokens, axis=0)
    if not self.config.rotary:
      at = self.config.position_offset + start[:, None]
      at = at + jnp.arange(tokens.shape[1])
      rows += jnp.take(self.positions, at, axis=0, mode="clip")
    if self.config.num_segments:
      rows += self.segments(jnp.zeros_like(tokens))
    return rows

  def attend(self, x):
    """x [B, P, M] -> logits [B, P, V] float32, x times the token embeddings."""
    dtype = self.config.dtype
    table = gradients.cast(self.tokens.embedding, dtype)
    return gradients.einsum("bpm,vm->bpv", x.astype(dtype), table, jnp.float32)
