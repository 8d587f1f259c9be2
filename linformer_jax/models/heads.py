"""Token encoders and their heads: language models, classes, matching."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from linformer_jax.attention import masks
from linformer_jax.models import encoder as encoder_lib
from linformer_jax.models.config import ModelConfig
from linformer_jax.models.inputs import tokens as inputs
from linformer_jax.parallel import layout


class TokenEncoder(nn.Module):
  """Encoder of tokens, without a head; `embed` beside the encoder's layers.

  Attributes:
    config: sizes and choices.
    causal: whether a row attends only to itself and earlier rows.
  """

  config: ModelConfig
  causal: bool = False

  def setup(self):
    self.embed = inputs.Tokens(self.config)
    self.rows = encoder_lib.Encoder(self.config, self.causal)
    nn.share_scope(self, self.rows)

  def __call__(self, tokens, mask=None, segments=None, deterministic=True):
    """Returns [B, N, M].

    Args:
      tokens: ids [B, N], N at most `max_length`.
      mask: see `Encoder`. Positions count from the start of each document.
      segments: see `inputs.tokens.Tokens`.
      deterministic: False applies dropout (rng 'dropout').

    Raises:
      ValueError: see `Encoder` and `inputs.tokens.Tokens`.
    """
    mask = masks.check(mask, tokens.shape, documents=True)
    positions = None
    if isinstance(mask, masks.Documents):
      positions = mask.positions()
    rows = self.embed(tokens, segments, positions)
    return self.rows(rows, mask, deterministic)

  def extend(self, tokens, cache, start, count):
    """Returns the rows of the next tokens int [B, n]; see `Encoder.extend`."""
    return self.rows.extend(
      self.embed.extend(tokens, start), cache, start, count
    )

  def attend(self, x):
    """Returns logits from the token embeddings; see `Tokens.attend`."""
    return self.embed.attend(x)


class MaskedLM(nn.Module):
  """Encoder with RoBERTa's masked-LM head, tied to the token embeddings."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self, tokens, mask=None, positions=None, segments=None, deterministic=True
  ):
    """Returns logits over the vocabulary.

    Args:
      tokens, mask, segments, deterministic: see `TokenEncoder`.
      positions: int [B, P], where to predict, or None for everywhere.

    Returns:
      float32 [B, P, V], or [B, N, V] if positions is None.

    Raises:
      ValueError: see `TokenEncoder`.
    """
    config = self.config
    encoder = TokenEncoder(config, name="encoder")
    x = encoder(tokens, mask, segments, deterministic)
    if positions is not None:
      x = jnp.take_along_axis(x, positions[..., None], axis=1)
    x = layout.constrain(x, "batch", "sequence")
    x = encoder_lib.Dense(
      config.embed_dim,
      dtype=config.dtype,
      kernel_init=config.kernel_init(),
      name="head_dense",
    )(x)
    x = encoder_lib.layer_norm(config, "head_norm")(
      nn.gelu(x, approximate=False)
    )
    bias = self.param("head_bias", nn.initializers.zeros, (config.vocab_size,))
    return layout.constrain(
      encoder.attend(x) + bias, "batch", "sequence", "vocab"
    )


class CausalLM(nn.Module):
  """Encoder with causal attention and logits tied to the token embeddings."""

  config: ModelConfig

  def setup(self):
    self.encoder = TokenEncoder(self.config, causal=True)

  def __call__(self, tokens, mask=None, segments=None, deterministic=True):
    """Returns logits of the next token at every position.

    Args:
      tokens, mask, segments, deterministic: see `TokenEncoder`.

    Returns:
      float32 [B, N, V]; logits at position i do not depend on later tokens.

    Raises:
      ValueError: see `TokenEncoder`; also if the attention cannot be causal.
    """
    rows = self.encoder(tokens, mask, segments, deterministic)
    logits = self.encoder.attend(rows)
    return layout.constrain(logits, "batch", "sequence", "vocab")

  def extend(self, tokens, cache, start, count):
    """Returns logits of the last of the next tokens, and the cache.

    Args:
      tokens: int [B, n], which continue sequences.
      cache: of the tokens before, as `cache.init_cache` makes it.
      start: int32 [B], how many those are; see `MultiHeadAttention.extend`.
      count: int32 [B], the real ones of the n, which come first.

    Returns:
      float32 [B, V], and the cache. Logits of a sequence with count 0 mean
      nothing.
    """
    rows, cache = self.encoder.extend(tokens, cache, start, count)
    last = jnp.maximum(count - 1, 0)[:, None, None]
    rows = jnp.take_along_axis(rows, last, axis=1)
    return self.encoder.attend(rows)[:, 0], cache


class Classifier(nn.Module):
  """Encoder with RoBERTa's classification head on the first position.

  Attributes:
    config: sizes and choices.
    num_classes: C.
  """

  config: ModelConfig
  num_classes: int

  @nn.compact
  def __call__(self, tokens, mask=None, segments=None, deterministic=True):
    """tokens int [B, N] -> logits float32 [B, C]; see `TokenEncoder`."""
    encoder = TokenEncoder(self.config, name="encoder")
    x = encoder(tokens, mask, segments, deterministic)[:, 0]
    return _classify(self.config, self.num_classes, x, deterministic)


class Matcher(nn.Module):
  """Two towers with one set of weights, and a head on both first positions.

  Each text is encoded alone, as for retrieval in the Long Range Arena (arXiv
  2011.04006). The head is RoBERTa's, on the rows u and v and on u * v and
  u - v (Mou et al. 2016, arXiv 1512.08422).

  Attributes:
    config: sizes and choices.
    num_classes: C.
  """

  config: ModelConfig
  num_classes: int

  @nn.compact
  def __call__(self, tokens, mask=None, deterministic=True):
    """tokens int [B, 2, N] -> logits float32 [B, C]; see `TokenEncoder`."""
    encoder = TokenEncoder(self.config, name="encoder")
    rows = (-1, tokens.shape[-1])
    if mask is not None:
      mask = masks.check(mask, tokens.shape).reshape(rows)
    x = encoder(tokens.reshape(rows), mask, deterministic=deterministic)[:, 0]
    u, v = jnp.moveaxis(x.reshape(-1, 2, x.shape[-1]), 1, 0)
    x = jnp.concatenate([u, v, u * v, u - v], axis=-1)
    return _classify(self.config, self.num_classes, x, deterministic)


def _classify(config: ModelConfig, num_classes: int, x, deterministic):
  """Returns logits float32 [B, C] of x [B, ...] by RoBERTa's head."""
  drop = nn.Dropout(config.dropout_rate, deterministic=deterministic)

  def dense(features, dtype, name):
    kernel_init = config.kernel_init()
    return encoder_lib.Dense(
      features, dtype=dtype, kernel_init=kernel_init, name=name
    )

  x = dense(config.embed_dim, config.dtype, "head_dense")(drop(x))
  x = drop(jnp.tanh(x)).astype(jnp.float32)
  return dense(num_classes, jnp.float32, "head_out")(x)


def num_parameters(params: Any) -> int:
  """Returns the number of elements in a tree of arrays or shapes."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
