"""Fourier transforms in place of attention, without parameters.

FNet (Lee-Thorp et al. 2021, arXiv 2105.03824, section 3.2).
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from linformer_jax.attention import base, heads, masks
from linformer_jax.parallel import layout


class FNetMixing(heads.MultiHeadAttention):
  """Re(F_N X F_M), with F_N [N, N] the discrete Fourier transform of N rows.

  A shorter input is padded with zeros to `max_length` rows and has the first
  rows of the output; the authors also pad to a fixed length. So the length of
  the transform is not that of the input: a short input alone equals that input
  padded and masked, and its output depends on `max_length`. As in the authors'
  code, the transforms are not normalized.

  A row of the output is not computed from a summary: the summary is the output.
  Devices that share a sequence exchange its rows, as in softmax attention, and
  each computes all of it.

  Attributes:
    num_heads: unused.
    max_length: N, the length of the transform; the longest input.
  """

  num_heads: int
  max_length: int

  def check(self, features, *, memory):
    super().check(features, memory=memory)
    if memory:
      raise ValueError(
        "fnet transforms the rows of an input, not of a memory: use an "
        "attention that has queries, such as 'softmax'"
      )

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns the output at all N rows, float32 [B, N, M]."""
    del features, shared
    masks.check(mask, memory.shape[:2])  # padding rows are zero
    length = memory.shape[1]
    if length > self.max_length:
      raise ValueError(
        f"input of {length} rows is longer than the max_length "
        f"{self.max_length} of the transform: raise max_length"
      )
    short = self.max_length - length
    x = jnp.pad(memory.astype(jnp.float32), [(0, 0), (0, short), (0, 0)])
    # XLA would gather the batch on each device to transform it.
    batch = ("batch",)
    transform = layout.per_device(
      lambda x: jnp.fft.fft2(x).real, (batch,), batch
    )
    return transform(x)

  def attend(self, x, summary, start=0, *, deterministic=True):
    """Returns the output at rows [start, start + N) for x [B, N, M]."""
    del deterministic
    rows = jax.lax.dynamic_slice_in_dim(summary, start, x.shape[1], axis=1)
    return rows.astype(self.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FNetConfig(base.AttentionConfig):
  """FNet has no choices and no parameters."""

  name: ClassVar[str] = "fnet"
  Module: ClassVar = FNetMixing
  parameters: ClassVar = ()

  def module(self, sizes):
    return FNetMixing(max_length=sizes.max_length, **sizes.module_fields())

  def flops(self, sizes, n):
    """Returns 5 N M log2(N M), as is usual for a fast transform of N M numbers.

    N is `max_length`, whatever the length of the input, and the transform is
    not a product of matrices. Compilers may count another number.
    """
    del n
    size = sizes.max_length * sizes.embed_dim
    return round(5 * size * math.log2(size))
