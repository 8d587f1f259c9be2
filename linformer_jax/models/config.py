"""Sizes and choices of a model, checked before anything is built."""

import dataclasses

import flax.linen as nn
import numpy as np

from linformer_jax import attention as attention_lib
from linformer_jax.attention import base
from linformer_jax.models import initializers

NORM_POSITIONS = ("post", "pre")
POSITION_INITS = ("normal", "sinusoidal", "neighbours", "rotary")
DTYPES = ("float32", "bfloat16")


_INT32, _FLOAT32 = 2**31 - 1, 3e38
# Smallest and largest allowed values.
_RANGES = {
  "vocab_size": (1, _INT32),
  "max_length": (1, _INT32),
  "num_layers": (1, 10_000),  # more would take hours to trace
  "embed_dim": (1, _INT32),
  "mlp_dim": (1, _INT32),
  "num_segments": (0, _INT32),
  "position_offset": (0, _INT32),
  "position_dims": (0, _INT32),
  "query_block": (0, _INT32),
  "position_gain": (-_FLOAT32, _FLOAT32),
  "initializer_std": (0, _FLOAT32),
  "norm_epsilon": (1e-37, _FLOAT32),  # 0 turns constant rows into NaN
}
# Scale of query and key kernels on token features, with neighbour heads.
_CONTENT_SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Sizes and choices of a model, validated on construction.

  Attributes:
    vocab_size: V.
    max_length: N, the longest input in tokens.
    num_layers: encoder layers.
    embed_dim: M.
    num_heads: H, divides M.
    mlp_dim: F.
    attention: the attention of all layers, or a sequence of one for each layer;
      a shorter one is repeated. See `attention.ATTENTIONS`.
    num_segments: BERT's token types; 0 for no segment embeddings.
    norm_position: 'post' (RoBERTa) or 'pre'.
    position_offset: unused rows at the start of the position table; 2 in
      RoBERTa.
    position_init: 'normal'; 'sinusoidal' (Vaswani et al. 2017, scaled to the
      std of the token embeddings); or 'neighbours', with which heads initially
      attend to neighbours (see `initializers`). All are then trained. 'rotary'
      has no table: queries and keys are rotated (see `attention.rotary`).
    position_dims: features that 'neighbours' reserves for positions.
    position_gain: gain of the query and key kernels on those features.
    initializer_std: std of embeddings and dense kernels; 0.02 in RoBERTa. 0
      uses Xavier for dense kernels and 1 / sqrt(M) for embeddings.
    dropout_rate: dropout after embeddings, attention and MLP.
    norm_epsilon: epsilon of the layer norms.
    query_block: process queries in blocks of this size, to bound score and MLP
      memory; 0 is off.
    scan_layers: run identical layers in one scan, with stacked parameters, so
      compile time does not grow with depth.
    remat: recompute each layer in the backward pass to save memory, one query
      block at a time if `query_block` is on.
    dtype: dtype of matrix products, 'float32' or 'bfloat16'. Parameters,
      logits, softmax and layer-norm statistics are float32.
  """

  vocab_size: int
  max_length: int
  num_layers: int
  embed_dim: int
  num_heads: int
  mlp_dim: int
  attention: base.AttentionConfig | tuple[base.AttentionConfig, ...] = (
    attention_lib.DEFAULT
  )
  num_segments: int = 0
  norm_position: str = "post"
  position_offset: int = 0
  position_init: str = "normal"
  position_dims: int = 64
  position_gain: float = 1.7
  initializer_std: float = 0.02
  dropout_rate: float = 0.0
  norm_epsilon: float = 1e-5
  query_block: int = 0
  scan_layers: bool = True
  remat: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    base.require_choice("norm_position", self.norm_position, NORM_POSITIONS)
    base.require_choice("position_init", self.position_init, POSITION_INITS)
    base.require_choice("dtype", self.dtype, DTYPES)
    for name, (low, high) in _RANGES.items():
      base.require_range(name, getattr(self, name), low, high)
    base.require_rate("dropout_rate", self.dropout_rate)
    if self.num_heads < 1 or self.embed_dim % self.num_heads:
      raise ValueError(
        f"embed_dim {self.embed_dim} is not divisible by num_heads "
        f"{self.num_heads}"
      )
    if self.position_init == "neighbours":
      self._check_neighbours()
    if self.rotary and self.embed_dim // self.num_heads % 2:
      raise ValueError(
        "position_init 'rotary' rotates pairs of features, and head_dim "
        f"{self.embed_dim // self.num_heads} is odd"
      )
    if not isinstance(self.attention, base.AttentionConfig):
      object.__setattr__(self, "attention", tuple(self.attention))
    self.check_attention()

  def _check_neighbours(self):
    dims, head_dim = self.position_dims, self.embed_dim // self.num_heads
    if not 2 <= dims < self.embed_dim or dims % 2 or head_dim % 2:
      raise ValueError(
        f"position_init 'neighbours' needs an even position_dims {dims} below "
        f"embed_dim {self.embed_dim}, and an even head_dim {head_dim}"
      )

  def check_attention(self, length: int | None = None, shards: int = 1):
    """Raises a ValueError if an attention does not fit; see its `check`."""
    layers = dict.fromkeys(self.layers)
    for attention in layers:
      attention.check(self.sizes(attention, attention.one_way), length, shards)
    sharing = [layer for layer in layers if layer.shares]
    if len(sharing) > 1:
      raise ValueError(
        "layers can share one projection only if they have one attention, not "
        + " and ".join(x.describe() for x in sharing)
      )

  def check_data(self, sequence_length: int, vocab_size: int):
    """Raises a ValueError for sequences too long or a vocabulary too large.

    Smaller ones are fine; the surplus parameters stay untrained.
    """
    for field, value, name in (
      ("sequence_length", sequence_length, "max_length"),
      ("vocab_size", vocab_size, "vocab_size"),
    ):
      most = getattr(self, name)
      if value > most:
        raise ValueError(
          f"data.{field} {value} is more than model.{name} {most}: lower the "
          "former or raise the latter; by default the data follow the model"
        )

  @property
  def layers(self) -> tuple[base.AttentionConfig, ...]:
    """The attention of each layer."""
    if isinstance(self.attention, base.AttentionConfig):
      return self.attention.layers(self.num_layers)
    count = len(self.attention)
    if not count or self.num_layers % count:
      raise ValueError(
        f"attention lists {count} layers, which do not divide num_layers "
        f"{self.num_layers}"
      )
    return self.attention * (self.num_layers // count)

  @property
  def rotary(self) -> bool:
    """Whether attention has the positions, and the rows have none."""
    return self.position_init == "rotary"

  @property
  def has_dropout(self) -> bool:
    """Whether training draws random numbers."""
    return bool(
      self.dropout_rate or any(layer.dropout_rate for layer in self.layers)
    )

  def sizes(
    self, attention: base.AttentionConfig, causal: bool = False
  ) -> base.Sizes:
    """Returns what an attention is told of the model."""
    query_init, key_init = self._query_and_key_init(attention, causal)
    return base.Sizes(
      embed_dim=self.embed_dim,
      num_heads=self.num_heads,
      max_length=self.max_length,
      causal=causal,
      query_block=self.query_block,
      dtype=self.dtype,
      kernel_init=self.kernel_init(),
      query_init=query_init,
      key_init=key_init,
      rotary=self.rotary,
    )

  def kernel_init(self):
    """Returns the initializer of dense kernels."""
    if self.initializer_std:
      return nn.initializers.normal(self.initializer_std)
    return nn.initializers.xavier_uniform()

  @property
  def embedding_std(self) -> float:
    """Initial standard deviation of the embeddings."""
    return self.initializer_std or self.embed_dim**-0.5

  def token_init(self):
    """Returns the initializer of the token embeddings."""
    if self.position_init == "neighbours":
      return initializers.tokens_apart(self.embedding_std, self.position_dims)
    return nn.initializers.normal(self.embedding_std)

  @property
  def _position_rates(self) -> np.ndarray:
    """The frequencies of positions that neighbor heads read."""
    head_dim = self.embed_dim // self.num_heads
    return initializers.frequencies(
      self.position_dims, head_dim, self.max_length
    )

  def positions_init(self):
    """Returns the initializer of the position embeddings."""
    if self.position_init == "neighbours":
      return initializers.positions_apart(
        self.embedding_std, self._position_rates
      )
    if self.position_init == "sinusoidal":
      return initializers.sinusoidal(self.embedding_std)
    return nn.initializers.normal(self.embedding_std)

  def _query_and_key_init(self, attention, causal):
    """Returns the initializers of a layer's query and key kernels."""
    if self.position_init != "neighbours":
      return None, None
    stride = attention.stride(self.max_length)
    offsets = initializers.head_offsets(self.num_heads, stride, causal)
    return tuple(
      initializers.neighbour_heads(
        head_offsets,
        self._position_rates,
        self.position_gain,
        initializers.scaled(self.kernel_init(), _CONTENT_SCALE),
      )
      for head_offsets in (np.zeros_like(offsets), offsets)
    )
