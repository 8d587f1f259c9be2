"""Random inputs, filled modules and the tolerance that several tests share."""

import jax
import numpy as np

EPS = np.finfo(np.float32).eps


def draw(*shape, seed=0):
  """Standard normal float32."""
  rng = np.random.default_rng(seed)
  return rng.standard_normal(shape).astype(np.float32)


def filled(module, *args):
  """Variables of a module with every leaf random: biases too."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
  leaves, tree = jax.tree.flatten(shapes)
  values = [
    draw(*leaf.shape, seed=i) * np.float32(leaf.shape[0] ** -0.5)
    for i, leaf in enumerate(leaves)
  ]
  return jax.tree.unflatten(tree, values)


def close(got, want, *lengths):
  """Within the rounding of a chain of sums of these lengths.

  A sum of L float32 products on values of size at most `scale` errs by about
  L * eps * scale, to first order, and the errors of a chain add up.
  """
  want = np.asarray(want)
  bound = sum(lengths) * EPS * max(1, np.max(abs(want)))
  np.testing.assert_allclose(got, want, rtol=0, atol=bound)
