"""The choices of causal Linformer attention, as a config group."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from linformer_jax.attention import base, causal_linformer, linformer_config
from linformer_jax.attention import projection as projection_lib
from linformer_jax.attention.ops import pyramid as pyramid_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLinformerConfig(base.AttentionConfig):
  """Attributes as of `CausalLinformerSelfAttention`, and:

  Attributes:
    projection_init: initializer of E and F, or of convolution kernels: a key
      of `initializers.DENSE`.
    projection_std: std of its noise.
  """

  block_length: int = 64
  projected_length: int = 4
  previous_block: bool = True
  levels: int = 0
  kept_blocks: int = 4
  sharing: str = "headwise"
  projection: str = "linear"
  projection_init: str = "mean_pool"
  projection_std: float = 0.02
  dropout_rate: float = 0.0

  name: ClassVar[str] = "causal_linformer"
  Module: ClassVar = causal_linformer.CausalLinformerSelfAttention
  causal: ClassVar[bool] = True
  rotates: ClassVar[bool] = True
  documents: ClassVar[bool] = True
  one_way: ClassVar[bool] = True
  parameters: ClassVar = (
    *base.AttentionConfig.parameters,
    (r"(\w+_)?slots/kernel", ("heads", None, None)),  # E [H, r, b]
  )
  projections: ClassVar[tuple[str, ...]] = ("slots",)

  @property
  def shares(self) -> bool:
    return self.sharing == "layerwise"

  def module(self, sizes):
    fields = dataclasses.asdict(self)
    del fields["projection_init"], fields["projection_std"]
    return causal_linformer.CausalLinformerSelfAttention(
      projection_init=linformer_config.weights_init(self),
      **fields,
      **sizes.module_fields(),
    )

  def shared(self, sizes):
    return projection_lib.SequenceProjection(
      self.projection,
      self.block_length,
      self.projected_length,
      weights_init=linformer_config.weights_init(self),
      name="slots",
    )

  def check(self, sizes, length=None, shards=1):
    super().check(sizes, length, shards)
    b = self.block_length
    linformer_config.check_choices(self)
    base.require_rate("dropout_rate", self.dropout_rate)
    base.require_range("block_length", b, 1)
    base.require_range("levels", self.levels, 0, 30)
    base.require_range("kept_blocks", self.kept_blocks, 1)
    projection_lib.weights_shape(
      self.projection, b, self.projected_length, sizes.head_dim
    )
    if shards == 1:
      return
    length = length or sizes.max_length
    if sizes.query_block % b:
      raise ValueError(
        f"model.query_block {sizes.query_block} is not divisible by "
        f"block_length {b}, as mesh.sequence={shards} needs"
      )
    if length % (b * shards):  # blocks do not cross devices
      raise ValueError(
        f"data.sequence_length {length} is not divisible by block_length {b} * "
        f"mesh.sequence={shards}"
      )

  @property
  def extend_block(self) -> int:
    return self.block_length

  def init_cache(self, sizes, length):
    def zeros(*shape):
      x = jnp.zeros((*shape, sizes.head_dim), sizes.dtype)
      return x, x

    h, b, r = sizes.num_heads, self.block_length, self.projected_length
    rows = zeros(h, b * (1 + self.previous_block))
    if not self.levels:
      return rows, zeros(h, -(-length // b) * r)
    pyramid = pyramid_lib.Pyramid(self.levels, self.kept_blocks)
    return rows, pyramid.empty(zeros(r, h))

  def flops(self, sizes, n):
    m, b, r = sizes.embed_dim, self.block_length, self.projected_length
    count, whole = -(-n // b), n // b
    slots = whole * r
    if self.levels:
      pyramid = pyramid_lib.Pyramid(self.levels, self.kept_blocks)
      slots = pyramid.groups * r + 1
    seen = slots + b * (1 + self.previous_block)
    projecting = 0  # sums and maxima do not count
    if self.projection == "convolution":  # D x D for each row and head
      projecting = 4 * whole * b * m * sizes.head_dim
    elif self.projection in projection_lib.DENSE:
      projecting = 4 * whole * b * r * m
    return super().flops(sizes, n) + projecting + 4 * count * b * seen * m
