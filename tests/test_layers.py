"""Layers one by one, and stacked."""

import jax
import numpy as np

from linformer_jax import attention, models
from linformer_jax.models import layers
from tests import arrays


def test_layers_keep_their_numbers_where_only_some_have_constants():
  local, features = attention.LocalConfig(), attention.PerformerConfig()
  kinds = local, features, features, local
  config = models.ModelConfig(9, 8, 4, 8, 2, 8, attention=kinds)
  variables = arrays.filled(models.Encoder(config), arrays.draw(1, 8, 8))
  assert set(variables["constants"]) == {"layers_1"}
  single = layers.unstack(variables)
  names = {"layer_0", "layer_1", "layer_2", "layer_3"}
  assert names < set(single["params"])
  assert set(single["constants"]) == {"layer_1", "layer_2"}
  for name, i in (("layer_1", 0), ("layer_2", 1)):
    jax.tree.map(
      lambda one, all_of_them, i=i: np.testing.assert_array_equal(
        one, all_of_them[i]
      ),
      single["constants"][name],
      variables["constants"]["layers_1"],
    )
  again = layers.stack(single, config.layers)
  jax.tree.map(np.testing.assert_array_equal, again, variables)
