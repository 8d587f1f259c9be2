"""A decoder that attends to a source: masks, causality and its cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from tests import arrays

B, N, T, M, H, V = 2, 20, 12, 16, 2, 11
CROSS = {
  "softmax": attention.SoftmaxConfig(),
  "linformer": attention.LinformerConfig(projected_length=5),
  "mean_pool": attention.LinformerConfig(
    projected_length=5, projection="mean_pool", sharing="key_value"
  ),
}
KINDS = {
  "softmax": attention.SoftmaxConfig(),
  "slots": attention.CausalLinformerConfig(block_length=4, projected_length=2),
}


def build(cross="linformer", kind="slots"):
  encoder = attention.LinformerConfig(projected_length=6)
  model = models.EncoderDecoder(
    models.ModelConfig(V, N, 2, M, H, 8, encoder),
    models.ModelConfig(V, T, 2, M, H, 8, KINDS[kind], norm_position="pre"),
    CROSS[cross],
  )
  rng = np.random.default_rng(0)
  source, target = rng.integers(0, V, (B, N)), rng.integers(0, V, (B, T))
  return model, arrays.filled(model, source, target), source, target


@pytest.mark.parametrize("cross", CROSS)
def test_a_short_source_is_that_source_padded(cross):
  model, variables, source, target = build(cross)
  apply = jax.jit(model.apply)
  mask = np.arange(N)[None].repeat(B, 0) < 13
  padded = apply(variables, source, target, mask)
  alone = apply(variables, source[:, :13], target)
  arrays.close(padded, alone, 2 * M, N, 8, M, T)
  other = np.where(mask, source, (source + 1) % V)
  np.testing.assert_array_equal(apply(variables, other, target, mask), padded)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_do_not_depend_on_later_tokens(kind):
  model, variables, source, target = build(kind=kind)
  apply = jax.jit(model.apply)
  want = np.asarray(apply(variables, source, target))
  for t in (0, 5, T - 2):
    later = target.copy()
    later[:, t + 1 :] = (later[:, t + 1 :] + 1) % V
    got = np.asarray(apply(variables, source, later))
    np.testing.assert_array_equal(got[:, : t + 1], want[:, : t + 1])
    assert np.any(got[:, t + 1 :] != want[:, t + 1 :])


@pytest.mark.parametrize(
  ("cross", "kind"), [("softmax", "softmax"), ("linformer", "slots")]
)
def test_a_cache_gives_the_whole_forward_pass(cross, kind):
  model, variables, source, target = build(cross, kind)
  mask = np.arange(N) < np.array([[N], [13]])
  whole = model.apply(variables, source, target, mask)
  cache = model.apply(variables, source, mask, T, method="begin")
  extend = jax.jit(lambda *a: model.apply(variables, *a, method="extend"))
  one = np.ones(B, int)
  for t in range(T):
    logits, cache = extend(target[:, t : t + 1], cache, t * one, one)
    arrays.close(logits, whole[:, t], 2 * M, N, 8, M, T)


def test_slots_of_the_source_do_not_grow_with_it():
  for cross, size in (("linformer", 5), ("softmax", N)):
    model, variables, source, _ = build(cross)
    cache = model.apply(variables, source, None, T, method="begin")
    for _, summary in cache:
      k, v = summary[:2]
      assert k.shape == v.shape == (B, H, size, M // H)


def test_the_source_matters_and_gets_gradients():
  model, variables, source, target = build()

  def loss(variables):
    logits = model.apply(variables, source, target)
    return jnp.sum(jax.nn.log_softmax(logits)[..., 0])

  slopes = jax.jit(jax.grad(loss))(variables)["params"]
  assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(slopes))


def test_sizes_that_do_not_fit():
  config = models.ModelConfig(V, N, 1, M, H, 8, CROSS["softmax"])
  wide = models.ModelConfig(V, N, 1, 2 * M, H, 8, CROSS["softmax"])
  model = models.EncoderDecoder(wide, config, CROSS["softmax"])
  tokens = np.zeros((1, 4), int)
  with pytest.raises(ValueError, match="embed_dim of source 32 and of target"):
    model.init(jax.random.key(0), tokens, tokens)
  local = models.EncoderDecoder(config, config, attention.LocalConfig(window=2))
  with pytest.raises(ValueError, match="local attention is for attention to"):
    local.init(jax.random.key(0), tokens, tokens)
