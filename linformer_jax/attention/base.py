"""What every attention declares about itself, and what it is told.

An attention is one file: a frozen dataclass, `AttentionConfig`, whose fields
are those of `config.attention`, and the module that it makes.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import numpy as np

_LARGEST = 3e38  # finite in float32


def require_choice(name: str, value, choices):
  """Raises a ValueError unless the value is one of the choices."""
  if value not in choices:
    raise ValueError(f"{name} {value!r} is not one of {', '.join(choices)}")


def require_range(name: str, value, low, high=2**31 - 1):
  """Raises a ValueError unless low <= value <= high; NaN is out of range."""
  if low <= value <= high:
    return
  if high < _LARGEST:
    span = f"at least {low} and at most {high}"
  else:
    span = "finite" if low < 0 else f"at least {low:g} and finite"
  raise ValueError(f"{name} {value} must be {span}")


def require_rate(name: str, value):
  """Raises a ValueError unless 0 <= value < 1."""
  if not 0 <= value < 1:
    raise ValueError(f"{name} {value} must lie in [0, 1)")


def require_slots(length: int, max_length: int, least: int = 1):
  """Raises a ValueError unless there are at most as many slots as rows."""
  if not least <= length <= max_length:
    raise ValueError(
      f"projected_length {length} must lie between {least} and the max_length "
      f"{max_length}"
    )


def require_shards(name: str, size: int, shards: int):
  """Raises a ValueError unless devices that share a sequence divide a size."""
  if size % shards:
    raise ValueError(
      f"{name} {size} is not divisible by mesh.sequence={shards}"
    )


def require_window(name: str, width: int, length: int, shards: int):
  """Raises a ValueError if a window reaches beyond the next device's rows."""
  if shards > 1 and width > length // shards:
    raise ValueError(
      f"{name} {width} is more than the {length // shards} rows of a device, "
      f"data.sequence_length {length} / mesh.sequence={shards}: lower {name} "
      "or mesh.sequence"
    )


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What an attention is told of the model around it.

  Attributes:
    embed_dim: M.
    num_heads: H.
    max_length: N, the longest input.
    causal: whether a row may attend only to itself and earlier rows.
    query_block: process queries in blocks of this size; 0 is off.
    dtype: dtype of matrix products.
    kernel_init: initializer of the four dense kernels.
    query_init, key_init: override `kernel_init` for W_Q and W_K unless None.
    rotary: whether queries and keys are rotated by their positions.
  """

  embed_dim: int
  num_heads: int
  max_length: int
  causal: bool = False
  query_block: int = 0
  dtype: Any = "float32"
  kernel_init: Any = nn.initializers.xavier_uniform()
  query_init: Any = None
  key_init: Any = None
  rotary: bool = False

  @property
  def head_dim(self) -> int:
    """D = M / H."""
    return self.embed_dim // self.num_heads

  def module_fields(self) -> dict[str, Any]:
    """Returns the attributes of `heads.MultiHeadAttention` that follow."""
    names = ("num_heads", "query_block", "dtype")
    names += ("kernel_init", "query_init", "key_init", "rotary")
    return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
  """The choices of one attention; a subclass adds its fields.

  Attributes:
    name: key of `ATTENTIONS`, the value of `config.attention.name`.
    Module: the module, with the interface of `heads.MultiHeadAttention`.
    causal: whether a causal task can use it; the module then has `causal`.
    one_way: whether only a causal task can.
    rotates: whether it can rotate queries and keys by their positions.
    documents: whether it keeps packed documents apart; see `masks.Documents`.
    sparse: whether a real row within reach may have weight zero.
    is_softmax: whether softmax(Q K^T / sqrt(D)) over the outputs of its `query`
      and `key` is all of the attention, so a spectrum can be read.
    shares: whether layers share something; see `shared`.
    carries: whether a layer changes what it shares for the next layer that has
      this attention; the module then has `carry(shared, summary)`.
    parameters: (suffix of a parameter's path, its logical axes). The path ends
      below the attention's module; the rest is replicated.
    projections: suffixes of the names of modules whose parameters
      `optimizer.projection_rate` scales.
    dropout_rate: dropout on attention weights, for an attention that has any.
  """

  name: ClassVar[str]
  Module: ClassVar[type[nn.Module]]
  causal: ClassVar[bool] = False
  one_way: ClassVar[bool] = False
  rotates: ClassVar[bool] = False
  documents: ClassVar[bool] = False
  carries: ClassVar[bool] = False
  sparse: ClassVar[bool] = False
  parameters: ClassVar[tuple[tuple[str, tuple[str | None, ...]], ...]] = (
    ("(query|key|value)/kernel", ("embed", "heads")),
    ("(query|key|value)/bias", ("heads",)),
    ("out/kernel", ("heads", "embed")),
  )
  projections: ClassVar[tuple[str, ...]] = ()
  dropout_rate: ClassVar[float] = 0.0

  @property
  def is_softmax(self) -> bool:
    return False

  @property
  def shares(self) -> bool:
    return False

  def module(self, sizes: Sizes) -> nn.Module:
    """Returns the module, with this config's fields as attributes."""
    causal = {"causal": sizes.causal} if self.causal else {}
    fields = dataclasses.asdict(self) | causal | sizes.module_fields()
    return self.Module(**fields)

  def flops(self, sizes: Sizes, n: int) -> int:
    """Returns the forward FLOPs of a layer on one sequence of n rows.

    Counts matrix products only, two per multiply-add: W_Q, W_K, W_V and W_O,
    and, in a subclass, what happens between them.
    """
    return 8 * n * sizes.embed_dim**2

  def check(self, sizes: Sizes, length: int | None = None, shards: int = 1):
    """Raises a ValueError for choices that do not fit.

    Args:
      sizes: the model.
      length: rows of an input; None for `sizes.max_length`.
      shards: devices that share the rows of a sequence, `mesh.sequence`.
    """
    del length, shards
    if sizes.causal and not self.causal:
      raise ValueError(
        f"attention {self.name!r} is not causal: a row would see later rows; "
        "choose a causal one, such as 'softmax'"
      )
    if sizes.rotary and not self.rotates:
      raise ValueError(
        f"attention {self.name!r} does not rotate queries and keys: "
        "position_init 'rotary' is for softmax, local and causal_linformer"
      )
    if self.one_way and not sizes.causal:
      raise ValueError(
        f"attention {self.name!r} is causal: a row would not see later rows, "
        "and this task reads all; choose another, such as 'linformer'"
      )

  def check_documents(self):
    """Raises a ValueError unless it keeps packed documents apart."""
    if not self.documents:
      raise ValueError(
        f"attention {self.name!r} does not keep documents apart: choose "
        "softmax, local or causal_linformer, or task.document_mask=False"
      )

  @property
  def extend_block(self) -> int:
    """Rows between which a call of `extend` begins and ends; 0 for anywhere."""
    return 0

  def init_cache(self, sizes: Sizes, length: int):
    """Returns what `extend` keeps of one sequence, before its first row.

    Args:
      sizes: the model.
      length: the most rows of a sequence.

    Raises:
      ValueError: if the attention has no cache.
    """
    raise ValueError(
      f"attention {self.name!r} has no cache, so it cannot generate"
    )

  def layers(self, count: int) -> tuple["AttentionConfig", ...]:
    """Returns the attention of each of `count` layers."""
    return (self,) * count

  def shared(self, sizes: Sizes) -> nn.Module:
    """Returns the module that layers share, if `shares`.

    Called with D, it returns what modules take as `shared`.
    """
    raise NotImplementedError

  def stride(self, max_length: int) -> int:
    """Returns how many heads it takes to see every row unmixed at the start."""
    del max_length
    return 1

  def describe(self) -> str:
    """Returns a short description, such as 'local (window = 8)'."""
    fields = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if getattr(self, field.name) != field.default
    }
    said = ", ".join(f"{name} = {value}" for name, value in fields.items())
    return f"{self.name} ({said})" if said else self.name


def whole_numbers(name: str, values) -> tuple[int, ...]:
  """Returns a sequence of whole numbers as a tuple.

  Raises:
    ValueError: if one is not a whole number.
  """
  values = tuple(values)
  if not all(isinstance(value, (int, np.integer)) for value in values):
    raise ValueError(f"{name} {values} must be whole numbers")
  return tuple(map(int, values))
