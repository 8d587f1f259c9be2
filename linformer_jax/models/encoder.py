"""RoBERTa's encoder with Linformer or softmax attention, in linen."""

import functools
import itertools

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax import attention as attention_lib
from linformer_jax.attention import functional, heads, masks
from linformer_jax.attention import linformer as linformer_lib
from linformer_jax.models import config as model_config
from linformer_jax.parallel import layout

ModelConfig = model_config.ModelConfig


def layer_norm(config, name):
  return nn.LayerNorm(
    epsilon=config.norm_epsilon,
    dtype=config.dtype,
    use_fast_variance=False,
    name=name,
  )


class Embed(nn.Module):
  """Token and position embeddings, tied to the output by `attend`."""

  config: ModelConfig

  def setup(self):
    config = self.config
    self.tokens = nn.Embed(
      config.vocab_size, config.embed_dim, embedding_init=config.token_init()
    )
    self.positions = self.param(
      "positions",
      config.positions_init(),
      (config.max_length + config.position_offset, config.embed_dim),
    )

  def __call__(self, tokens):
    """tokens int [B, N] -> [B, N, M] float32.

    Raises:
      ValueError: for more tokens than `max_length`.
    """
    length = tokens.shape[1]
    if length > self.config.max_length:
      raise ValueError(
        f"input of {length} tokens is longer than the model's max_length "
        f"{self.config.max_length}"
      )
    start = self.config.position_offset
    positions = self.positions[start : start + length]
    # Reshard in two steps; XLA lowers each to an all-to-all.
    positions = layout.constrain(positions, None, "columns")
    positions = layout.constrain(positions, "sequence")
    table = layout.constrain(self.tokens.embedding, "vocab")
    return jnp.take(table, tokens, axis=0) + positions

  def attend(self, x):
    """x [B, P, M] -> logits [B, P, V] float32, x times the token embeddings."""
    dtype = self.config.dtype
    return jnp.einsum(
      "bpm,vm->bpv",
      x.astype(dtype),
      self.tokens.embedding.astype(dtype),
      preferred_element_type=jnp.float32,
    )


def _attention(config, projected_length, causal):
  """Returns the attention module of one layer."""
  query_init, key_init = config.query_and_key_init(projected_length)
  common = dict(
    num_heads=config.num_heads,
    dropout_rate=config.attention_dropout_rate,
    query_block=config.query_block,
    implementation=config.attention_implementation,
    dtype=config.dtype,
    kernel_init=config.kernel_init(),
    query_init=query_init,
    key_init=key_init,
  )
  if config.attention == "softmax":
    return attention_lib.SoftmaxSelfAttention(causal=causal, **common)
  if causal:
    raise ValueError(
      f"attention {config.attention!r} is not causal: each of its slots sees "
      "the whole sequence; set model.attention=softmax"
    )
  return attention_lib.LinformerSelfAttention(
    max_length=config.max_length,
    projected_length=projected_length,
    sharing=config.sharing,
    projection=config.projection,
    projection_init=config.weights_init(),
    local_window=config.local_window,
    **common,
  )


class Block(nn.Module):
  """One encoder layer: attention and MLP, each with residual and layer norm."""

  config: ModelConfig
  projected_length: int
  causal: bool = False

  def setup(self):
    config = self.config
    self.attention = _attention(config, self.projected_length, self.causal)
    self.attention_norm = layer_norm(config, None)
    self.mlp_norm = layer_norm(config, None)
    dense = functools.partial(
      nn.Dense, dtype=config.dtype, kernel_init=config.kernel_init()
    )
    self.mlp_in = dense(config.mlp_dim)
    self.mlp_out = dense(config.embed_dim)
    self.drop = nn.Dropout(config.dropout_rate)

  def _from_queries(self, x, memory, deterministic):
    """Applies the part of the layer after its keys and values, row-wise."""
    drop = functools.partial(self.drop, deterministic=deterministic)

    def attend(y):
      return drop(self.attention.attend(y, memory, deterministic))

    def mlp(y):
      y = layout.constrain(self.mlp_in(y), "batch", "sequence", "mlp")
      return drop(self.mlp_out(nn.gelu(y, approximate=False)))

    if self.config.norm_position == "post":
      x = self.attention_norm(x + attend(x))
      return self.mlp_norm(x + mlp(x))
    x = x + attend(self.attention_norm(x))
    return x + mlp(self.mlp_norm(x))

  def __call__(self, x, mask=None, shared=None, deterministic=True):
    """[B, N, M] -> [B, N, M]; same arguments as the attention modules."""
    mask = masks.check(mask, x.shape[:2])
    memory = x = heads.select_real(x, mask)
    if self.config.norm_position == "pre":
      memory = heads.select_real(self.attention_norm(x), mask)
    memory = self.attention.keys_and_values(memory, x.shape[-1], mask, shared)
    x = heads.in_query_blocks(
      self,
      lambda self, *args: self._from_queries(*args, deterministic),
      x,
      memory,
      self.config.query_block,
      self.config.remat,
    )
    return layout.constrain(x, "batch", "sequence")


