"""ModelConfig: every contradiction is named, with both numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from linformer_jax import attention
from linformer_jax.attention import initializers, projection
from linformer_jax.models import config as model_config


def linformer(**fields):
  return attention.LinformerConfig(**{"projected_length": 4} | fields)


FIELDS = {
  "vocab_size": 50,
  "max_length": 16,
  "num_layers": 3,
  "embed_dim": 8,
  "num_heads": 2,
  "mlp_dim": 16,
  "attention": linformer(),
}


@pytest.mark.parametrize(
  ("fields", "parts"),
  [
    ({"norm_position": "mid"}, ("norm_position 'mid'", "post, pre")),
    (
      {"position_init": "one"},
      ("position_init 'one'", "normal, sinusoidal, neighbours"),
    ),
    ({"dtype": "float16"}, ("dtype 'float16'", "float32, bfloat16")),
    (
      {"attention": linformer(sharing="all")},
      ("sharing 'all'", "headwise, key_value"),
    ),
    (
      {"attention": linformer(projection="fourier")},
      ("projection 'fourier'", "mean_pool"),
    ),
    (
      {"attention": linformer(projection_init="eye")},
      ("projection_init 'eye'", "mean_pool"),
    ),
    ({"vocab_size": 0}, ("vocab_size 0", "at least 1")),
    ({"max_length": 0}, ("max_length 0", "at least 1")),
    ({"num_layers": 0}, ("num_layers 0", "at least 1")),
    ({"embed_dim": 0}, ("embed_dim 0", "at least 1")),
    ({"mlp_dim": -1}, ("mlp_dim -1", "at least 1")),
    ({"position_offset": -1}, ("position_offset -1", "at least 0")),
    ({"query_block": -8}, ("query_block -8", "at least 0")),
    ({"dropout_rate": 1.0}, ("dropout_rate 1.0", "[0, 1)")),
    ({"dropout_rate": -0.1}, ("dropout_rate -0.1", "[0, 1)")),
    (
      {"attention": linformer(dropout_rate=1.5)},
      ("dropout_rate 1.5", "[0, 1)"),
    ),
    (
      {"attention": attention.LocalConfig(dropout_rate=-1)},
      ("dropout_rate -1", "[0, 1)"),
    ),
    ({"num_heads": 3}, ("embed_dim 8", "num_heads 3")),
    ({"num_heads": 0}, ("embed_dim 8", "num_heads 0")),
    (
      {"attention": linformer(implementation="flash", dropout_rate=0.1)},
      ("dropout_rate 0.1", "implementation 'flash'"),
    ),
    (
      {"attention": attention.SoftmaxConfig(implementation="cudnn")},
      ("implementation 'cudnn'", "bfloat16", "not float32"),
    ),
    (
      {"attention": linformer(projected_length=17)},
      ("projected_length 17", "max_length 16"),
    ),
    (
      {"attention": linformer(projected_length=0)},
      ("projected_length 0", "max_length 16"),
    ),
    (
      {"attention": linformer(projected_lengths=(4, 2))},
      ("(4, 2) lists 2 values", "3 layers"),
    ),
    (
      {"attention": linformer(projected_lengths=(4, 4, 32))},
      ("projected_length 32", "max_length 16"),
    ),
    (
      {"attention": linformer(projected_length=5, projection="convolution")},
      ("'convolution'", "16 = 3 * 5 + 1"),
    ),
    (
      {
        "attention": linformer(projected_lengths=(4, 4, 2), sharing="layerwise")
      },
      ("share one projection", "k = 4, layerwise", "k = 2, layerwise"),
    ),
    ({"attention": ()}, ("lists 0 layers", "num_layers 3")),
    ({"attention": 2 * [linformer()]}, ("lists 2 layers", "num_layers 3")),
  ],
)
def test_contradictions(fields, parts):
  with pytest.raises(ValueError) as error:
    model_config.ModelConfig(**(FIELDS | fields))
  for part in parts:
    assert part in str(error.value)


def test_frozen_and_hashable():
  """Flax modules and jit's static arguments compare configurations."""
  lengths = linformer(projected_lengths=[4, 4, 2])
  config = model_config.ModelConfig(**FIELDS | {"attention": lengths})
  assert [layer.projected_length for layer in config.layers] == [4, 4, 2]
  lengths = linformer(projected_lengths=(4, 4, 2))
  same = dataclasses.replace(config, attention=lengths)
  assert hash(config) == hash(same) and config == same
  listed = dataclasses.replace(config, attention=list(config.layers))
  assert hash(listed) and listed.layers == config.layers
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.embed_dim = 9


def projection_init(**fields):
  """The initializer with which a layer makes its E, without noise."""
  kind = linformer(projection_std=0.0, **fields)
  return kind.module(attention.Sizes(8, 2, 16)).projection_init


@pytest.mark.parametrize("start", sorted(initializers.DENSE))
def test_starts_of_a_convolution(start):
  """A mean of the window, or a row, without noise; or by the fan-in."""
  init = projection_init(projection="convolution", projection_init=start)
  module = projection.SequenceProjection("convolution", 12, 4, 2, init)
  kernel = module.init(jax.random.key(0), 32)["params"]["window_kernel"]
  eye = np.eye(32)[None, None]
  if start == "normal":  # five standard errors
    assert abs(np.var(kernel) * 3 * 32 - 1) < 5 * np.sqrt(2 / kernel.size)
  elif start == "mean_pool":
    expected = np.broadcast_to(eye / 3, kernel.shape)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)
  else:
    picked = np.eye(3)[[0, 1], :, None, None]
    np.testing.assert_array_equal(kernel, picked * eye)


@pytest.mark.parametrize(("k", "n"), [(4, 12), (5, 12), (12, 12)])
def test_mean_pool_start_of_a_dense_projection(k, n):
  """Without noise every row is a mean: of neighbours, each column in one."""
  init, key = projection_init(projection_init="mean_pool"), jax.random.key(0)
  matrices = np.asarray(init(key, (2, k, n)))
  eps = np.finfo(np.float32).eps
  for matrix in matrices:
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=0, atol=n * eps)
    assert np.all((matrix > 0).sum(0) == 1)
    assert np.all(np.diff(matrix.argmax(0)) >= 0)  # windows in order
  # The second head's windows are shifted, where they have room.
  assert np.array_equal(*matrices) == (k == n)
  matrix = matrices[0]
  np.testing.assert_array_equal(matrix, init(key, (k, n)))
  if n % k == 0:
    assert np.all(matrix[matrix > 0] == np.float32(k / n))
