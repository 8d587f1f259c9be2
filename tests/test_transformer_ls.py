"""Long-short attention: slots chosen by the rows, near rows, one softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention
from tests import arrays, costs

B, N, M, H, K = 2, 13, 16, 2, 3
D = M // H
MASK = np.stack([np.ones(N, bool), np.arange(N) % 5 < 3])
EPSILON = 1e-5


def made(slots, window, x, **fields):
  module = attention.TransformerLSSelfAttention(H, slots, window, **fields)
  return module, arrays.filled(module, x)


def in_float64(variables):
  return jax.tree.map(
    lambda leaf: np.asarray(leaf, np.float64), variables["params"]
  )


def dense(params, x, *heads):
  out = x @ params["kernel"] + params["bias"]
  return out.reshape(*x.shape[:-1], *heads, -1)


def norm(params, x):
  """Over the heads and D of x [B, n, H, D]."""
  mean = x.mean((2, 3), keepdims=True)
  spread = np.sqrt(x.var((2, 3), keepdims=True) + EPSILON)
  return (x - mean) / spread * params["scale"] + params["bias"]


def softmax(scores, axis):
  weights = np.exp(scores)
  return weights / weights.sum(axis, keepdims=True)


def by_definition(params, x, mask, slots, window):
  """Section 3 of the paper in float64; windows as of `local`."""
  x = np.where(mask[..., None], x, 0)
  q, k, v = (dense(params[name], x, H) for name in ("query", "key", "value"))
  keys, values = [], []
  allowed = np.zeros((B, N, 0), bool)
  if slots:
    scores = dense(params["dynamic"], x, H)
    scores = np.where(mask[..., None, None], scores, -np.inf)
    p = softmax(scores, axis=1)
    for found, rows in ((keys, k), (values, v)):
      projected = np.einsum("bnhk,bnhd->bkhd", p, rows)
      found.append(norm(params["slot_norm"], projected))
    allowed = np.ones((B, N, slots), bool)
  if window:
    keys.append(norm(params["row_norm"], k))
    values.append(norm(params["row_norm"], v))
    near = abs(np.arange(N) - np.arange(N)[:, None]) <= window
    allowed = np.concatenate([allowed, near & mask[:, None]], axis=-1)
  keys, values = np.concatenate(keys, axis=1), np.concatenate(values, axis=1)
  scores = np.einsum("bnhd,bjhd->bhnj", q, keys) / np.sqrt(D)
  scores = np.where(allowed[:, None], scores, -np.inf)
  out = np.einsum("bhnj,bjhd->bnhd", softmax(scores, axis=-1), values)
  return dense(params["out"], out.reshape(B, N, M))


@pytest.mark.parametrize(("slots", "window"), [(K, 2), (K, 0), (0, 2)])
def test_it_is_the_definition_of_the_paper(slots, window):
  x = arrays.draw(B, N, M)
  module, variables = made(slots, window, x)
  want = by_definition(in_float64(variables), x, MASK, slots, window)
  got = module.apply(variables, x, None, MASK)
  # The norms divide by a spread of about one.
  arrays.close(got[MASK], want[MASK], M, N, M, D, K + N, M)


def test_a_window_over_all_rows_is_softmax_attention_of_normalized_rows():
  x = arrays.draw(B, N, M)
  module, variables = made(0, N, x)
  params = in_float64(variables)
  q, k, v = (dense(params[name], x, H) for name in ("query", "key", "value"))
  k, v = norm(params["row_norm"], k), norm(params["row_norm"], v)
  weights = softmax(np.einsum("bnhd,bjhd->bhnj", q, k) / np.sqrt(D), axis=-1)
  out = np.einsum("bhnj,bjhd->bnhd", weights, v).reshape(B, N, M)
  got = module.apply(variables, x)
  arrays.close(got, dense(params["out"], out), M, M, D, N, M)


def test_each_slot_is_a_mean_of_real_rows():
  x = arrays.draw(B, N, M)
  module, variables = made(K, 2, x)
  p = module.apply(variables, x, MASK, method="dynamic_projection")
  assert p.shape == (B, H, K, N)
  arrays.close(np.sum(p, axis=-1), np.ones((B, H, K)), N)
  real = np.broadcast_to(MASK[:, None, None], p.shape)
  assert np.all(np.asarray(p)[real] > 0) and np.all(p[~real] == 0)


def test_a_projection_that_rows_do_not_change_is_linformers():
  """With one-hot rows W_P is log E, and each P is that E."""
  x = np.eye(M, dtype=np.float32)[None]
  module, variables = made(K, 0, x)
  e = np.random.default_rng(0).dirichlet(np.ones(M), (H, K))  # [H, K, N]
  params = variables["params"]
  log_e = np.log(e).transpose(2, 0, 1).reshape(M, H * K)
  params["dynamic"]["kernel"] = log_e.astype(np.float32)
  e = e.astype(np.float32)
  rows = {name: params[name] for name in ("query", "key", "value", "out")}
  ends = {f"{name}_projection": {"kernel": e} for name in ("key", "value")}
  linformer = attention.LinformerSelfAttention(H, M, K, "none")
  k, v, *_ = linformer.apply({"params": rows | ends}, x, method="summarise")
  k, v = (
    norm(params["slot_norm"], np.asarray(of).swapaxes(1, 2)) for of in (k, v)
  )
  q = dense(params["query"], x, H)
  out = attention.projected_attention(q, k, v)
  want = dense(params["out"], np.reshape(out, (1, M, M)))
  arrays.close(module.apply(variables, x), want, M, M, M, D, K, M)


def test_without_a_window_the_order_of_the_memory_does_not_matter():
  x, memory = arrays.draw(B, N, M), arrays.draw(B, N, M, seed=1)
  module, variables = made(K, 0, x)
  order = np.random.default_rng(0).permutation(N)
  got, want = (
    module.apply(variables, x, of, mask)
    for of, mask in ((memory[:, order], MASK[:, order]), (memory, MASK))
  )
  arrays.close(got, want, M, N, M, D, K, M)


def test_bfloat16_is_close_to_float32():
  x = arrays.draw(B, N, M)
  module, variables = made(K, 2, x)
  half, _ = made(K, 2, x, dtype=jnp.bfloat16)
  got = half.apply(variables, x, None, MASK)
  want = module.apply(variables, x, None, MASK)
  assert got.dtype == jnp.bfloat16
  assert np.linalg.norm(got - want) < 2e-2 * np.linalg.norm(want)


def test_parameters_in_closed_form():
  x = arrays.draw(1, N, M)
  for slots, window in ((K, 2), (K, 0), (0, 2)):
    _, variables = made(slots, window, x)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    dynamic = (M * H * slots + H * slots) * (slots > 0)
    norms = 2 * M * ((slots > 0) + (window > 0))
    assert count == 4 * (M * M + M) + dynamic + norms


def test_the_cost_is_linear_in_the_length():
  slots = attention.TransformerLSConfig(projected_length=32, window=0)
  costs.assert_flops(slots)
  costs.assert_linear(
    attention.TransformerLSConfig(projected_length=32, window=16)
  )


def test_what_it_does_not_go_with():
  x = arrays.draw(B, N, M)
  module, _ = made(K, 2, x)
  with pytest.raises(ValueError, match="window 2.*not to a memory"):
    module.init(jax.random.key(0), x, x)

  def refused(message, length=N, shards=1, **fields):
    config = attention.TransformerLSConfig(**fields)
    with pytest.raises(ValueError, match=message):
      config.check(attention.Sizes(M, H, N), length, shards)

  refused("projected_length -1 must lie between 0", projected_length=-1)
  refused("14 must lie between.*max_length 13", projected_length=N + 1)
  refused("window -1 must be at least 0", projected_length=K, window=-1)
  refused("projected_length 0 and window 0", projected_length=0, window=0)
  refused("dropout_rate 1.0", dropout_rate=1.0)
  refused(
    "window 4 is more than the 3 rows", 12, 4, projected_length=K, window=4
  )
