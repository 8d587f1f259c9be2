"""A cache: the next rows of a causal model are those of a full forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from tests import arrays, test_attentions, test_causal_linformer

N, V, M, H = 24, 13, 16, 2
CHOICES = {
  name: test_attentions.CHOICES[name] for name in test_attentions.CAUSAL
} | {
  name: attention.CausalLinformerConfig(**fields)
  for name, fields in test_causal_linformer.CHOICES.items()
}
CHOICES["mixed"] = (
  attention.LocalConfig(window=2),
  attention.CausalLinformerConfig(block_length=4, projected_length=2),
)
CHOICES["layerwise"] = attention.CausalLinformerConfig(
  block_length=4, projected_length=2, sharing="layerwise"
)
QUICK = "linear", "pyramid", "mixed"
PROMPTS = np.array([5, 1, 12])


def build(name, **fields):
  config = models.ModelConfig(V, N, 2, M, H, 8, CHOICES[name], **fields)
  model = models.CausalLM(config)
  tokens = np.random.default_rng(0).integers(0, V, (len(PROMPTS), N))
  return model, arrays.filled(model, tokens), tokens


def last(logits, ends):
  """Row end - 1 of each sequence."""
  return np.asarray(logits)[np.arange(len(ends)), ends - 1]


def prefill(extend, model, tokens, prompts, step):
  """Reads prompts of several lengths, some rows at a time."""
  cache = models.init_cache(model.config, len(prompts), N)
  vocabulary = model.config.vocab_size
  found = np.zeros((len(prompts), vocabulary), np.float32)
  for at in range(0, prompts.max(), step):
    count = np.clip(prompts - at, 0, step)
    rows = np.where(
      np.arange(step) < count[:, None], tokens[:, at : at + step], 0
    )
    start = np.minimum(prompts, at)
    logits, cache = extend(rows, cache, start, count)
    found[count > 0] = np.asarray(logits)[count > 0]
  return found, cache


@pytest.mark.parametrize(
  "fields",
  [
    {},
    pytest.param(
      {"norm_position": "pre", "scan_layers": False}, marks=pytest.mark.slow
    ),
  ],
)
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
    for name in CHOICES
  ],
)
def test_the_next_rows_are_those_of_the_whole(name, fields):
  """Prompts in blocks, then one token at a time, for sequences out of step."""
  model, variables, tokens = build(name, **fields)
  whole = np.asarray(jax.jit(model.apply)(variables, tokens))

  @jax.jit
  def extend(rows, cache, start, count):
    return model.apply(variables, rows, cache, start, count, method="extend")

  lengths = N, M, M // H, M, 8, M, N
  step = models.extend_block(model.config) or 4
  logits, cache = prefill(extend, model, tokens, PROMPTS, step)
  arrays.close(logits, last(whole, PROMPTS), *lengths)
  at = PROMPTS.copy()
  one = np.ones(len(at), int)
  while at.max() < N:
    rows = tokens[np.arange(len(at)), at][:, None]
    logits, cache = extend(rows, cache, at, one)
    at += 1
    arrays.close(logits, last(whole, at), *lengths)


def test_a_sequence_with_no_new_rows_keeps_its_cache():
  for name in ("causal_linformer", "softmax", "linear"):
    model, variables, tokens = build(name)
    cache = models.init_cache(model.config, len(tokens), N)
    filled = jax.tree.map(
      lambda x: jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), cache
    )
    none = np.zeros(len(tokens), int)
    _, after = model.apply(
      variables, tokens[:, :4], filled, none, none, method="extend"
    )
    jax.tree.map(np.testing.assert_array_equal, after, filled)


@pytest.mark.parametrize(
  ("kind", "grows"),
  [
    (attention.SoftmaxConfig(), 1.0),
    (attention.CausalLinformerConfig(), 4 / 64),
    (attention.CausalLinformerConfig(levels=2), 0.0),
    (attention.LocalConfig(), 0.0),
    (attention.LinearConfig(), 0.0),
  ],
)
def test_what_a_cache_holds(kind, grows):
  """Rows of k and v for each row of a sequence, in the limit."""
  config = models.ModelConfig(V, 2**16, 2, M, H, 8, kind)

  def size(length):
    cache = jax.eval_shape(lambda: models.init_cache(config, 3, length))
    return models.num_parameters(cache)

  added = size(2**16) - size(2**15)
  assert added == grows * 2**15 * 2 * 2 * 3 * M


def test_others_say_that_they_cannot_generate():
  config = models.ModelConfig(V, N, 2, M, H, 8, attention.FNetConfig())
  with pytest.raises(ValueError, match="'fnet' has no cache"):
    models.init_cache(config, 1, N)
