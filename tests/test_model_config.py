"""ModelConfig: every contradiction is named, with both numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from linformer_jax.attention import linformer
from linformer_jax.models import config as model_config

FIELDS = {
  "vocab_size": 50,
  "max_length": 16,
  "num_layers": 3,
  "embed_dim": 8,
  "num_heads": 2,
  "mlp_dim": 16,
  "projected_length": 4,
}


@pytest.mark.parametrize(
  ("fields", "parts"),
  [
    ({"attention": "sparse"}, ("attention 'sparse'", "linformer, softmax")),
    ({"norm_position": "mid"}, ("norm_position 'mid'", "post, pre")),
    (
      {"position_init": "one"},
      ("position_init 'one'", "normal, sinusoidal, neighbours"),
    ),
    ({"dtype": "float16"}, ("dtype 'float16'", "float32, bfloat16")),
    ({"sharing": "all"}, ("sharing 'all'", "headwise, key_value")),
    ({"projection": "fourier"}, ("projection 'fourier'", "mean_pool")),
    ({"projection_init": "eye"}, ("projection_init 'eye'", "mean_pool")),
    ({"vocab_size": 0}, ("vocab_size 0", "at least 1")),
    ({"max_length": 0}, ("max_length 0", "at least 1")),
    ({"num_layers": 0}, ("num_layers 0", "at least 1")),
    ({"embed_dim": 0}, ("embed_dim 0", "at least 1")),
    ({"mlp_dim": -1}, ("mlp_dim -1", "at least 1")),
    ({"position_offset": -1}, ("position_offset -1", "at least 0")),
    ({"query_block": -8}, ("query_block -8", "at least 0")),
    ({"dropout_rate": 1.0}, ("dropout_rate 1.0", "[0, 1)")),
    ({"dropout_rate": -0.1}, ("dropout_rate -0.1", "[0, 1)")),
    ({"attention_dropout_rate": 1.5}, ("attention_dropout_rate 1.5", "[0, 1)")),
    ({"num_heads": 3}, ("embed_dim 8", "num_heads 3")),
    ({"num_heads": 0}, ("embed_dim 8", "num_heads 0")),
    (
      {"query_block": 4, "attention_dropout_rate": 0.1},
      ("attention_dropout_rate 0.1", "query_block 4"),
    ),
    ({"projected_length": 17}, ("projected_length 17", "max_length 16")),
    ({"projected_length": 0}, ("projected_length 0", "max_length 16")),
    ({"projected_length": (4, 2)}, ("lists 2 values", "num_layers 3")),
    ({"projected_length": (4, 4, 32)}, ("projected_length 32", "16")),
    (
      {"projected_length": 5, "projection": "convolution"},
      ("'convolution'", "16 = 3 * 5 + 1"),
    ),
    (
      {"projected_length": (4, 4, 2), "sharing": "layerwise"},
      ("'layerwise'", "(4, 4, 2)"),
    ),
  ],
)
def test_contradictions(fields, parts):
  with pytest.raises(ValueError) as error:
    model_config.ModelConfig(**(FIELDS | fields))
  for part in parts:
    assert part in str(error.value)


def test_softmax_looks_at_no_projection():
  fields = FIELDS | {"attention": "softmax", "projected_length": 99}
  assert model_config.ModelConfig(**fields).projected_length == 99


def test_frozen_and_hashable():
  """Flax modules and jit's static arguments compare configurations."""
  config = model_config.ModelConfig(
    **(FIELDS | {"projected_length": [4, 4, 2]})
  )
  assert config.projected_lengths == (4, 4, 2)
  same = dataclasses.replace(config, projected_length=(4, 4, 2))
  assert hash(config) == hash(same) and config == same
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.embed_dim = 9


@pytest.mark.parametrize("start", sorted(model_config.PROJECTION_INITS))
def test_starts_of_a_convolution(start):
  """A mean of the window, or a row, without noise; or by the fan-in."""
  config = model_config.ModelConfig(
    **FIELDS
    | {"projection_init": start, "projection_std": 0.0}
    | {"projection": "convolution"}
  )
  module = linformer.SequenceProjection(
    "convolution", 12, 4, 2, config.weights_init()
  )
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
  config = model_config.ModelConfig(
    **(FIELDS | {"projection_init": "mean_pool", "projection_std": 0.0})
  )
  init, key = config.weights_init(), jax.random.key(0)
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
