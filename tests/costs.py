"""What one attention layer costs, read from its compiled program."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from linformer_jax import attention

LENGTHS = 512, 1024, 2048
SIZES = attention.Sizes(embed_dim=64, num_heads=1, max_length=LENGTHS[-1])


@functools.cache
def measure(kind, n, causal):
  """Returns XLA's count of FLOPs, and the size of the largest array."""
  sizes = dataclasses.replace(SIZES, causal=causal)
  module = kind.module(sizes)
  x = jax.ShapeDtypeStruct((1, n, sizes.embed_dim), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  compiled = jax.jit(module.apply).lower(variables, x).compile()
  shapes = re.findall(r"\b(?:f32|pred|s32)\[([\d,]+)\]", compiled.as_text())
  largest = max(math.prod(map(int, s.split(","))) for s in shapes)
  return compiled.cost_analysis()["flops"], largest


def assert_linear(kind, causal=False):
  """FLOPs are c + d n, arrays grow as n at most, and none is as large as n^2.

  XLA adds prefix sums in levels of 16. A level is at most 16 additions to each
  number, once in D >= 64 rows, and each row has at least 12 products with it:
  2% of all. O(n log n) products would exceed the bound by 10%.
  """
  flops, largest = np.transpose([measure(kind, n, causal) for n in LENGTHS])
  step, twice = np.diff(flops)
  np.testing.assert_allclose(twice, 2 * step, rtol=0.02)
  assert largest[2] <= 4 * largest[0] and largest[2] < LENGTHS[2] ** 2 / 4


def assert_flops(kind, causal=False):
  """The config counts what the compiler does, element-wise work aside."""
  sizes = dataclasses.replace(SIZES, causal=causal)
  n = LENGTHS[0]
  ratio = measure(kind, n, causal)[0] / kind.flops(sizes, n)
  assert 1 <= ratio <= 1.05, ratio
