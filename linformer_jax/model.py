"""The model: RoBERTa's encoder with Linformer or softmax attention (linen)."""

import dataclasses
import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from linformer_jax import attention as attention_lib
from linformer_jax.attention import heads
from linformer_jax.attention import linformer as linformer_lib
from linformer_jax.attention import projection as projection_lib

ATTENTION = ("linformer", "softmax")
NORM_POSITIONS = ("post", "pre")
POSITION_INITS = ("normal", "sinusoidal")
DTYPES = ("float32", "bfloat16")


def _one_of(name, value, choices):
  if value not in choices:
    raise ValueError(f"{name} {value!r} is not one of {', '.join(choices)}")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Sizes and choices of a model, validated when made.

  Attributes:
    vocab_size: V.
    max_length: N, the longest input in tokens.
    num_layers: of the encoder.
    embed_dim: M.
    num_heads: H, divides M.
    mlp_dim: F.
    attention: 'linformer' or 'softmax'.
    projected_length: K, for all layers or one a layer. Unused by softmax.
    sharing: of E and F: 'none', 'headwise', 'key_value' or 'layerwise'.
    projection: 'linear', 'convolution', 'mean_pool', 'max_pool' or 'random'.
    norm_position: 'post' (RoBERTa) or 'pre'.
    position_offset: unused rows ahead in the position table; RoBERTa's 2.
    position_init: 'normal', or 'sinusoidal' (of Vaswani et al. 2017, scaled to
      the spread of the token embeddings); learned from there.
    initializer_std: of embeddings and dense kernels; RoBERTa's 0.02. 0 draws
      dense kernels by Xavier's rule and embeddings with 1 / sqrt(M).
    projection_init: start of E and F, a key of `PROJECTION_INITS`.
    projection_std: spread of its random part; the authors' 0.02.
    dropout_rate: after embeddings, attention and MLP.
    attention_dropout_rate: on attention weights.
    norm_epsilon: of the layer norms.
    query_block: queries that attention handles at a time, 0 for all.
    scan_layers: run layers that are alike as one loop: compile time does not
      grow with depth, and their parameters are stacked.
    remat: recompute each layer in the backward pass, to save memory.
    dtype: of matrix products: 'float32' or 'bfloat16'. Parameters, logits,
      softmax and layer-norm statistics are float32.
  """

  vocab_size: int
  max_length: int
  num_layers: int
  embed_dim: int
  num_heads: int
  mlp_dim: int
  attention: str = "linformer"
  projected_length: int | tuple[int, ...] = 128
  sharing: str = "headwise"
  projection: str = "linear"
  norm_position: str = "post"
  position_offset: int = 0
  position_init: str = "normal"
  initializer_std: float = 0.02
  projection_init: str = "normal"
  projection_std: float = 0.02
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  norm_epsilon: float = 1e-5
  query_block: int = 0
  scan_layers: bool = True
  remat: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    if not isinstance(self.projected_length, int):
      lengths = tuple(int(k) for k in self.projected_length)
      object.__setattr__(self, "projected_length", lengths)
    _one_of("attention", self.attention, ATTENTION)
    _one_of("norm_position", self.norm_position, NORM_POSITIONS)
    _one_of("position_init", self.position_init, POSITION_INITS)
    _one_of("dtype", self.dtype, DTYPES)
    sizes = ("vocab_size", "max_length", "num_layers", "embed_dim", "mlp_dim")
    for name in sizes:
      if getattr(self, name) < 1:
        raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
    for name in ("dropout_rate", "attention_dropout_rate"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 1)")
    if self.num_heads < 1 or self.embed_dim % self.num_heads:
      raise ValueError(
        f"embed_dim {self.embed_dim} is not divisible by num_heads "
        f"{self.num_heads}"
      )
    if self.query_block and self.attention_dropout_rate:
      raise ValueError(
        f"attention_dropout_rate {self.attention_dropout_rate} does not go "
        f"with query_block {self.query_block}: set one of them to 0"
      )
    if self.attention == "linformer":
      self._check_projection()

  def _check_projection(self):
    _one_of("sharing", self.sharing, linformer_lib.SHARING)
    _one_of("projection_init", self.projection_init, PROJECTION_INITS)
    lengths = self.projected_lengths
    if len(lengths) != self.num_layers:
      raise ValueError(
        f"projected_length lists {len(lengths)} values for num_layers "
        f"{self.num_layers}"
      )
    for k in lengths:
      projection_lib.weights_shape(
        self.projection, self.max_length, k, self.embed_dim // self.num_heads
      )
    if self.sharing == "layerwise" and len(set(lengths)) > 1:
      raise ValueError(
        "sharing 'layerwise' needs one projected_length for all layers, not "
        f"{lengths}"
      )

  @property
  def projected_lengths(self) -> tuple[int, ...]:
    """K of every layer."""
    if isinstance(self.projected_length, int):
      return (self.projected_length,) * self.num_layers
    return self.projected_length

  def kernel_init(self):
    """Initialiser of dense kernels."""
    if self.initializer_std:
      return nn.initializers.normal(self.initializer_std)
    return nn.initializers.xavier_uniform()

  @property
  def embedding_std(self) -> float:
    """Standard deviation of the embeddings at the start."""
    return self.initializer_std or self.embed_dim**-0.5

  def weights_init(self):
    """Initialiser of E and F."""
    return PROJECTION_INITS[self.projection_init](self.projection_std)


def _mean_of_neighbours(std):
  """E starts as the mean of each window of N / K neighbours, plus N(0, std)."""

  def init(key, shape, dtype=jnp.float32):
    *_, k, n = shape
    window = np.arange(n)[None] * k // n == np.arange(k)[:, None]
    mean = jnp.asarray(window / window.sum(1, keepdims=True), dtype)
    return mean + std * jax.random.normal(key, shape, dtype)

  return init


# Name -> initialiser of E [..., K, N], given the spread of its random part.
PROJECTION_INITS = {
  "normal": nn.initializers.normal,
  "mean_pool": _mean_of_neighbours,
}


def _sinusoidal(std):
  """Initialiser: sines and cosines of Vaswani et al. 2017, spread `std`."""

  def init(key, shape, dtype=jnp.float32):
    del key
    rows, width = shape
    half = (width + 1) // 2
    rates = 10000.0 ** (-np.arange(half) / half)
    angles = np.arange(rows)[:, None] * rates[None]
    waves = np.concatenate([np.sin(angles), np.cos(angles)], -1)[:, :width]
    return jnp.asarray(waves * std * np.sqrt(2), dtype)

  return init


def _layer_norm(config, name):
  return nn.LayerNorm(
    epsilon=config.norm_epsilon,
    dtype=config.dtype,
    use_fast_variance=False,
    name=name,
  )


class Embed(nn.Module):
  """Token and position embeddings; `attend` scores against the tokens."""

  config: ModelConfig

  def setup(self):
    config = self.config
    draw = nn.initializers.normal(config.embedding_std)
    self.tokens = nn.Embed(
      config.vocab_size, config.embed_dim, embedding_init=draw
    )
    if config.position_init == "sinusoidal":
      draw = _sinusoidal(config.embedding_std)
    self.positions = self.param(
      "positions",
      draw,
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
    return self.tokens(tokens) + self.positions[start : start + length]

  def attend(self, x):
    """x [B, P, M] -> logits [B, P, V] float32, by the token embeddings."""
    dtype = self.config.dtype
    return jnp.einsum(
      "bpm,vm->bpv",
      x.astype(dtype),
      self.tokens.embedding.astype(dtype),
      preferred_element_type=jnp.float32,
    )


def _attention(config, projected_length):
  """The attention module of one layer."""
  common = dict(
    num_heads=config.num_heads,
    dropout_rate=config.attention_dropout_rate,
    query_block=config.query_block,
    dtype=config.dtype,
    kernel_init=config.kernel_init(),
    name="attention",
  )
  if config.attention == "softmax":
    return attention_lib.SoftmaxSelfAttention(**common)
  module = attention_lib.LinformerSelfAttention(
    max_length=config.max_length,
    projected_length=projected_length,
    sharing=config.sharing,
    projection=config.projection,
    projection_init=config.weights_init(),
    **common,
  )
  return module


class Block(nn.Module):
  """One encoder layer: attention and MLP, each with residual and layer norm."""

  config: ModelConfig
  projected_length: int

  @nn.compact
  def __call__(self, x, mask=None, shared=None, deterministic=True):
    """[B, N, M] -> [B, N, M]; arguments as those of the attention modules."""
    config = self.config
    attend = _attention(config, self.projected_length)
    by_layer = {"shared": shared} if config.attention == "linformer" else {}
    attend = functools.partial(
      attend, mask=mask, deterministic=deterministic, **by_layer
    )
    drop = nn.Dropout(config.dropout_rate, deterministic=deterministic)
    dense = functools.partial(
      nn.Dense, dtype=config.dtype, kernel_init=config.kernel_init()
    )

    def mlp(y):
      y = nn.gelu(dense(config.mlp_dim, name="mlp_in")(y), approximate=False)
      return dense(config.embed_dim, name="mlp_out")(y)

    attention_norm = _layer_norm(config, "attention_norm")
    mlp_norm = _layer_norm(config, "mlp_norm")
    x = heads.select_real(x, mask)
    if config.norm_position == "post":
      x = attention_norm(x + drop(attend(x)))
      return mlp_norm(x + drop(mlp(x)))
    x = x + drop(attend(attention_norm(x)))
    return x + drop(mlp(mlp_norm(x)))


class _ScannedBlock(nn.Module):
  """A Block in the form that nn.scan steps over: (carry, ...) -> carry, out."""

  config: ModelConfig
  projected_length: int

  @nn.compact
  def __call__(self, x, mask, shared, deterministic):
    block = Block
    if self.config.remat:  # static: deterministic, counted from self
      block = nn.remat(Block, prevent_cse=False, static_argnums=(4,))
    block = block(self.config, self.projected_length, name="block")
    return block(x, mask, shared, deterministic), None


class Encoder(nn.Module):
  """Embeddings and layers.

  Layers of one projected length that follow each other run as one nn.scan.
  """

  config: ModelConfig

  def setup(self):
    config = self.config
    self.embed = Embed(config)
    self.drop = nn.Dropout(config.dropout_rate)
    self.norm = _layer_norm(config, None)
    if config.attention == "linformer" and config.sharing == "layerwise":
      self.shared = linformer_lib.SequenceProjection(
        config.projection,
        config.max_length,
        config.projected_lengths[0],
        config.embed_dim // config.num_heads,
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
        groups.append(scanned(config, k, name=name))
      else:
        for _ in range(depth):
          groups.append(_ScannedBlock(config, k, name=f"layer_{len(groups)}"))
    self.groups = groups

  def __call__(self, tokens, mask=None, deterministic=True):
    """tokens int [B, N], mask bool [B, N] -> [B, N, M].

    Args:
      tokens: ids, N at most `max_length`.
      mask: True at real tokens, or None when all are.
      deterministic: False applies dropout (rng 'dropout').

    Raises:
      ValueError: for an input longer than `max_length`.
    """
    config = self.config
    x = heads.select_real(self.embed(tokens), mask)
    if config.norm_position == "post":
      x = self.norm(x)
    x = self.drop(x.astype(config.dtype), deterministic=deterministic)
    shared = self.shared() if hasattr(self, "shared") else None
    for group in self.groups:
      x, _ = group(x, mask, shared, deterministic)
    return self.norm(x) if config.norm_position == "pre" else x

  def attend(self, x):
    """Scores against the token embeddings; see `Embed.attend`."""
    return self.embed.attend(x)


class MaskedLM(nn.Module):
  """Encoder with RoBERTa's head, tied to the token embeddings."""

  config: ModelConfig

  @nn.compact
  def __call__(self, tokens, mask=None, positions=None, deterministic=True):
    """Logits over the vocabulary.

    Args:
      tokens: int [B, N].
      mask: bool [B, N], True at real tokens, or None when all are.
      positions: int [B, P], where to predict, or None for everywhere.
      deterministic: False applies dropout (rng 'dropout').

    Returns:
      float32 [B, P, V], or [B, N, V] without positions.

    Raises:
      ValueError: for an input longer than `max_length`.
    """
    config = self.config
    encoder = Encoder(config, name="encoder")
    x = encoder(tokens, mask, deterministic)
    if positions is not None:
      x = jnp.take_along_axis(x, positions[..., None], axis=1)
    x = nn.Dense(
      config.embed_dim,
      dtype=config.dtype,
      kernel_init=config.kernel_init(),
      name="head_dense",
    )(x)
    x = _layer_norm(config, "head_norm")(nn.gelu(x, approximate=False))
    bias = self.param("head_bias", nn.initializers.zeros, (config.vocab_size,))
    return encoder.attend(x) + bias


def num_parameters(params: Any) -> int:
  """How many numbers a tree of arrays (or of their shapes) holds."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
