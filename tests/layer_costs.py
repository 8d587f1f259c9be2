"""What a compiler counts for one attention layer, at a length and at twice."""

import re

import jax
import jax.numpy as jnp

from linformer_jax import attention

N, M, H = 256, 128, 2


def compiled(config, n):
  sizes = attention.Sizes(embed_dim=M, num_heads=H, max_length=2 * N)
  module = config.module(sizes)
  x = jax.ShapeDtypeStruct((1, n, M), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  return sizes, jax.jit(module.apply).lower(variables, x).compile()


def assert_agree(config):
  """`config.flops` is the compiler's count but for 5% of element-wise work.

  A score has 4 D = 256 FLOPs and fewer than a dozen of element-wise work.
  """
  sizes, program = compiled(config, N)
  ours = config.flops(sizes, N)
  assert ours <= program.cost_analysis()["flops"] <= 1.05 * ours


def assert_linear(config):
  """Twice the rows cost twice as much, and no array is [N, N].

  What does not grow with N, such as to map slots, is less than 5%.
  """
  (_, short), (_, long) = compiled(config, N), compiled(config, 2 * N)
  ratio = long.cost_analysis()["flops"] / short.cost_analysis()["flops"]
  assert 1.9 < ratio <= 2.0
  shapes = re.findall(r"\[([\d,]+)\]", long.as_text())
  assert any(shape.split(",").count(str(2 * N)) for shape in shapes)
  assert not any(shape.split(",").count(str(2 * N)) > 1 for shape in shapes)
