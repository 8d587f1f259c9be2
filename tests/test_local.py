"""Local attention is softmax attention in a band, at the cost of the band."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.parallel import sharding
from tests import arrays

B, N, M, H = 2, 37, 16, 2
D = M // H


def by_definition(params, x, mask, window, causal):
  """softmax over all N rows, those beyond the window left out, in float64."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x = np.where(mask[..., None], x, 0)

  def heads(name):
    rows = x @ params[name]["kernel"] + params[name]["bias"]
    return rows.reshape(B, N, H, D)

  distance = np.arange(N) - np.arange(N)[:, None]
  near = (abs(distance) <= window) & ((distance <= 0) | (not causal))
  allowed = (near & mask[:, None])[:, None]
  scores = np.einsum("bnhd,bjhd->bhnj", heads("query"), heads("key"))
  weights = np.where(allowed, np.exp(scores / np.sqrt(D)), 0)
  total = weights.sum(-1, keepdims=True)
  weights = np.divide(weights, total, where=total > 0, out=0 * weights)
  out = np.einsum("bhnj,bjhd->bnhd", weights, heads("value"))
  return out.reshape(B, N, M) @ params["out"]["kernel"] + params["out"]["bias"]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 1, 16, 20, N])
def test_local_attention_is_its_definition(window, causal):
  module = attention.LocalSelfAttention(H, window, causal=causal)
  x = arrays.draw(B, N, M)
  mask = np.stack([np.ones(N, bool), np.arange(N) % 5 < 3])
  variables = arrays.filled(module, x)
  got = module.apply(variables, x, None, mask)
  want = by_definition(variables["params"], x, mask, window, causal)
  arrays.close(got, want, M, D, 2 * window + 1, M)


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_over_all_rows_is_softmax_attention(causal):
  local = attention.LocalSelfAttention(H, N - 1, causal=causal)
  softmax = attention.SoftmaxSelfAttention(H, causal=causal)
  x = arrays.draw(B, N, M)
  mask = np.arange(N) < np.array([[N], [7]])
  variables = arrays.filled(softmax, x)
  got = local.apply(variables, x, None, mask)
  arrays.close(got, softmax.apply(variables, x, None, mask), M, D, N, M)


def test_memory_is_linear_in_the_length():
  module = attention.LocalSelfAttention(1, 8)

  def temporary(n):
    x = jax.ShapeDtypeStruct((1, n, 8), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def loss(variables, x):
      return jnp.sum(module.apply(variables, x) ** 2)

    compiled = jax.jit(jax.grad(loss)).lower(variables, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(8192) < 6 * temporary(2048)  # quadratic: 16


def test_what_it_does_not_go_with():
  module = attention.LocalSelfAttention(H, 2)
  x = arrays.draw(B, N, M)
  with pytest.raises(ValueError, match="not near any query"):
    module.init(jax.random.key(0), x, x)
  with pytest.raises(ValueError, match="window -1 must be at least 0"):
    models.ModelConfig(
      9, N, 1, M, H, 8, attention=attention.LocalConfig(window=-1)
    )

  class Mesh:
    shape = {"data": 1, "fsdp": 1, "sequence": 4, "tensor": 1}

  far = attention.LocalConfig(window=9)
  config = models.ModelConfig(8, 32, 1, M, H, 8, attention=far)
  with pytest.raises(ValueError, match="window 9 is more than the 8 rows"):
    sharding.check_model(config, 32, Mesh)
