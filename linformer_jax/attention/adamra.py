"""Adaptive multi-resolution attention: each query chooses its resolution.

AdaMRA (Zhang, Ma, Seidl and Tresp 2021, arXiv 2108.04962). Its abstract says
that heads capture context from coarse to fine, that the query decides which
resolution of attention it uses, and that kernel attention keeps time and memory
linear in N. The authors published no code. How keys and values are compressed,
the feature map, the router and its balance are ours.

Ratio c has K_r = N / c slots. Keys are compressed before the feature map, so a
slot of a mean is phi of the mean key, not the mean of phi:

  k_r = E_r x W_K,  v_r = E_r x W_V            [B, K_r, H, D]
  S_r = sum_s phi(k_rs) v_rs^T                 [B, H, D, D]
  z_r = sum_s phi(k_rs)                        [B, H, D]
  o_ir = phi(q_i)^T S_r / phi(q_i)^T z_r       [B, N, H, D]
  g_i = softmax((x_i W_G + b_G) / temperature) [B, N, R]
  o_i = sum_r g_ir o_ir
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from linformer_jax.attention import base, heads, linear, ops
from linformer_jax.attention import projection as projection_lib
from linformer_jax.attention.ops import kernelized

COMPRESSIONS = ("mean_pool", "convolution", "linear")
KERNELS = ("elu", "softmax")
ROUTES = ("soft", "hard", "uniform")
HEADS = ("all", "coarse_to_fine")


def _check(fields, max_length, num_heads):
  """Raises a ValueError for fields of a module or config that do not fit."""
  base.require_choice("compression", fields.compression, COMPRESSIONS)
  base.require_choice("kernel", fields.kernel, KERNELS)
  base.require_choice("route", fields.route, ROUTES)
  base.require_choice("heads", fields.heads, HEADS)
  base.require_range("temperature", fields.temperature, 1e-3, 3e38)
  base.require_range("balance", fields.balance, 0, 3e38)
  ratios = base.whole_numbers("ratios", fields.ratios)
  if not ratios or list(ratios) != sorted(set(ratios)) or ratios[0] < 1:
    raise ValueError(f"ratios {ratios} must be ascending, at least 1, and some")
  for ratio in ratios:
    if max_length % ratio:
      raise ValueError(
        f"max_length {max_length} is not divisible by the ratio {ratio} of "
        f"ratios {ratios}"
      )
  if fields.heads == "coarse_to_fine" and num_heads % len(ratios):
    raise ValueError(
      f"num_heads {num_heads} is not divisible by the {len(ratios)} ratios "
      f"{ratios}, one for each head: change either, or set heads='all'"
    )


class AdaMRASelfAttention(heads.MultiHeadAttention):
  """Attention to sums over rows at several resolutions, weighed by a router.

  Attributes:
    num_heads: H; must divide the width M of the input.
    max_length: N, the longest memory; every ratio divides it.
    ratios: c, rows in a slot of each resolution, ascending; 1 is the rows
      themselves.
    compression: E_r, the same for keys and values: 'mean_pool', 'convolution'
      (kernel and stride c, in head channels), or 'linear' (a learned matrix;
      O(N^2 / c), as Linformer's K grows with N here).
    kernel: 'elu', phi(x) = elu(x) + 1, or 'softmax' over the slots, O(N^2 / c),
      which makes one resolution Linformer with sharing 'key_value'.
    route: 'soft', the sum above; 'hard', the resolution of the largest weight,
      with the gradient of the soft weights (straight through); or 'uniform',
      the same weight for all and no router. All resolutions are read in each.
    heads: 'all', every head has all resolutions; or 'coarse_to_fine', head h
      has resolution h % R, and its output is scaled by R g_ir. Uniform weights
      then leave heads as they are.
    temperature: of the router's softmax.
    balance: weight of the router's balance in the loss, for route 'hard'.
  """

  num_heads: int
  max_length: int
  ratios: tuple[int, ...] = (1, 4, 16)
  compression: str = "mean_pool"
  kernel: str = "elu"
  route: str = "soft"
  heads: str = "all"
  temperature: float = 1.0
  balance: float = 0.01

  def setup(self):
    super().setup()
    _check(self, self.max_length, self.num_heads)
    self.projections = [
      projection_lib.SequenceProjection(
        self.compression,
        self.max_length,
        self.max_length // ratio,
        name=f"ratio_{ratio}_projection",
      )
      for ratio in self.ratios
      if ratio > 1
    ]
    if self._routed:
      self.router = nn.Dense(
        len(self.ratios), dtype=jnp.float32, kernel_init=nn.initializers.zeros
      )

  @property
  def _routed(self):
    return self.route != "uniform" and len(self.ratios) > 1

  @property
  def _balanced(self):
    return self._routed and self.route == "hard" and self.balance > 0

  def check(self, features, *, memory):
    super().check(features, memory=memory)
    if memory and self._balanced:
      raise ValueError(
        f"balance {self.balance} would count the rows of the memory, not the "
        "queries: set balance=0 for attention to a memory"
      )

  def _own(self, rows, r):
    """Selects the heads of resolution r of rows [B, N, H, D]."""
    whole = self.heads == "all"
    return rows if whole else rows[:, :, r :: len(self.ratios)]

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns (S_r, z_r) of each resolution, float32; of softmax, its slots.

    The latter are k_r, v_r [B, H, K_r, D] and a mask [B, K_r] or None.
    """
    del shared
    self._sow_balance(memory, mask)
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    made = [projection(head_dim) for projection in self.projections]
    made = [None] * (self.ratios[0] == 1) + made  # ratio 1 needs none

    def compress(rows):  # E_r X: [B, N, H, D] -> [B, K_r, H, D] of each
      return tuple(
        rows if e is None else projection_lib.project_sequence(rows, e, mask)[0]
        for e in made
      )

    keys, _ = self.key(memory, head_dim, compress)
    values, _ = self.value(memory, head_dim, compress)
    summary = []
    for r, e in enumerate(made):
      k, v = self._own(keys[r], r), self._own(values[r], r)
      slots = mask if e is None else projection_lib.slot_mask(e, mask)
      if self.kernel == "softmax":
        summary.append((*heads.by_head(k, v), slots))
      else:
        summary.append(kernelized.summarise(linear.feature_map(k), v, slots))
    return tuple(summary)

  def attend(self, x, summary, start=0, *, deterministic=True):
    """See the base. The router reads the rows x, so `mix` gets its weights."""
    summary = self._weights(x), summary
    return super().attend(x, summary, start, deterministic=deterministic)

  def mix(self, q, summary, start, dropout):
    """Returns the read-outs of all resolutions, weighed."""
    del start
    weights, resolutions = summary
    weights = weights[..., None, None, :]  # [B, N, 1, 1, R]
    out = []
    for r, resolution in enumerate(resolutions):
      own = self._own(q, r)
      if self.kernel == "softmax":
        read = ops.attend(own, *resolution, dropout=dropout)
      else:
        read = kernelized.attend(linear.feature_map(own), resolution)
      out.append(read * weights[..., r])
    if self.heads == "all":
      return sum(out).astype(q.dtype)
    out = len(out) * jnp.stack(out, axis=3)  # [B, N, H / R, R, D]
    return out.reshape(q.shape).astype(q.dtype)

  def _probabilities(self, x):
    """Returns g, float32 [B, N, R]."""
    return nn.softmax(self.router(x) / self.temperature)

  def _weights(self, x):
    """Returns the weight of each resolution, float32 [B, N, R]."""
    if not self._routed:
      return jnp.full((1, 1, len(self.ratios)), 1 / len(self.ratios))
    g = self._probabilities(x)
    if self.route == "soft":
      return g
    # The difference is exactly 0, and has the gradient of g.
    return _largest(g) + (g - jax.lax.stop_gradient(g))

  def _sow_balance(self, x, mask):
    """Sows R sum_r f_r p_r, the mean over sequences, times `balance`.

    f_r is the share of the real rows that choose r, and p_r the mean of g_r
    over them: the auxiliary loss of the Switch Transformer (Fedus et al. 2021,
    arXiv 2101.03961, equations 4 to 6), of each sequence by itself. Sown here,
    where all rows and their mask are, and not in a block of queries.
    """
    if self.is_initializing() or not (
      self._balanced and self.is_mutable_collection("losses")
    ):
      return
    g = self._probabilities(x)
    real = jnp.ones(x.shape[:2], bool) if mask is None else mask
    real = real[..., None]
    count = jnp.maximum(jnp.sum(real, axis=1), 1)
    share = jnp.sum(jnp.where(real, _largest(g), 0), axis=1) / count
    mean = jnp.sum(jnp.where(real, g, 0), axis=1) / count
    terms = len(self.ratios) * jnp.sum(share * mean, axis=-1)
    self.sow("losses", "balance", self.balance * jnp.mean(terms))


def _largest(g):
  """Returns 1 at the largest of each row, and 0 elsewhere."""
  return nn.one_hot(jnp.argmax(g, axis=-1), g.shape[-1], dtype=g.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaMRAConfig(base.AttentionConfig):
  """Attributes as of `AdaMRASelfAttention`."""

  ratios: tuple[int, ...] = (1, 4, 16)
  compression: str = "mean_pool"
  kernel: str = "elu"
  route: str = "soft"
  heads: str = "all"
  temperature: float = 1.0
  balance: float = 0.01

  name: ClassVar[str] = "adamra"
  Module: ClassVar = AdaMRASelfAttention
  parameters: ClassVar = (
    *base.AttentionConfig.parameters,
    (r"ratio_\d+_projection/kernel", (None, "sequence")),  # E [K, N]
  )
  projections: ClassVar[tuple[str, ...]] = ("projection",)

  def __post_init__(self):
    ratios = base.whole_numbers("ratios", self.ratios)
    object.__setattr__(self, "ratios", ratios)

  def module(self, sizes):
    return AdaMRASelfAttention(
      max_length=sizes.max_length,
      **dataclasses.asdict(self),
      **sizes.module_fields(),
    )

  def check(self, sizes, length=None, shards=1):
    super().check(sizes, length, shards)
    _check(self, sizes.max_length, sizes.num_heads)
    length, most = length or sizes.max_length, self.ratios[-1]
    if shards == 1 or most == 1:
      return
    if self.compression == "linear":
      base.require_shards("model.max_length", sizes.max_length, shards)
    elif length % (most * shards):
      raise ValueError(
        f"data.sequence_length {length} rows do not divide into windows of the "
        f"ratio {most} on each of mesh.sequence={shards} devices"
      )

  def flops(self, sizes, n):
    m, d, count = sizes.embed_dim, sizes.head_dim, len(self.ratios)
    routed = self.route != "uniform" and count > 1
    projecting, mixing = 0, 2 * n * m * count * routed  # the router
    for ratio in self.ratios:
      slots = -(-n // ratio)  # a short input fills few
      if self.compression == "linear" and ratio > 1:
        slots = sizes.max_length // ratio
        projecting += 4 * n * slots * m
      elif self.compression == "convolution" and ratio > 1:
        projecting += 4 * slots * ratio * m * d
      width = m if self.heads == "all" else m // count
      if self.kernel == "softmax":
        mixing += 4 * n * slots * width
      else:
        mixing += 2 * width * (slots * d + n * d + n)
    return super().flops(sizes, n) + projecting + mixing
