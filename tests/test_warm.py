"""Linformers that start from softmax attention: the fit of E and F."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import documents
from experiments import page as page_lib
from experiments.perplexity import sweep
from experiments.warm import fit, measure, render
from experiments.warm.measure import Item
from linformer_jax import attention, models, step

B, N, K, M, H = 3, 12, 4, 8, 2


@pytest.fixture
def qkv():
  keys = jax.random.split(jax.random.key(0), 3)
  return tuple(jax.random.normal(key, (B, N, H, M // H)) for key in keys)


@pytest.fixture
def biases():
  return list(jax.random.normal(jax.random.key(1), (2, H, M // H)))


def pool():
  e = jnp.repeat(jnp.eye(K), N // K, axis=1) * K / N
  return jnp.broadcast_to(e, (H, K, N))


def test_the_identity_has_no_error(qkv, biases):
  e = jnp.broadcast_to(jnp.eye(N), (H, N, N))
  assert fit.errors((e, e), qkv, biases) < 1e-12


def test_window_means_have_none_if_windows_are_constant(qkv, biases):
  q, k, v = qkv
  k, v = (jnp.repeat(x[:, :K], N // K, axis=1) for x in (k, v))
  # A mean of k - b, plus b, is a mean of k.
  assert fit.errors((pool(), pool()), (q, k, v), biases) < 1e-10
  assert fit.errors((pool(), pool()), qkv, biases) > 0.05


def test_errors_are_those_of_linformer_attention():
  sizes = attention.Sizes(embed_dim=M, num_heads=H, max_length=N)
  config = attention.LinformerConfig(projected_length=K, sharing="none")
  x = jax.random.normal(jax.random.key(2), (B, N, M))
  module = config.module(sizes)
  variables = module.init(jax.random.key(3), x)
  params = dict(variables["params"])
  for i, name in enumerate(("query", "key", "value")):
    bias = jax.random.normal(jax.random.key(4 + i), (M,))
    params[name] = params[name] | {"bias": bias}
  params["out"] = params["out"] | {"kernel": jnp.eye(M)}
  exact = attention.SoftmaxConfig().module(sizes)
  maps = {name: params[name] for name in ("query", "key", "value", "out")}
  wanted = exact.apply({"params": maps}, x)
  wrong = module.apply({"params": params}, x) - wanted
  rows = [
    (x @ params[name]["kernel"] + params[name]["bias"]).reshape(B, N, H, -1)
    for name in ("query", "key", "value")
  ]
  biases = [params[name]["bias"].reshape(H, -1) for name in ("key", "value")]
  weights = fit.projections({"a": params})[("a",)]
  np.testing.assert_allclose(
    fit.errors(weights, rows, biases),
    jnp.mean(wrong**2) / jnp.mean(wanted**2),
    rtol=1e-5,
  )


def model(attention_config):
  return models.MaskedLM(
    models.ModelConfig(
      vocab_size=16,
      max_length=N,
      num_layers=2,
      embed_dim=M,
      num_heads=H,
      mlp_dim=M,
      initializer_std=0.5,
      attention=attention_config,
      scan_layers=False,
    )
  )


def test_a_fit_is_nearer_than_its_start_on_other_tokens(monkeypatch):
  monkeypatch.setattr(fit, "UPDATES", 40)
  monkeypatch.setattr(fit, "RATE", 1e-2)
  softmax = model(attention.SoftmaxConfig())
  linformer = model(
    attention.LinformerConfig(
      projected_length=K,
      sharing="none",
      projection_init="mean_pool",
      projection_std=0.0,
    )
  )
  tokens = jax.random.randint(jax.random.key(0), (41, 16, N), 0, 16)
  variables = softmax.init(jax.random.key(1), tokens[0])
  params = linformer.init(jax.random.key(1), tokens[0])["params"]
  start = fit.projections(params)
  assert len(start) == 2
  first, _ = next(iter(start.values()))
  np.testing.assert_allclose(first[0], pool()[0])  # others are shifted
  weights, told = fit.fit(softmax, variables, start, iter(tokens))
  for before, after in told.values():
    assert after < before
  found = fit.projections(fit.with_projections(params, weights))
  jax.tree.map(np.testing.assert_array_equal, found, weights)


def test_a_warm_run_reads_other_blocks_than_its_weights_did():
  item = Item("pool", 1e-3, 0.1)
  config = sweep.config_of(item.point("/somewhere").words(0))
  assert config.train.init_from == "/somewhere"
  assert config.optimizer.projection_rate == 0.1
  assert config.data.seed == 100 and config.seed == 0
  base = sweep.config_of(measure.base(0).point().words(0))
  assert base.data.seed == 0
  ours, theirs = (step.model_config(x) for x in (config, base))
  assert ours.layers[0].projected_length == measure.N // 4
  assert theirs.layers[0] == attention.SoftmaxConfig()


def test_all_arms_have_had_the_same_updates():
  assert Item("scratch", 1e-3, 1.0).updates == measure.BASE + measure.UPDATES
  assert Item("fitted", 1e-3, 1.0).updates == measure.UPDATES
  items = measure.items()
  assert len(items) == len(set(items))
  names = {(item.point().name, item.seed) for item in items}
  assert len(names) == len({(i.arm, i.rate, i.e_rate, i.seed) for i in items})


def test_the_page_is_rendered_from_the_committed_results():
  page, parts = render.PAGE.read_text(), render.parts(render.Found())
  assert page_lib.renew(page, parts) == page
  for begin in parts:
    assert begin in page


@pytest.mark.parametrize("arm", ["pool", "fitted"])
def test_weights_of_softmax_attention_do_not_close_the_gap(arm):
  found = render.Found()
  for rates in found.runs(arm):
    _, low, _ = found.gap(arm, rates)
    assert low > 0.3
    # Nor do they reach the model whose weights they started from.
    first = found.sums("softmax", found.best("softmax"), 0)
    _, low, _ = documents.interval(found.sums(arm, rates, 3_600), first)
    assert low > 0.15


def test_fits_are_nearer_at_the_swap_and_hardly_at_the_end():
  found = render.Found()
  for rates in set(found.runs("pool")) & set(found.runs("fitted")):
    sums = [
      [found.sums(arm, rates, step) for arm in ("fitted", "pool")]
      for step in (0, 3_600)
    ]
    (first, _, high), (last, _, _) = (documents.interval(*x) for x in sums)
    assert first < high < -0.15
    assert -0.05 < last < 0
