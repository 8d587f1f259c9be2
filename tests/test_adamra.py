"""Attention at several resolutions, and the router that chooses one."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from tests import arrays

B, N, M, H = 2, 24, 16, 2
D = M // H
RATIOS = (1, 4, 12)
R = len(RATIOS)
LENGTHS = (M, N, D, N, D, R, M)  # of the sums that an output went through
MASK = np.arange(N) < np.array([[N], [14]])


def make(**fields):
  fields = {"ratios": RATIOS} | fields
  return attention.AdaMRASelfAttention(num_heads=H, max_length=N, **fields)


def filled(module, x):
  """Random variables whose router, if any, chooses every resolution."""
  variables = arrays.filled(module, x)
  if "router" in variables["params"]:
    variables["params"]["router"]["bias"] *= np.float32(0.1)
  return variables


@functools.partial(jax.jit, static_argnums=0)
def run(module, variables, x, mask=MASK):
  return module.apply(variables, x, None, mask)


def phi(x):
  return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def probabilities(params, x, temperature=1.0):
  """The router's softmax, in float64."""
  router = params["router"]
  logits = x @ router["kernel"] + router["bias"]
  weights = np.exp(logits / temperature)
  return weights / weights.sum(-1, keepdims=True)


def pooled(x, mask, ratio):
  """Means of the real rows of windows [B, K, ...], and which have any."""
  rows = [slice(i, i + ratio) for i in range(0, N, ratio)]
  count = np.stack([mask[:, i].sum(1) for i in rows], 1)
  where = np.where(mask[..., None, None], x, 0)
  total = np.stack([where[:, i].sum(1) for i in rows], 1)
  return total / np.maximum(count, 1)[..., None, None], count > 0


def by_definition(params, x, mask, ratio, kernel):
  """Read-outs [B, N, H, D] of one resolution as an N x K matrix, float64."""

  def heads(name):
    rows = x @ params[name]["kernel"] + params[name]["bias"]
    return rows.reshape(B, N, H, D)

  (k, real), (v, _) = (
    pooled(heads(name), mask, ratio) for name in ("key", "value")
  )
  q = heads("query")
  if kernel == "softmax":
    scores = np.exp(np.einsum("bnhd,bkhd->bhnk", q, k) / np.sqrt(D))
  else:  # phi of the mean, not the mean of phi
    scores = np.einsum("bnhd,bkhd->bhnk", phi(q), phi(k))
  weights = scores * real[:, None, None]
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("bhnk,bkhd->bnhd", weights, v)


@pytest.mark.parametrize("kernel", ["elu", "softmax"])
@pytest.mark.parametrize("heads", ["all", "coarse_to_fine"])
def test_it_is_its_definition(heads, kernel):
  """Soft, hard and uniform routes, of one and the same read-outs."""
  ratios = RATIOS if heads == "all" else RATIOS[1:]  # two heads
  fields = dict(ratios=ratios, heads=heads, kernel=kernel, temperature=0.7)
  x = arrays.draw(B, N, M)
  variables = filled(make(**fields), x)
  params = jax.tree.map(np.float64, variables["params"])
  rows = np.where(MASK[..., None], x, 0)
  x[~MASK] = np.nan
  read = np.stack(
    [by_definition(params, rows, MASK, c, kernel) for c in ratios], -1
  )
  soft = probabilities(params, rows, 0.7)
  assert np.all(soft > 0) and np.allclose(soft.sum(-1), 1)
  hard = np.eye(len(ratios))[soft.argmax(-1)]
  assert np.all(hard.any((0, 1)))  # every resolution is chosen
  routes = {
    "soft": soft,
    "hard": hard,
    "uniform": np.full_like(soft, 1 / len(ratios)),
  }

  @jax.jit
  def outputs(variables, x):
    return [run(make(route=r, **fields), variables, x) for r in routes]

  found = outputs(variables, x)
  for got, weights in zip(found, routes.values(), strict=True):
    out = read * weights[:, :, None, None]
    if heads == "all":
      out = out.sum(-1)
    else:  # head h has resolution h % R, whose weight is relative to 1 / R
      own = np.arange(H) % len(ratios)
      out = len(ratios) * out[:, :, np.arange(H), :, own].transpose(1, 2, 0, 3)
    want = out.reshape(B, N, M) @ params["out"]["kernel"]
    arrays.close(
      np.where(MASK[..., None], got, 0),
      np.where(MASK[..., None], want + params["out"]["bias"], 0),
      *LENGTHS,
    )


@pytest.mark.parametrize("compression", ["mean_pool", "convolution", "linear"])
def test_at_ratio_1_it_is_linear_attention(compression):
  """Bit for bit, with the same parameters: no router, and no compression."""
  ours = make(ratios=(1,), compression=compression)
  linear = attention.LinearSelfAttention(H)
  x = arrays.draw(B, N, M)
  variables = filled(ours, x)
  jax.tree.map(np.testing.assert_array_equal, variables, filled(linear, x))
  np.testing.assert_array_equal(
    run(ours, variables, x), run(linear, variables, x)
  )


