"""RoBERTa's encoder with any attention: layers that work on rows."""

import functools
import itertools

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.attention import base, heads, masks
from linformer_jax.models import config as model_config
from linformer_jax.parallel import blocks, gradients, layout

ModelConfig = model_config.ModelConfig


def layer_norm(config, name):
  return nn.LayerNorm(
    epsilon=config.norm_epsilon,
    dtype=config.dtype,
    use_fast_variance=False,
    name=name,
  )


class Dense(nn.Dense):
  """nn.Dense on rows [B, N, M] or [B, M], with the products of `gradients`."""

  @nn.compact
  def __call__(self, x):
    shape = x.shape[-1], self.features
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = self.param("bias", self.bias_init, shape[1:])
    x, kernel = x.astype(self.dtype), gradients.cast(kernel, self.dtype)
    bias = gradients.cast(bias, self.dtype)
    rows = "bnm,mf->bnf" if x.ndim == 3 else "bm,mf->bf"
    y = gradients.einsum(rows, x, kernel)
    return gradients.add(y, bias.reshape((1,) * (x.ndim - 1) + (-1,)))


class Block(nn.Module):
  """One encoder layer: attention and MLP, each with residual and layer norm.

  Attributes:
    config: sizes and choices.
    kind: the attention of this layer.
    causal: whether a row attends only to itself and earlier rows.
  """

  config: ModelConfig
  kind: base.AttentionConfig
  causal: bool = False

  def setup(self):
    config = self.config
    sizes = config.sizes(self.kind, self.causal)
    self.kind.check(sizes)
    self.attention = self.kind.module(sizes)
    self.attention_norm = layer_norm(config, None)
    self.mlp_norm = layer_norm(config, None)
    dense = functools.partial(
      Dense, dtype=config.dtype, kernel_init=config.kernel_init()
    )
    self.mlp_in = dense(config.mlp_dim)
    self.mlp_out = dense(config.embed_dim)
    self.drop = nn.Dropout(config.dropout_rate)

  def _from_queries(self, x, summary, start, deterministic):
    """Applies the part of the layer after its keys and values, row-wise."""

    def attend(y):
      return self.attention.attend(
        y, summary, start, deterministic=deterministic
      )

    return self._around(attend, x, deterministic)

  def _around(self, attention, x, deterministic):
    """Applies norms, residuals and MLP around attention, a function of rows."""
    drop = functools.partial(self.drop, deterministic=deterministic)

    def attend(y):
      return drop(attention(y))

    def mlp(y):
      y = layout.constrain(self.mlp_in(y), "batch", "sequence", "mlp")
      return drop(self.mlp_out(nn.gelu(y, approximate=False)))

    if self.config.norm_position == "post":
      x = self.attention_norm(x + attend(x))
      return self.mlp_norm(x + mlp(x))
    x = x + attend(self.attention_norm(x))
    return x + mlp(self.mlp_norm(x))

  def __call__(self, x, mask=None, shared=None, deterministic=True):
    """[B, N, M] -> [B, N, M]; same arguments as the attention modules.

    If the attention carries `shared` and is given it, the layer also returns
    what the next one is given.
    """
    mask = masks.check(mask, x.shape[:2], self.kind.documents)
    memory = x = heads.select_real(x, mask)
    if self.config.norm_position == "pre":
      memory = heads.select_real(self.attention_norm(x), mask)
    summary = self.attention.summarise(memory, mask, shared=shared)
    x = heads.in_query_blocks(
      self,
      lambda self, *args: self._from_queries(*args, deterministic),
      x,
      summary,
      self.config.query_block,
      remat=self.config.remat,
    )
    x = layout.constrain(x, "batch", "sequence")
    if shared is None or not self.kind.carries:
      return x
    return x, self.attention.carry(shared, summary)

  def extend(self, x, cache, start, count, shared=None):
    """Returns rows [B, n, M] and the cache; see `MultiHeadAttention.extend`."""
    found = []

    def attend(y):
      y, new = self.attention.extend(y, cache, start, count, shared=shared)
      found.append(new)
      return y

    return self._around(attend, x, deterministic=True), found[0]


