"""Sizes and choices of a model, checked before anything is built."""

import dataclasses

import flax.linen as nn
import numpy as np

from linformer_jax.attention import functional
from linformer_jax.attention import linformer as linformer_lib
from linformer_jax.attention import projection as projection_lib
from linformer_jax.models import initializers

ATTENTION = ("linformer", "softmax")
NORM_POSITIONS = ("post", "pre")
POSITION_INITS = ("normal", "sinusoidal", "neighbours")
DTYPES = ("float32", "bfloat16")


def _one_of(name, value, choices):
  if value not in choices:
    raise ValueError(f"{name} {value!r} is not one of {', '.join(choices)}")


_INT32, _FLOAT32 = 2**31 - 1, 3e38
# Smallest and largest allowed values.
_RANGES = {
  "vocab_size": (1, _INT32),
  "max_length": (1, _INT32),
  "num_layers": (1, 10_000),  # more would take hours to trace
  "embed_dim": (1, _INT32),
  "mlp_dim": (1, _INT32),
  "position_offset": (0, _INT32),
  "position_dims": (0, _INT32),
  "query_block": (0, _INT32),
  "local_window": (0, _INT32),
  "position_gain": (-_FLOAT32, _FLOAT32),
  "initializer_std": (0, _FLOAT32),
  "projection_std": (0, _FLOAT32),
  "norm_epsilon": (1e-37, _FLOAT32),  # 0 turns constant rows into NaN
}


def _span(low, high):
  if high == _FLOAT32:
    return "finite" if low < 0 else f"at least {low:g} and finite"
  return f"at least {low} and at most {high}"


