"""Padding never leaks, whatever the projection and the sharing.

Row 0 of a batch ends early, row 1 has holes, row 2 is wholly padded, row 3 is
full. One program sees pads that are random, NaN and infinite: its results must
agree in every bit.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.attention import linformer
from linformer_jax.attention import projection as projection_lib
from tests import arrays

N, K, M, H, F = 12, 4, 8, 2, 16
SHORT, QUERIES = 7, 5
MASK = np.array(
  [
    [1] * SHORT + [0] * (N - SHORT),
    [0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0, 0],
    [0] * N,
    [1] * N,
  ],
  bool,
)
KINDS = [
  (kind, sharing)
  for kind in projection_lib.KINDS
  for sharing in linformer.SHARING
] + [("softmax", "")]
OTHERS = {
  "softmax": attention.SoftmaxConfig(),
  "near": attention.LocalConfig(window=2),
  "feature map": attention.LinearConfig(),
  "dynamic": attention.TransformerLSConfig(projected_length=K, window=0),
  "packed": attention.LunaConfig(projected_length=K),
  "landmarks": attention.NystromConfig(num_landmarks=3, kernel_size=3),
  "random features": attention.PerformerConfig(num_features=12),
  "cosine": attention.CosformerConfig(),
  "resolutions": attention.AdaMRAConfig(ratios=(1, 3)),
  "resolutions of heads": attention.AdaMRAConfig(
    ratios=(1, 4),
    compression="linear",
    kernel="softmax",
    route="hard",
    heads="coarse_to_fine",
  ),
}
ALL_KINDS = KINDS + [(kind, "") for kind in OTHERS if kind != "softmax"]


def quick(cases):
  """Marks as slow all but one sharing of each projection, and one more."""
  return [
    case
    if case[1] in ("headwise", "") or case == ("linear", "none")
    else pytest.param(*case, marks=pytest.mark.slow)
    for case in cases
  ]


def make_layer(kind, sharing):
  if kind in OTHERS:
    return OTHERS[kind]
  return attention.LinformerConfig(
    projected_length=K, projection=kind, sharing=sharing
  )


def make_attention(kind, sharing):
  return make_layer(kind, sharing).module(attention.Sizes(M, H, N))


def make_block(kind, sharing, norm_position):
  layer = make_layer(kind, sharing)
  config = models.ModelConfig(
    10, N, 1, M, H, F, layer, norm_position=norm_position
  )
  return models.Block(config, layer)


def check_self(module, lengths):
  """Every promise about pads for rows that attend to themselves."""
  x, toward = arrays.draw(len(MASK), N, M), arrays.draw(len(MASK), N, M, seed=9)
  variables = arrays.filled(module, x)

  def value(variables, x):
    out = module.apply(variables, x, mask=MASK)
    return jnp.sum(jnp.where(MASK[..., None], out * toward, 0)), out

  @jax.jit
  def run(variables, x):
    gradients, out = jax.grad(value, (0, 1), has_aux=True)(variables, x)
    return out, *gradients

  out, by_variables, by_x = clean = run(variables, x)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(clean))
  assert np.all(by_x[~MASK] == 0)
  assert np.all(np.any(by_x[MASK] != 0, axis=-1))
  kernels = [w for w in jax.tree.leaves(by_variables["params"]) if w.ndim > 1]
  assert kernels and all(np.any(leaf != 0) for leaf in kernels)
  for poison in (np.nan, np.inf):
    dirty = run(variables, np.where(MASK[..., None], x, poison))
    np.testing.assert_array_equal(out[MASK], dirty[0][MASK])
    jax.tree.map(np.testing.assert_array_equal, clean[1:], dirty[1:])
  alone = jax.jit(module.apply)(variables, x[:1, :SHORT])
  arrays.close(out[:1, :SHORT], alone, *lengths)


@pytest.mark.parametrize(("kind", "sharing"), quick(ALL_KINDS))
def test_attention_to_itself(kind, sharing):
  check_self(make_attention(kind, sharing), (M, N, M // H, N, M))


@pytest.mark.parametrize("kind", projection_lib.KINDS)
def test_attention_to_slots_and_near_rows(kind):
  module = attention.LinformerSelfAttention(
    H, N, K, "headwise", kind, local_window=2
  )
  check_self(module, (M, N, M // H, N, M))


@pytest.mark.parametrize(
  ("kind", "sharing", "norm_position"),
  [(kind, "headwise", "post") for kind in projection_lib.KINDS]
  + [("linear", "none", "pre"), ("max_pool", "key_value", "pre")]
  + [("softmax", "", "post"), ("softmax", "", "pre")]
  + [("near", "", "pre"), ("feature map", "", "post")],
)
def test_block(kind, sharing, norm_position):
  block = make_block(kind, sharing, norm_position)
  # Layer norms divide by a spread of about one; two of them, and the MLP.
  check_self(block, (M, N, M // H, N, M, M, M, F, M))


def test_block_with_the_projection_of_all_layers():
  """`shared` comes from outside: its gradient obeys the same rules."""
  block = make_block("linear", "layerwise", "post")

  x, weights = arrays.draw(len(MASK), N, M), arrays.draw(K, N, seed=4)
  shared = attention.Projection("linear", N, K, weights)
  variables = arrays.filled(block, x, None, shared)

  @jax.jit
  def run(weights, x):
    def value(weights):
      shared = attention.Projection("linear", N, K, weights)
      out = block.apply(variables, x, MASK, shared)
      return jnp.sum(jnp.where(MASK[..., None], jnp.sin(out), 0))

    return jax.value_and_grad(value)(weights)

  clean = run(weights, x)
  dirty = run(weights, np.where(MASK[..., None], x, np.nan))
  jax.tree.map(np.testing.assert_array_equal, clean, dirty)
  assert np.any(clean[1] != 0) and np.all(np.isfinite(clean[1]))


@pytest.mark.parametrize(
  ("kind", "sharing"),
  quick(
    [
      *KINDS,
      ("feature map", ""),
      ("random features", ""),
      ("dynamic", ""),
      ("packed", ""),
    ]
  ),
)
def test_attention_to_a_memory(kind, sharing):
  """The mask covers the memory; every query is real, and none is masked."""
  module = make_attention(kind, sharing)
  x, memory = (
    arrays.draw(len(MASK), QUERIES, M),
    arrays.draw(len(MASK), N, M, seed=1),
  )
  variables = arrays.filled(module, x, memory)

  def value(variables, x, memory):
    out = module.apply(variables, x, memory, MASK)
    return jnp.sum(jnp.sin(out)), out

  @jax.jit
  def run(variables, x, memory):
    gradient = jax.grad(value, (0, 1, 2), has_aux=True)
    gradients, out = gradient(variables, x, memory)
    return out, *gradients

  out, _, by_x, by_memory = clean = run(variables, x, memory)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(clean))
  assert np.all(by_memory[~MASK] == 0)
  assert np.all(np.any(by_memory[MASK] != 0, axis=-1))
  assert np.all(by_x[2] == 0)  # nothing to attend to
  assert np.all(np.any(by_x[np.array([0, 1, 3])] != 0, axis=-1))
  for poison in (np.nan, -np.inf):
    dirty = run(variables, x, np.where(MASK[..., None], memory, poison))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
  alone = jax.jit(module.apply)(variables, x[:1], memory[:1, :SHORT])
  arrays.close(out[:1], alone, M, N, M // H, N, M)
  # With no slot to attend to, only the output's bias is left.
  bias = variables["params"]["out"]["bias"]
  np.testing.assert_array_equal(out[2], np.broadcast_to(bias, (QUERIES, M)))


@pytest.mark.parametrize("kind", ["linear", "mean_pool", "softmax"])
def test_masks_that_do_not_fit(kind):
  module = make_attention(kind, "headwise")
  x, memory = arrays.draw(2, QUERIES, M), arrays.draw(2, N, M)
  key = jax.random.key(0)
  with pytest.raises(ValueError, match=r"\(2, 6\).*\(2, 5\)"):
    module.init(key, x, None, np.ones((2, QUERIES + 1), bool))
  with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 12\)"):
    module.init(key, x, memory, np.ones((2, QUERIES), bool))
  with pytest.raises(ValueError, match=r"\(1, 5\).*\(2, 5\)"):
    make_block(kind, "headwise", "post").init(
      key, x, np.ones((1, QUERIES), bool)
    )


@pytest.mark.parametrize("kind", projection_lib.KINDS)
def test_a_memory_beyond_max_length(kind):
  module = make_attention(kind, "headwise")
  with pytest.raises(ValueError, match=f"{N + 1} tokens.*max_length {N}"):
    module.init(
      jax.random.key(0), arrays.draw(1, 3, M), arrays.draw(1, N + 1, M)
    )