class _ScannedBlock(nn.Module):
  """A Block with the signature of nn.scan: (carry, ...) -> (carry, out).

  Given a cache, and (start, count), it extends and returns the cache.
  """

  config: ModelConfig
  kind: base.AttentionConfig
  causal: bool

  @nn.compact
  def __call__(
    self, carry, mask, shared, deterministic, cache=None, place=None
  ):
    x, carried = carry
    block = Block
    # A layer with query blocks recomputes each block instead.
    in_blocks = blocks.is_longer(x, self.config.query_block)
    if self.config.remat and not in_blocks:
      # Only unrolled layers need a CSE barrier. Argument 4 is deterministic.
      block = nn.remat(
        Block, prevent_cse=not self.config.scan_layers, static_argnums=(4,)
      )
    block = block(self.config, self.kind, self.causal, name="block")
    if cache is not None:
      x, cache = block.extend(x, cache, *place, shared)
      return (x, carried), cache
    if self.kind.carries:
      return block(x, mask, carried, deterministic), None
    return (block(x, mask, shared, deterministic), carried), None


class Encoder(nn.Module):
  """The layers, on rows made by a module of `models.inputs`.

  Consecutive layers with the same attention run in one nn.scan.

  Attributes:
    config: sizes and choices.
    causal: whether a row attends only to itself and earlier rows.
  """

  config: ModelConfig
  causal: bool = False

  def setup(self):
    config = self.config
    self.drop = nn.Dropout(config.dropout_rate)
    self.norm = layer_norm(config, None)
    self.shared = None
    for kind in dict.fromkeys(config.layers):
      if kind.shares:  # at most one does
        self.shared = kind.shared(config.sizes(kind))
    groups = []
    for kind, run in itertools.groupby(config.layers):
      depth = len(list(run))
      if config.scan_layers:
        scanned = nn.scan(
          _ScannedBlock,
          variable_axes={"params": 0, "constants": 0, "losses": 0},
          split_rngs={"params": True, "dropout": True},
          in_axes=(*(nn.broadcast,) * 3, 0, nn.broadcast),
          length=depth,
        )
        name = f"layers_{len(groups)}"
        groups.append(scanned(config, kind, self.causal, name=name))
      else:
        for _ in range(depth):
          name = f"layer_{len(groups)}"
          groups.append(_ScannedBlock(config, kind, self.causal, name=name))
    self.groups = groups

  def __call__(self, x, mask=None, deterministic=True):
    """Returns rows [B, N, M].

    Args:
      x: rows [B, N, M], N at most `max_length`.
      mask: bool or integers 0 and 1 [B, N], True at real rows, or None if all
        are; see `masks.check`. `masks.Documents` keeps packed documents apart.
      deterministic: False applies dropout (rng 'dropout').

    Raises:
      ValueError: for x of other axes, or a mask of the wrong shape or dtype
        (such as an additive mask).
    """
    config = self.config
    if x.ndim != 3:
      raise ValueError(
        f"an Encoder works on rows [B, N, M], not on an array {x.shape}; "
        "TokenEncoder takes tokens"
      )
    mask = masks.check(mask, x.shape[:2], documents=True)
    x = heads.select_real(layout.constrain(x, "batch", "sequence"), mask)
    if config.norm_position == "post":
      x = self.norm(x)
    x = self.drop(x.astype(config.dtype), deterministic=deterministic)
    shared = carried = None
    if self.shared is not None:
      shared = self.shared(config.embed_dim // config.num_heads)
    if any(kind.carries for kind in config.layers):  # one for each sequence
      carried = jnp.broadcast_to(
        shared.astype(config.dtype), (len(x), *shared.shape)
      )
      carried, shared = layout.constrain(carried, "batch"), None
    for group in self.groups:
      given = shared if group.kind.shares else None
      (x, carried), _ = group(
        (x, carried), mask, given, deterministic, None, None
      )
    return self.norm(x) if config.norm_position == "pre" else x

  def extend(self, x, cache, start, count):
    """Returns the next rows [B, n, M] of a causal encoder, and its cache.

    Args:
      x: rows [B, n, M].
      cache: of the rows before, as `cache.init_cache` makes it.
      start, count: int32 [B]; see `MultiHeadAttention.extend`.
    """
    config = self.config
    if config.norm_position == "post":
      x = self.norm(x)
    x, found = x.astype(config.dtype), []
    shared = None
    if self.shared is not None:
      shared = self.shared(config.embed_dim // config.num_heads)
    for group, before in zip(self.groups, cache, strict=True):
      given = shared if group.kind.shares else None
      (x, _), after = group(
        (x, None), None, given, True, before, (start, count)
      )
      found.append(after)
    return (self.norm(x) if config.norm_position == "pre" else x), found