# Name -> initializer of E [..., K, N], given the std of its noise.
PROJECTION_INITS = {
  "normal": nn.initializers.normal,
  "mean_pool": initializers.window_mean,
  "strided": initializers.strided,
}
# Likewise for convolution kernels [..., W, D, D]; None is fan-in scaling.
KERNEL_INITS = {
  "normal": lambda std: None,
  "mean_pool": initializers.mean_kernel,
  "strided": initializers.strided_kernel,
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
    attention: 'linformer' or 'softmax'.
    projected_length: K, one for all layers or a tuple with one per layer.
      Unused by softmax.
    sharing: how E and F are shared: 'none', 'headwise', 'key_value' or
      'layerwise'.
    projection: 'linear', 'convolution', 'mean_pool', 'max_pool' or 'random'.
    local_window: rows on either side that a query attends to besides its K
      slots; 0 is off. Not in the paper; unused by softmax.
    norm_position: 'post' (RoBERTa) or 'pre'.
    position_offset: unused rows at the start of the position table; 2 in
      RoBERTa.
    position_init: 'normal'; 'sinusoidal' (Vaswani et al. 2017, scaled to the
      std of the token embeddings); or 'neighbours', with which heads initially
      attend to neighbours (see `initializers`). All are then trained.
    position_dims: features that 'neighbours' reserves for positions.
    position_gain: gain of the query and key kernels on those features.
    initializer_std: std of embeddings and dense kernels; 0.02 in RoBERTa. 0
      uses Xavier for dense kernels and 1 / sqrt(M) for embeddings.
    projection_init: initializer of E and F, or of convolution kernels: a key
      of `PROJECTION_INITS`.
    projection_std: std of its noise; 0.02 in the authors' code. 'normal'
      convolution kernels use their fan-in instead.
    dropout_rate: dropout after embeddings, attention and MLP.
    attention_dropout_rate: dropout on attention weights.
    norm_epsilon: epsilon of the layer norms.
    query_block: process queries in blocks of this size, to bound score and MLP
      memory; 0 is off.
    attention_implementation: 'xla', 'flash' or 'cudnn'; see
      `attention.projected_attention`.
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
  attention: str = "linformer"
  projected_length: int | tuple[int, ...] = 128
  sharing: str = "headwise"
  projection: str = "linear"
  local_window: int = 0
  norm_position: str = "post"
  position_offset: int = 0
  position_init: str = "normal"
  position_dims: int = 64
  position_gain: float = 1.7
  initializer_std: float = 0.02
  projection_init: str = "normal"
  projection_std: float = 0.02
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  norm_epsilon: float = 1e-5
  query_block: int = 0
  attention_implementation: str = "xla"
  scan_layers: bool = True
  remat: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    if not isinstance(self.projected_length, int):
      lengths = tuple(self.projected_length)
      if not all(isinstance(k, (int, np.integer)) for k in lengths):
        raise ValueError(f"projected_lengths {lengths} must be whole numbers")
      object.__setattr__(self, "projected_length", tuple(map(int, lengths)))
    _one_of("attention", self.attention, ATTENTION)
    _one_of("norm_position", self.norm_position, NORM_POSITIONS)
    _one_of("position_init", self.position_init, POSITION_INITS)
    _one_of("dtype", self.dtype, DTYPES)
    _one_of(
      "attention_implementation",
      self.attention_implementation,
      functional.IMPLEMENTATIONS,
    )
    for name, (low, high) in _RANGES.items():
      value = getattr(self, name)
      if not low <= value <= high:  # NaN is not
        raise ValueError(f"{name} {value} must be {_span(low, high)}")
    for name in ("dropout_rate", "attention_dropout_rate"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 1)")
    if self.num_heads < 1 or self.embed_dim % self.num_heads:
      raise ValueError(
        f"embed_dim {self.embed_dim} is not divisible by num_heads "
        f"{self.num_heads}"
      )
    if self.position_init == "neighbours":
      self._check_neighbours()
    implementation = self.attention_implementation
    if self.attention_dropout_rate and (
      self.query_block or implementation != "xla"
    ):
      raise ValueError(
        f"attention_dropout_rate {self.attention_dropout_rate} does not go "
        f"with query_block {self.query_block} or attention_implementation "
        f"{implementation!r}: set it to 0, or them to 0 and 'xla'"
      )
    if implementation == "cudnn" and self.dtype != "bfloat16":
      raise ValueError(
        f"attention_implementation 'cudnn' needs dtype 'bfloat16', not "
        f"{self.dtype!r}"
      )
    if self.attention == "linformer":
      self._check_projection()

  def _check_neighbours(self):
    dims, head_dim = self.position_dims, self.embed_dim // self.num_heads
    if not 2 <= dims < self.embed_dim or dims % 2 or head_dim % 2:
      raise ValueError(
        f"position_init 'neighbours' needs an even position_dims {dims} below "
        f"embed_dim {self.embed_dim}, and an even head_dim {head_dim}"
      )

  def _check_projection(self):
    _one_of("sharing", self.sharing, linformer_lib.SHARING)
    _one_of("projection_init", self.projection_init, PROJECTION_INITS)
    implementation = self.attention_implementation
    if self.local_window and (self.query_block or implementation != "xla"):
      raise ValueError(
        f"local_window {self.local_window} does not go with query_block "
        f"{self.query_block} or attention_implementation {implementation!r}: "
        "set it to 0, or them to 0 and 'xla'"
      )
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
          "former or raise the latter; left alone, data follow the model"
        )

  @property
  def projected_lengths(self) -> tuple[int, ...]:
    """K of each layer."""
    if isinstance(self.projected_length, int):
      return (self.projected_length,) * self.num_layers
    return self.projected_length

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

  def positions_init(self):
    """Returns the initializer of the position embeddings."""
    if self.position_init == "neighbours":
      return initializers.positions_apart(
        self.embedding_std, self.position_dims
      )
    if self.position_init == "sinusoidal":
      return initializers.sinusoidal(self.embedding_std)
    return nn.initializers.normal(self.embedding_std)

  def query_and_key_init(self, projected_length: int):
    """Returns the initializers of a layer's query and key kernels."""
    noise = self.kernel_init()
    if self.position_init != "neighbours":
      return noise, noise
    strided = self.attention == "linformer" and self.sharing == "none"
    strided = strided and self.projection_init == "strided"
    window = self.max_length // projected_length if strided else 1
    offsets = initializers.head_offsets(self.num_heads, window)
    return tuple(
      initializers.neighbour_heads(
        head_offsets,
        self.position_dims,
        self.position_gain,
        initializers.scaled(noise, _CONTENT_SCALE),
      )
      for head_offsets in (np.zeros_like(offsets), offsets)
    )

  def weights_init(self):
    """Returns the initializer of E and F for `SequenceProjection`."""
    inits = PROJECTION_INITS
    if self.projection == "convolution":
      inits = KERNEL_INITS
    return inits[self.projection_init](self.projection_std)
