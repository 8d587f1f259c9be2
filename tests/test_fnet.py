"""FNet transforms N rows, whatever the length of the input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention
from tests import arrays

B, N, M, H = 2, 14, 6, 2
SHORT = 9
MASK = np.arange(N) < np.array([[N], [SHORT]])
CONFIG = attention.FNetConfig()


def made(**sizes):
  return CONFIG.module(attention.Sizes(M, H, N, **sizes))


def waves(n):
  """The matrix of the transform, exp(-2 pi i j k / n)."""
  return np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)


def test_it_is_the_real_part_of_two_transforms():
  x = arrays.draw(B, N, M)
  zeroed = np.where(MASK[..., None], x, 0).astype(np.float64)
  want = np.einsum("kn,bnm,ml->bkl", waves(N), zeroed, waves(M)).real
  dirty = np.where(MASK[..., None], x, np.nan)
  got = jax.jit(made().apply)({}, dirty, None, MASK)
  # Transforms are not normalized: sums of N M products of size about one.
  np.testing.assert_allclose(got, want, rtol=0, atol=arrays.EPS * N * M)
  half = made(dtype="bfloat16").apply({}, x.astype(jnp.bfloat16), None, MASK)
  assert half.dtype == jnp.bfloat16
  assert np.linalg.norm(half - want) < 1e-2 * np.linalg.norm(want)


def test_it_has_no_parameters():
  assert not jax.tree.leaves(
    made().init(jax.random.key(0), np.zeros((1, N, M)))
  )
  assert not CONFIG.parameters


def test_the_cost_is_that_of_fast_transforms():
  """5 FLOPs an entry and halving, where XLA counts 8.

  It multiplies the halvings of the two axes, log2(N) log2(M), which add up.
  With M = 2 their product is that of the transform of N rows alone.
  """
  n, m = 256, 2
  sizes = attention.Sizes(embed_dim=m, num_heads=1, max_length=n)
  x = jax.ShapeDtypeStruct((1, n, m), jnp.float32)
  program = jax.jit(CONFIG.module(sizes).apply).lower({}, x).compile()
  counted = program.cost_analysis()["flops"]
  complex_and_back = 2 * n * m
  assert counted == 8 * n * m * 8 + complex_and_back
  assert CONFIG.flops(sizes, n) == 5 * n * m * (8 + 1)
  assert CONFIG.flops(sizes, n // 2) == CONFIG.flops(sizes, n)


def test_what_it_does_not_go_with():
  x = arrays.draw(B, N, M)
  with pytest.raises(ValueError, match="not of a memory"):
    made().apply({}, x, x)
  with pytest.raises(ValueError, match=f"{N + 1} rows.*max_length {N}"):
    made().apply({}, arrays.draw(B, N + 1, M))
