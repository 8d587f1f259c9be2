"""The choices of Linformer attention, as a config group."""

import dataclasses
from typing import ClassVar

from linformer_jax.attention import base, initializers, linformer, ops
from linformer_jax.attention import order as order_lib
from linformer_jax.attention import projection as projection_lib


def weights_init(config):
  """Returns the initializer of E and F that a config chooses."""
  inits = initializers.DENSE
  if config.projection == "convolution":
    inits = initializers.KERNELS
  return inits[config.projection_init](config.projection_std)


def check_choices(config):
  """Raises a ValueError for an unknown sharing or start of E and F."""
  base.require_choice("sharing", config.sharing, linformer.SHARING)
  base.require_choice(
    "projection_init", config.projection_init, initializers.DENSE
  )
  base.require_range("projection_std", config.projection_std, 0, 3e38)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinformerConfig(base.AttentionConfig):
  """Attributes as of `LinformerSelfAttention`, and:

  Attributes:
    projected_lengths: K of each layer that has this attention; () for
      `projected_length` in all.
    projection_init: initializer of E and F, or of convolution kernels: a key
      of `initializers.DENSE`.
    projection_std: std of its noise; 0.02 in the authors' code. 'normal'
      convolution kernels use their fan-in instead.
  """

  projected_length: int = 128
  projected_lengths: tuple[int, ...] = ()
  sharing: str = "headwise"
  projection: str = "linear"
  projection_init: str = "normal"
  projection_std: float = 0.02
  local_window: int = 0
  dropout_rate: float = 0.0
  implementation: str = "xla"

  name: ClassVar[str] = "linformer"
  parameters: ClassVar = (
    *base.AttentionConfig.parameters,
    (r"(\w+_)?projection/kernel", (None, "sequence")),  # E [K, N]
    (r"(\w+_)?projection/kernel", ("heads", None, "sequence")),
  )
  projections: ClassVar[tuple[str, ...]] = ("projection",)

  def __post_init__(self):
    lengths = base.whole_numbers("projected_lengths", self.projected_lengths)
    object.__setattr__(self, "projected_lengths", lengths)

  @property
  def is_softmax(self) -> bool:
    return not self.local_window

  @property
  def shares(self) -> bool:
    return self.sharing == "layerwise"

  def layers(self, count):
    if not self.projected_lengths:
      return (self,) * count
    if len(self.projected_lengths) != count:
      raise ValueError(
        f"projected_lengths {self.projected_lengths} lists "
        f"{len(self.projected_lengths)} values for {count} layers"
      )
    return tuple(
      dataclasses.replace(self, projected_length=k, projected_lengths=())
      for k in self.projected_lengths
    )

  def check(self, sizes, length=None, shards=1):
    super().check(sizes, length, shards)
    if self.projected_lengths:
      raise ValueError(
        f"projected_lengths {self.projected_lengths} are for all layers, and "
        "this attention is that of one: give it a projected_length"
      )
    check_choices(self)
    base.require_range("local_window", self.local_window, 0)
    base.require_rate("dropout_rate", self.dropout_rate)
    ops.check(
      self.implementation,
      sizes.dtype,
      dropout_rate=self.dropout_rate,
      local_window=self.local_window,
    )
    n, k = sizes.max_length, self.projected_length
    projection_lib.weights_shape(self.projection, n, k, sizes.head_dim)
    if shards == 1:
      return
    length = length or n
    base.require_window("local_window", self.local_window, length, shards)
    if self.projection in projection_lib.WHOLE:
      base.require_shards("model.max_length", n, shards)
      return
    base.require_shards("projected_length", k, shards)
    if length % (n // k * shards):  # windows do not cross devices
      raise ValueError(
        f"data.sequence_length {length} is not divisible by the {n // k} rows "
        f"of a window * mesh.sequence={shards}"
      )

  def module(self, sizes):
    return linformer.LinformerSelfAttention(
      max_length=sizes.max_length,
      projected_length=self.projected_length,
      sharing=self.sharing,
      projection=self.projection,
      local_window=self.local_window,
      dropout_rate=self.dropout_rate,
      implementation=self.implementation,
      projection_init=weights_init(self),
      **sizes.module_fields(),
    )

  def shared(self, sizes):
    return projection_lib.SequenceProjection(
      self.projection,
      sizes.max_length,
      self.projected_length,
      weights_init=weights_init(self),
      name="projection",
    )

  def stride(self, max_length):
    if self.sharing == "none" and self.projection_init == "strided":
      return max(1, max_length // max(1, self.projected_length))
    return 1

  def flops(self, sizes, n):
    m, h, k = sizes.embed_dim, sizes.num_heads, self.projected_length
    if self.projection == "adaptive_pool":
      k = min(n, k)
    elif self.projection not in projection_lib.DENSE:  # a short input fills few
      k = -(-n // (sizes.max_length // k))
    order = order_lib.choose(
      "after" if self.local_window else "auto",
      self.projection,
      self.sharing,
      n,
      k,
      m,
      h,
    )
    rows = k if order == "before" else n  # that W_K and W_V see
    maps = 4 * n * m * m + 4 * rows * m * m
    mixing = 4 * n * k * m
    if self.local_window:
      mixing += 4 * n * (2 * self.local_window + 1) * m
    projecting = 0  # sums and maxima do not count
    if self.projection == "convolution":  # D x D for each row and head
      projecting = 4 * n * m * (m // h)
    elif self.projection in projection_lib.DENSE:
      projecting = (
        order_lib.flops(order, self.sharing, n, k, m, h) - 4 * rows * m * m
      )
    return maps + projecting + mixing

  def describe(self):
    said = f"k = {self.projected_length}, {self.sharing} sharing, "
    said += f"{self.projection} projection"
    if self.local_window:
      said += f", local_window = {self.local_window}"
    return f"{self.name} ({said})"
