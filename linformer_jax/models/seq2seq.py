"""An encoder and a decoder that attends to its rows (Vaswani et al. 2017).

Cross-attention may be any that takes a memory. If it projects the rows of the
source to K slots, it does so once, and a generated token costs O(K) in each
layer, whatever the length of the source; that of softmax attention costs O(N).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from linformer_jax.attention import base, masks
from linformer_jax.models import encoder as encoder_lib
from linformer_jax.models.config import ModelConfig
from linformer_jax.models.inputs import tokens as inputs


class DecoderBlock(nn.Module):
  """Causal attention, cross-attention and MLP, each after its layer norm.

  Attributes:
    config: sizes and choices of the decoder.
    kind: the causal attention.
    cross: the attention to the source's rows.
    source: sizes and choices of the encoder.
  """

  config: ModelConfig
  kind: base.AttentionConfig
  cross: base.AttentionConfig
  source: ModelConfig

  def setup(self):
    config = self.config
    sizes = config.sizes(self.kind, causal=True)
    self.kind.check(sizes)
    self.attention = self.kind.module(sizes)
    # Its memory is as long as a source, and its queries are the decoder's.
    sizes = self.source.sizes(self.cross)
    self.cross.check(sizes)
    self.cross_attention = self.cross.module(sizes)
    self.norms = [encoder_lib.layer_norm(config, f"norm_{i}") for i in range(3)]
    dense = functools.partial(
      encoder_lib.Dense, dtype=config.dtype, kernel_init=config.kernel_init()
    )
    self.mlp_in, self.mlp_out = dense(config.mlp_dim), dense(config.embed_dim)
    self.drop = nn.Dropout(config.dropout_rate)

  def read(self, memory, mask=None):
    """Returns what all rows of the decoder attend to, of a source's rows."""
    self.cross_attention.check(self.config.embed_dim, memory=True)
    return self.cross_attention.summarise(
      memory, mask, features=self.config.embed_dim
    )

  def _around(self, attention, x, summary, deterministic):
    drop = functools.partial(self.drop, deterministic=deterministic)
    first, second, third = self.norms
    x = x + drop(attention(first(x)))
    x = x + drop(
      self.cross_attention.attend(
        second(x), summary, deterministic=deterministic
      )
    )
    y = nn.gelu(self.mlp_in(third(x)), approximate=False)
    return x + drop(self.mlp_out(y))

  def __call__(self, x, summary, mask=None, deterministic=True):
    """Returns rows [B, N, M]; `summary` is made by `read`."""

    def attention(y):
      return self.attention(y, mask=mask, deterministic=deterministic)

    return self._around(attention, x, summary, deterministic)

  def extend(self, x, cache, start, count):
    """Returns the next rows, and their cache: (of attention, the summary)."""
    cache, summary = cache
    found = []

    def attention(y):
      y, new = self.attention.extend(y, cache, start, count)
      found.append(new)
      return y

    x = self._around(attention, x, summary, deterministic=True)
    return x, (found[0], summary)


class EncoderDecoder(nn.Module):
  """Maps source tokens to target tokens.

  Each has its own embeddings; the target's are tied to the logits.

  Attributes:
    source: sizes and choices of the encoder.
    target: those of the decoder, whose attention is causal; of the same width.
    cross: the decoder's attention to the source.
  """

  source: ModelConfig
  target: ModelConfig
  cross: base.AttentionConfig

  def setup(self):
    for name in ("embed_dim", "num_heads"):
      one, other = getattr(self.source, name), getattr(self.target, name)
      if one != other:
        raise ValueError(f"{name} of source {one} and of target {other} differ")
    self.embed = inputs.Tokens(self.target)
    self.source_embed = inputs.Tokens(self.source)
    self.encoder = encoder_lib.Encoder(self.source)
    self.blocks = [
      DecoderBlock(self.target, kind, self.cross, self.source)
      for kind in self.target.layers
    ]
    self.norm = encoder_lib.layer_norm(self.target, None)

  def read(self, tokens, mask=None, deterministic=True):
    """Encodes a source: what each decoder layer attends to.

    Args:
      tokens: int [B, N].
      mask: bool [B, N], True at real tokens, or None.
      deterministic: False applies dropout (rng 'dropout').

    Returns:
      A list of the summaries of the cross-attentions.
    """
    mask = masks.check(mask, tokens.shape)
    rows = self.encoder(self.source_embed(tokens), mask, deterministic)
    if mask is not None:
      rows = jnp.where(mask[..., None], rows, 0)
    return [block.read(rows, mask) for block in self.blocks]

  def __call__(
    self, source, target, source_mask=None, mask=None, deterministic=True
  ):
    """Returns logits of the next target token, float32 [B, T, V].

    Args:
      source: int [B, N].
      target: int [B, T]; logits at t depend on tokens 0 to t alone.
      source_mask, mask: True at real tokens of either, or None.
      deterministic: False applies dropout (rng 'dropout').
    """
    summaries = self.read(source, source_mask, deterministic)
    mask = masks.check(mask, target.shape)
    x = self.embed(target)
    for block, summary in zip(self.blocks, summaries, strict=True):
      x = block(x, summary, mask, deterministic)
    return self.embed.attend(self.norm(x))

  def begin(self, tokens, mask, length: int):
    """Returns the cache of targets without tokens, for `extend`.

    Args:
      tokens, mask: sources; see `read`.
      length: the most tokens of a target.

    Raises:
      ValueError: if an attention of the decoder has no cache.
    """
    cache = []
    for block, summary in zip(
      self.blocks, self.read(tokens, mask), strict=True
    ):
      sizes = self.target.sizes(block.kind, causal=True)
      rows = jax.tree.map(
        lambda x: jnp.zeros((len(tokens), *x.shape), x.dtype),
        block.kind.init_cache(sizes, length),
      )
      cache.append((rows, summary))
    return cache

  def extend(self, tokens, cache, start, count):
    """Returns logits of the last of the next tokens, and the cache.

    Args:
      tokens: int [B, n], which continue targets.
      cache: as `begin` returns it.
      start, count: int32 [B]; see `MultiHeadAttention.extend`.

    Returns:
      float32 [B, V], and the cache.
    """
    x, after = self.embed.extend(tokens, start), []
    for block, before in zip(self.blocks, cache, strict=True):
      x, new = block.extend(x, before, start, count)
      after.append(new)
    last = jnp.maximum(count - 1, 0)[:, None, None]
    x = jnp.take_along_axis(self.norm(x), last, axis=1)
    return self.embed.attend(x)[:, 0], after