@pytest.mark.parametrize("compression", ["mean_pool", "convolution", "linear"])
def test_one_resolution_with_softmax_is_linformer(compression):
  ratio = 4
  ours = make(ratios=(ratio,), compression=compression, kernel="softmax")
  linformer = attention.LinformerSelfAttention(
    H, N, N // ratio, "key_value", compression
  )
  x = arrays.draw(B, N, M)
  params = filled(ours, x)["params"]
  want = run(
    linformer,
    {
      "params": {
        name.removeprefix(f"ratio_{ratio}_"): leaf
        for name, leaf in params.items()
      }
    },
    x,
  )
  got = run(ours, {"params": params}, x)
  arrays.close(got[MASK], want[MASK], *LENGTHS)


def test_softmax_at_ratio_1_is_softmax_attention():
  ours = make(ratios=(1,), kernel="softmax")
  softmax = attention.SoftmaxSelfAttention(H)
  x = arrays.draw(B, N, M)
  variables = filled(softmax, x)
  arrays.close(run(ours, variables, x), run(softmax, variables, x), *LENGTHS)


@pytest.mark.parametrize("route", ["soft", "hard", "uniform"])
def test_constant_values_come_out(route):
  """Weights over rows, and over resolutions, sum to one."""
  module = make(route=route)
  x = arrays.draw(B, N, M)
  params = filled(module, x)["params"]
  params["value"]["kernel"] = np.zeros((M, M), np.float32)
  want = params["value"]["bias"] @ params["out"]["kernel"]
  got = run(module, {"params": params}, x)
  want = np.broadcast_to(want + params["out"]["bias"], got.shape)
  arrays.close(got, want, *LENGTHS)


def test_rows_of_a_window_may_change_places():
  """Sums of the resolutions that pool them do not change; finer ones do."""
  module = make(ratios=(1, 4, 12))
  x = arrays.draw(B, N, M)
  variables = filled(module, x)
  order = np.arange(N).reshape(-1, 4)[:, [2, 0, 3, 1]].ravel()
  before, after = (
    module.apply(variables, rows, method="summarise")
    for rows in (x, x[:, order])
  )
  for (kv, total), (kv_after, total_after) in zip(before, after, strict=True):
    arrays.close(kv_after, kv, M, N, N)
    arrays.close(total_after, total, M, N, N)
  half = np.roll(np.arange(N), 2)  # across windows
  moved = module.apply(variables, x[:, half], method="summarise")
  arrays.close(moved[0][1], before[0][1], M, N, N)
  assert np.max(abs(moved[1][1] - before[1][1])) > 0.01


