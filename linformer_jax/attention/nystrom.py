"""Nystrom attention: softmax attention through a few landmark rows.

Xiong et al. 2021, "Nystromformer", arXiv 2102.03902.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.attention import base, heads, masks, ops
from linformer_jax.attention.ops import xla
from linformer_jax.parallel import blocks, layout


def segment_means(x, mask, count: int):
  """Returns landmarks: the means of equal segments of the real rows.

  Of n real rows, segment s of K holds those of rank s n / K to (s + 1) n / K.
  Segments of all N rows, as in the authors' code, would shift with the padding.
  If n <= K, every real row is a segment, and the other segments are empty.

  Args:
    x: rows [B, N, M], zero at padding.
    mask: bool [B, N], True at real rows.
    count: K.

  Returns:
    Means [B, K, M], zero for an empty segment, and bool [B, K], True for the
    others.
  """
  rank = jnp.cumsum(mask, axis=1) - 1
  real = jnp.sum(mask, axis=1, keepdims=True)
  segment = rank * count // jnp.maximum(real, 1)
  member = mask[:, None] & (segment[:, None] == jnp.arange(count)[:, None])
  size = jnp.sum(member, axis=2)
  # A product, so that devices that share a sequence sum their parts.
  total = jnp.einsum(
    "bkn,bnm->bkm",
    member.astype(x.dtype),
    x,
    preferred_element_type=jnp.float32,
  )
  means = total / jnp.maximum(size, 1)[..., None]
  return means.astype(x.dtype), size > 0


def pseudo_inverse(a, iterations: int = 6):
  """Returns nearly the Moore-Penrose inverse of matrices a [..., K, K].

  Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4 from A^T / (|A|_1 |A|_inf),
  the paper's iteration. A singular value s of A becomes (1 - r) / s, where r is
  1 - s^2 / (|A|_1 |A|_inf) at first, and r^3 (3 + r) / 4 after a step. Rows and
  columns of zeros stay so.
  """
  # Products of bfloat16 or TF32 factors would stop far from the inverse.
  product = functools.partial(jnp.matmul, precision="highest")
  identity = jnp.eye(a.shape[-1], dtype=a.dtype)
  norm = 1
  for axis in (-2, -1):
    sums = jnp.sum(abs(a), axis=axis, keepdims=True)
    norm *= jnp.max(sums, axis=(-2, -1), keepdims=True)
  z = a.swapaxes(-2, -1) / jnp.where(norm > 0, norm, 1)
  for _ in range(iterations):
    az = product(a, z)
    left = 15 * identity - product(az, 7 * identity - az)
    z = product(z, 13 * identity - product(az, left)) / 4
  return z


class NystromSelfAttention(heads.MultiHeadAttention):
  """softmax(Q K~^T) softmax(Q~ K~^T)^+ softmax(Q~ K^T) V, O(N K) a head.

  Scores are divided by sqrt(D). The landmarks Q~ and K~ are means of queries
  and keys over `segment_means`, so up to K rows give softmax attention, as far
  as six iterations find the inverse.

  Attributes:
    num_heads: H; must divide the width M of the input.
    num_landmarks: K.
    kernel_size: odd width of a depthwise convolution of the values, one kernel
      a head, that is added to the output; 0 is off.
  """

  num_heads: int
  num_landmarks: int
  kernel_size: int = 0

  def setup(self):
    super().setup()
    if self.kernel_size:  # the initial values of the authors' code
      init = nn.initializers.variance_scaling(
        1 / 3, "fan_in", "uniform", in_axis=1, out_axis=0
      )
      shape = self.num_heads, self.kernel_size
      self.skip = self.param("skip_kernel", init, shape)

  def check(self, features, *, memory):
    super().check(features, memory=memory)
    if memory:
      raise ValueError(
        "nystrom attention is for attention to itself: its landmarks are means "
        "of queries and of keys over the same rows"
      )

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns K~ and softmax(Q~ K~^T)^+ softmax(Q~ K^T) V [B, H, K, D].

    And a mask [B, K] of the landmarks that there are, and, for the convolution,
    a halo of the values or None.
    """
    del shared
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    x = jnp.asarray(memory, self.dtype)
    mask = masks.check(mask, x.shape[:2])
    mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
    k, v = self.key(x, head_dim), self.value(x, head_dim)
    # Means commute with W_Q and W_K, biases included.
    rows, seen = segment_means(x, mask, min(self.num_landmarks, x.shape[1]))
    q_land, k_land = self.query(rows, head_dim), self.key(rows, head_dim)
    scores = jnp.einsum(
      "bkhd,bjhd->bhkj",
      q_land * head_dim**-0.5,
      k_land,
      preferred_element_type=jnp.float32,
    )
    a = xla.masked_softmax(scores, seen[:, None, None])
    a = jnp.where(seen[:, None, :, None], a, 0)
    # Not `heads.by_head`: rows stay on their devices, which sum over them.
    out = ops.attend(q_land, k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
    values = jnp.einsum(
      "bhkj,bjhd->bhkd",
      pseudo_inverse(a),
      out.astype(jnp.float32),
      precision="highest",
    )
    k_land, values = (
      layout.constrain(x, "batch", "heads")
      for x in (k_land.swapaxes(1, 2), values)
    )
    halo = None
    if self.kernel_size:
      v = jnp.where(mask[..., None, None], v, 0)
      halo = blocks.with_halo(v, self.kernel_size // 2)
    return k_land, values, seen, halo

  def mix(self, q, summary, start, dropout):
    """Returns softmax(q K~^T) times the rest, and the convolution."""
    del dropout
    k, values, seen, halo = summary
    out = ops.attend(q, k, values, seen, recompute=bool(self.query_block))
    if halo is not None:
      near, n = halo.around(start, q.shape[1]), q.shape[1]
      for i in range(self.kernel_size):
        out += self.skip[:, i, None] * near[:, i : i + n]
    return out.astype(q.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NystromConfig(base.AttentionConfig):
  """Attributes as of `NystromSelfAttention`."""

  num_landmarks: int = 64
  kernel_size: int = 0

  name: ClassVar[str] = "nystrom"
  Module: ClassVar = NystromSelfAttention
  parameters: ClassVar = (
    *base.AttentionConfig.parameters,
    ("skip_kernel", ("heads", None)),
  )

  def check(self, sizes, length=None, shards=1):
    super().check(sizes, length, shards)
    base.require_range("num_landmarks", self.num_landmarks, 1)
    base.require_range("kernel_size", self.kernel_size, 0)
    if self.kernel_size and self.kernel_size % 2 == 0:
      raise ValueError(
        f"kernel_size {self.kernel_size} must be odd, or 0 for no convolution"
      )
    base.require_window(
      "kernel_size // 2",
      self.kernel_size // 2,
      length or sizes.max_length,
      shards,
    )

  def flops(self, sizes, n):
    m, k = sizes.embed_dim, min(n, self.num_landmarks)
    landmarks = 2 * n * k * m + 4 * k * m * m
    inverse = 6 * 4 * 2 * k**3 * sizes.num_heads + 4 * k * k * m
    mixing = 8 * n * k * m + 2 * n * self.kernel_size * m
    return super().flops(sizes, n) + landmarks + inverse + mixing