class _ScannedBlock(nn.Module):
  """A Block with the signature of nn.scan: (carry, ...) -> (carry, out)."""

  config: ModelConfig
  projected_length: int
  causal: bool

  @nn.compact
  def __call__(self, x, mask, shared, deterministic):
    block = Block
    # A layer with query blocks recomputes each block instead.
    in_blocks = functional.is_longer(x, self.config.query_block)
    if self.config.remat and not in_blocks:
      # Only unrolled layers need a CSE barrier. Argument 4 is deterministic.
      block = nn.remat(
        Block, prevent_cse=not self.config.scan_layers, static_argnums=(4,)
      )
    block = block(self.config, self.projected_length, self.causal, name="block")
    return block(x, mask, shared, deterministic), None


class Encoder(nn.Module):
  """Embeddings and layers.

  Consecutive layers with the same projected length run in one nn.scan.

  Attributes:
    config: sizes and choices.
    causal: whether a row attends only to itself and earlier rows.
  """

  config: ModelConfig
  causal: bool = False

  def setup(self):
    config = self.config
    self.embed = Embed(config)
    self.drop = nn.Dropout(config.dropout_rate)
    self.norm = layer_norm(config, None)
    self.shared = None
    if config.attention == "linformer" and config.sharing == "layerwise":
      self.shared = linformer_lib.SequenceProjection(
        config.projection,
        config.max_length,
        config.projected_lengths[0],
        weights_init=config.weights_init(),
        name="projection",
      )
    groups = []
    runs = itertools.groupby(config.projected_lengths)
    if config.attention == "softmax":
      runs = [(0, range(config.num_layers))]
    for k, run in runs:
      depth = len(list(run))
      if config.scan_layers:
        scanned = nn.scan(
          _ScannedBlock,
          variable_axes={"params": 0, "constants": 0},
          split_rngs={"params": True, "dropout": True},
          in_axes=nn.broadcast,
          length=depth,
        )
        name = f"layers_{len(groups)}"
        groups.append(scanned(config, k, self.causal, name=name))
      else:
        for _ in range(depth):
          name = f"layer_{len(groups)}"
          groups.append(_ScannedBlock(config, k, self.causal, name=name))
    self.groups = groups

  def __call__(self, tokens, mask=None, deterministic=True):
    """tokens int [B, N], mask [B, N] -> [B, N, M].

    Args:
      tokens: ids, N at most `max_length`.
      mask: bool or integers 0 and 1, True at real tokens, or None if all are;
        see `masks.check`.
      deterministic: False applies dropout (rng 'dropout').

    Raises:
      ValueError: for an input longer than `max_length`, or a mask of the wrong
        shape or dtype (such as an additive mask).
    """
    config = self.config
    mask = masks.check(mask, tokens.shape)
    x = layout.constrain(self.embed(tokens), "batch", "sequence")
    x = heads.select_real(x, mask)
    if config.norm_position == "post":
      x = self.norm(x)
    x = self.drop(x.astype(config.dtype), deterministic=deterministic)
    shared = None
    if self.shared is not None:
      shared = self.shared(config.embed_dim // config.num_heads)
    for group in self.groups:
      x, _ = group(x, mask, shared, deterministic)
    return self.norm(x) if config.norm_position == "pre" else x

  def attend(self, x):
    """Returns logits from the token embeddings; see `Embed.attend`."""
    return self.embed.attend(x)
