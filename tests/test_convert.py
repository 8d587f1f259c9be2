"""A converted model is the softmax model where it has to be.

Tolerances: outputs of a layer norm are of order one, and go through two
layers of sums of at most 32 float32 products.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from linformer_jax import attention, models
from linformer_jax.models import convert, layers
from tests import runs

B, N, K, H = 3, 12, 4, 2
SOFTMAX = models.ModelConfig(
  vocab_size=30,
  max_length=N,
  num_layers=2,
  embed_dim=16,
  num_heads=H,
  mlp_dim=32,
  attention=attention.SoftmaxConfig(),
  position_offset=2,
  initializer_std=0.3,
)
CLOSE = 2 * 32 * 2**-23 * 16
EYE = jnp.broadcast_to(jnp.eye(N), (H, N, N))


@functools.cache
def variables():
  tokens = jnp.zeros((1, N), jnp.int32)
  return jax.jit(models.MaskedLM(SOFTMAX).init)(jax.random.key(0), tokens)


@functools.cache
def run(config):
  return jax.jit(models.MaskedLM(config).apply)


def tokens_of(n=N):
  return jax.random.randint(jax.random.key(1), (B, n), 0, 30)


def flat(tree):
  return traverse_util.flatten_dict(layers.unstack(tree), sep="/")


def converted(k=K, chosen=(0, 1), start="mean_pool", **kwargs):
  by = dict.fromkeys(chosen)
  if start != convert.ADAPTIVE:
    by = convert.projections(start, SOFTMAX, k, chosen)
  return convert.convert(SOFTMAX, variables(), k, by, **kwargs)


def test_the_identity_is_softmax_attention():
  by = {i: (EYE, EYE) for i in range(2)}
  config, new = convert.convert(SOFTMAX, variables(), N, by)
  got = run(config)(new, tokens_of())
  want = run(SOFTMAX)(variables(), tokens_of())
  np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE)


def test_an_adaptive_pool_of_every_row_is_softmax_attention_with_padding():
  config, new = converted(N, start=convert.ADAPTIVE)
  mask = np.random.default_rng(0).random((B, N)) < 0.6
  got = run(config)(new, tokens_of(), mask)[mask]
  want = run(SOFTMAX)(variables(), tokens_of(), mask)[mask]
  np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("start", [*convert.STARTS, convert.ADAPTIVE])
def test_all_parameters_are_kept_and_projections_added(start):
  config, new = converted(chosen=(1,), start=start)
  shapes = jax.eval_shape(
    models.MaskedLM(config).init, jax.random.key(0), tokens_of()
  )
  assert jax.tree.map(jnp.shape, new) == jax.tree.map(lambda x: x.shape, shapes)
  old, new = flat(variables()), flat(new)
  runs.assert_same_bits({name: new[name] for name in old}, old)
  added = new.keys() - old.keys()
  assert all(name.split("/")[2] == "layer_1" for name in added)
  assert len(added) == (0 if start == convert.ADAPTIVE else 2)


def test_only_the_layers_named_change():
  """Layer 1 is the last, so the rows before it are the same."""
  config, new = converted(chosen=(1,))
  assert [kind.name for kind in config.layers] == ["softmax", "linformer"]

  def rows(config, tree):
    config = dataclasses.replace(config, scan_layers=False)
    tree = {"params": layers.unstack(tree["params"])["encoder"]}
    _, seen = models.TokenEncoder(config).apply(
      tree,
      tokens_of(),
      mutable="intermediates",
      capture_intermediates=lambda module, _: module.name == "block",
    )
    found = seen["intermediates"]
    return [found[f"layer_{i}"]["block"]["__call__"][0] for i in range(2)]

  old, new = rows(SOFTMAX, variables()), rows(config, new)
  for i, same in enumerate((True, False)):
    assert np.array_equal(old[i], new[i]) == same


def test_other_layers_can_get_windows():
  config, new = converted(chosen=(1,), window=N)
  assert [kind.name for kind in config.layers] == [
    "local",
    "linformer",
  ]
  plain, same = converted(chosen=(1,))
  got, want = run(config)(new, tokens_of()), run(plain)(same, tokens_of())
  np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE)  # a window of all


def test_a_random_start_has_the_lemmas_variance():
  e, f = convert.projections("random", SOFTMAX, K, (0,))[0]
  assert not np.array_equal(e, f) and e.shape == (H, K, N)
  size = e.size  # five standard errors of a variance
  assert abs(np.var(e) * K - 1) < 5 * np.sqrt(2 / size)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: converted(N + 1), "between 1 and the max_length 12"),
    (lambda: converted(chosen=(2,)), "layers 0 to 1"),
    (lambda: converted(chosen=(-1,)), "layers has -1"),
    (
      lambda: convert.convert(*converted(chosen=(1,)), K, {1: None}),
      "layer 1 has linformer attention",
    ),
  ],
)
def test_what_does_not_fit_is_a_value_error(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_a_group_of_fields_gives_the_layers_back():
  for config in (SOFTMAX, converted()[0], converted(chosen=(1,))[0]):
    group = attention.to_fields(config.layers)
    assert attention.from_fields(group, 2) == config.layers
  others = [attention.LocalConfig(window=w) for w in (1, 2)]
  with pytest.raises(ValueError, match="layers with local attention differ"):
    attention.to_fields(tuple(others))


# Stretching.

E = np.random.default_rng(2).normal(size=(H, K, N)).astype(np.float32)


def test_the_same_length_is_the_identity():
  runs.assert_same_bits(convert.stretch_projection(E, N), E)
  for name, longer in convert.POSITIONS.items():
    runs.assert_same_bits(longer(E[0], K), E[0])
    config, new = convert.stretch(SOFTMAX, variables(), N, name)
    assert config == SOFTMAX
    runs.assert_same_bits(new, variables())


@pytest.mark.parametrize("length", [5, 13, 24, 40])
def test_positions_are_interpolated_between_their_ends(length):
  line = np.outer(np.linspace(-1, 2, N), [1.0, 3.0])
  got = convert.stretch_positions(line, length)
  want = np.outer(np.linspace(-1, 2, length), [1.0, 3.0])
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


@pytest.mark.parametrize("length", [5, 13, 24, 40])
def test_repeated_positions_are_those_of_the_row_modulo_n(length):
  got = convert.repeat_positions(E[0].T, length)
  np.testing.assert_array_equal(got, E[0].T[np.arange(length) % N])


@pytest.mark.parametrize("length", [5, 13, 24, 40])
def test_constant_and_linear_sequences_keep_their_slots(length):
  """In places that run from 0 to 1, each row is at the middle of its cell.

  A longer E spreads a row's weight evenly around it; a shorter one moves it to
  the middle of wider cells, by at most half of one.
  """
  new = convert.stretch_projection(E.astype(np.float64), length)
  assert new.shape == (H, K, length)
  np.testing.assert_allclose(new.sum(-1), E.sum(-1), rtol=0, atol=1e-6)
  places = [(np.arange(n) + 0.5) / n for n in (N, length)]
  off = abs(new @ places[1] - E @ places[0])
  exact = length % N == 0
  bound = 1e-6 if exact else 0.5 / length * abs(E).sum(-1)
  assert np.all(off <= bound)


def test_slots_of_a_smooth_signal_agree_to_first_order():
  def slots(n):
    x = np.sin(3 * (np.arange(n) + 0.5) / n)
    return convert.stretch_projection(E.astype(np.float64), n) @ x

  # Within a cell of 1 / N a line is off by at most max |x''| / (8 N^2).
  assert np.all(abs(slots(10 * N) - slots(N)) < 9 / 8 / N**2 * abs(E).sum(-1))


@pytest.mark.parametrize("times", [2, 3])
def test_window_means_stretch_to_window_means(times):
  shape = H, K, N
  pool = convert.STARTS["mean_pool"](jax.random.key(0), shape)
  # Of a sequence with `times` copies of each row.
  want = np.repeat(pool, times, axis=-1) / times
  got = convert.stretch_projection(pool, times * N)
  np.testing.assert_allclose(got, want, rtol=0, atol=2**-24)


def test_a_longer_model_takes_longer_texts():
  for start, positions in (
    ("mean_pool", "stretch"),
    (convert.ADAPTIVE, "repeat"),
  ):
    model = converted(start=start)
    config, new = convert.stretch(*model, 2 * N, positions)
    assert config.max_length == 2 * N
    table = new["params"]["encoder"]["embed"]["positions"]
    old = variables()["params"]["encoder"]["embed"]["positions"]
    assert table.shape == (2 * N + 2, 16)
    for i in (0, 1, 2, -1):  # RoBERTa's two unused rows, and the ends
      np.testing.assert_array_equal(table[i], old[i])
    assert run(config)(new, tokens_of(2 * N)).shape == (B, 2 * N, 30)


def test_what_cannot_be_stretched_is_a_value_error():
  kind = attention.LinformerConfig(projected_length=K, projection="convolution")
  config = dataclasses.replace(SOFTMAX, attention=kind)
  with pytest.raises(ValueError, match="cannot be stretched"):
    convert.stretch(config, {"params": {}}, 2 * N)
  with pytest.raises(ValueError, match="between 1 and the max_length 3"):
    convert.stretch(*converted(), 3)