def test_the_feature_map_of_a_mean_is_not_the_mean_of_feature_maps():
  """Keys are compressed first: k = +-1 has mean 0, and phi(0) = 1."""
  k = np.array([1.0, -1.0])
  assert phi(k.mean()) == 1 and phi(k).mean() == (2 + np.exp(-1)) / 2
  module = make(ratios=(2,))
  x = np.tile(np.array([1, -1], np.float32)[:, None], (B, N // 2, M))
  params = filled(module, x)["params"]
  params["key"] = {"kernel": np.eye(M, dtype="f4"), "bias": np.zeros(M, "f4")}
  ((_, total),) = module.apply({"params": params}, x, method="summarise")
  np.testing.assert_array_equal(total, N // 2)


def test_a_hard_route_has_the_gradient_of_the_soft_weights():
  """Straight through: d loss / d g_r = <d loss / d o, o_r>."""
  x, toward = arrays.draw(B, N, M), arrays.draw(B, N, M, seed=1)
  hard = make(route="hard")
  variables = filled(hard, x)
  params = jax.tree.map(np.float64, variables["params"])
  read = np.stack(
    [by_definition(params, x, MASK | True, c, "elu") for c in RATIOS], -1
  )

  @jax.jit
  def gradient(variables):
    def loss(variables):
      return jnp.sum(hard.apply(variables, x) * toward)

    return jax.grad(loss)(variables)["params"]

  got = gradient(variables)
  out = (toward @ params["out"]["kernel"].T).reshape(B, N, H, D)
  by_weight = np.einsum("bnhdr,bnhd->bnr", read, out)
  g = probabilities(params, x)
  by_logit = g * (by_weight - (g * by_weight).sum(-1, keepdims=True))
  want = np.einsum("bnm,bnr->mr", x, by_logit)
  arrays.close(got["router"]["kernel"], want, *LENGTHS, B * N)
  # Read-outs that were not chosen get nothing: W_V's gradient is of the others.
  chosen = np.eye(R)[g.argmax(-1)]
  want = np.einsum("bnhd,bnr->hd", out, chosen)  # weights over rows sum to 1
  arrays.close(got["value"]["bias"], want.ravel(), *LENGTHS, B * N)


@functools.partial(jax.jit, static_argnums=0)
def sown(module, variables, x, mask):
  return module.apply(variables, x, None, mask, mutable=["losses"])[1]


def test_the_balance_is_that_of_each_sequence():
  """R sum_r f_r p_r over real rows; 1 at the start, R if all choose one."""
  x = arrays.draw(B, N, M)
  module = make(route="hard", balance=0.25)
  variables = filled(module, x)
  params = jax.tree.map(np.float64, variables["params"])
  p = probabilities(params, x)
  terms = []
  for row, real in zip(p, MASK, strict=True):
    share = np.eye(R)[row[real].argmax(-1)].mean(0)
    terms.append(R * np.sum(share * row[real].mean(0)))
  poisoned = np.where(MASK[..., None], x, np.nan)
  (got,) = jax.tree.leaves(sown(module, variables, poisoned, MASK))
  arrays.close(got, 0.25 * np.mean(terms), *LENGTHS)
  zero = jax.tree.map(np.zeros_like, variables)
  (start,) = jax.tree.leaves(sown(module, zero, x, MASK))
  assert start == 0.25
  for other in ({"route": "soft"}, {"route": "hard", "balance": 0.0}):
    assert not jax.tree.leaves(sown(make(**other), variables, x, MASK))
  with pytest.raises(ValueError, match=r"balance 0.25.*memory.*balance=0"):
    module.init(jax.random.key(0), x, x)


def count(**fields):
  x = jax.ShapeDtypeStruct((1, N, M), jnp.float32)
  shapes = jax.eval_shape(make(**fields).init, jax.random.key(0), x)
  assert set(shapes) == {"params"}
  return models.num_parameters(shapes["params"])


def test_parameters():
  """W_Q, W_K, W_V, W_O; a router; and E_r or window kernels for ratios > 1."""
  maps, router = 4 * (M * M + M), (M + 1) * R
  assert count() == count(route="hard") == maps + router
  assert count(route="uniform") == maps
  assert count(compression="linear") == maps + router + N * (N // 4 + N // 12)
  assert count(compression="convolution") == maps + router + (4 + 12) * D * D


def test_the_router_starts_uniform():
  x = arrays.draw(B, N, M)
  variables = make().init(jax.random.key(0), x)
  assert not np.any(variables["params"]["router"]["kernel"])
  start = run(make(), variables, x)
  arrays.close(start, run(make(route="uniform"), variables, x), *LENGTHS)


@pytest.mark.parametrize("compression", ["mean_pool", "convolution"])
def test_its_cost_is_linear_in_the_length(compression):
  """FLOPs double with n but for the last addends, and nothing is [n, n]."""
  width, heads, n = 128, 2, 132
  config = attention.AdaMRAConfig(ratios=RATIOS, compression=compression)

  def lowered(n):
    sizes = attention.Sizes(width, heads, n)
    x = jax.ShapeDtypeStruct((1, n, width), jnp.float32)
    module = config.module(sizes)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.jit(module.apply).lower(variables, x), config.flops(sizes, n)

  (once, ours), (twice, ours_twice) = lowered(n), lowered(2 * n)
  assert ours_twice == 2 * ours
  flops, more = (one.cost_analysis()["flops"] for one in (once, twice))
  # A sum of K terms is K - 1 additions, and z_r has M entries.
  assert 0 <= more - 2 * flops <= R * width
  once = once.compile()
  assert ours <= once.cost_analysis()["flops"] <= 1.05 * ours
  assert not re.search(rf"\[(\d+,)*{n},(\d+,)*{n}[,\]]", once.as_text())


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"ratios": ()}, r"ratios \(\) must be ascending"),
    ({"ratios": (4, 4)}, r"ratios \(4, 4\) must be ascending"),
    ({"ratios": (0, 4)}, r"ratios \(0, 4\) must be ascending"),
    ({"ratios": (1.5,)}, "ratios .* must be whole numbers"),
    ({"ratios": (1, 5)}, "max_length 24 is not divisible by the ratio 5"),
    ({"compression": "random"}, "compression 'random' is not one of"),
    ({"kernel": "relu"}, "kernel 'relu' is not one of elu, softmax"),
    ({"route": "top2"}, "route 'top2' is not one of soft, hard, uniform"),
    ({"heads": "one"}, "heads 'one' is not one of all, coarse_to_fine"),
    (
      {"heads": "coarse_to_fine"},
      "num_heads 2 is not divisible by the 3 ratios",
    ),
    ({"temperature": 0.0}, "temperature 0.0 must be"),
    ({"balance": -1.0}, "balance -1.0 must be"),
  ],
)
def test_what_does_not_fit(fields, message):
  with pytest.raises(ValueError, match=message):
    config = attention.AdaMRAConfig(**{"ratios": RATIOS} | fields)
    models.ModelConfig(9, N, 1, M, H, 8, attention=config)
  with pytest.raises(ValueError, match=message):
    make(**fields).init(jax.random.key(0), arrays.draw(1, N, M))


def test_windows_do_not_cross_devices():
  config = attention.AdaMRAConfig(ratios=(1, 4))
  sizes = attention.Sizes(M, H, 32)
  config.check(sizes, 32, 8)
  with pytest.raises(ValueError, match=r"16 rows.*ratio 4.*mesh.sequence=8"):
    config.check(sizes, 16, 8)
  learned = dataclasses.replace(config, compression="linear")
  learned.check(sizes, 16, 8)
