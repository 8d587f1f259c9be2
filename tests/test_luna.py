"""Luna packs rows into a short sequence, attends to it and hands it on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from tests import arrays, costs

B, N, M, H, K, F, LAYERS = 2, 13, 16, 2, 3, 24, 3
D = M // H
MASK = np.stack([np.ones(N, bool), np.arange(N) % 5 < 3])
EPSILON = 1e-5
LUNA = attention.LunaConfig(projected_length=K)


def softmax(scores):
  weights = np.exp(scores)
  return weights / weights.sum(-1, keepdims=True)


def attend(q, k, v, mask=None):
  """Attn of the paper, in heads [B, n, H, D]; returns [B, n, M]."""
  scores = np.einsum("bnhd,bjhd->bhnj", q, k) / np.sqrt(D)
  if mask is not None:
    scores = np.where(mask[:, None, None], scores, -np.inf)
  out = np.einsum("bhnj,bjhd->bnhd", softmax(scores), v)
  return out.reshape(*out.shape[:2], M)


def by_definition(params, x, memory, mask, p):
  """(Y_X, LN(Y_P + P)) of section 3 in float64, for P [B, K, M]."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  memory = np.where(mask[..., None], memory, 0)

  def dense(name, rows):
    if name not in params:  # keys and values are one
      name = name.replace("value", "key")
    out = rows @ params[name]["kernel"] + params[name]["bias"]
    return out.reshape(*rows.shape[:2], H, D)

  k, v = dense("pack_key", memory), dense("pack_value", memory)
  y_p = attend(dense("pack_query", p), k, v, mask)
  y_x = attend(dense("query", x), dense("key", y_p), dense("value", y_p))
  out = dense("out", y_x).reshape(x.shape)
  if "pack_norm" not in params:
    return out, None
  p = p + y_p
  spread = np.sqrt(p.var(-1, keepdims=True) + EPSILON)
  norm = params["pack_norm"]
  p = (p - p.mean(-1, keepdims=True)) / spread * norm["scale"] + norm["bias"]
  return out, p


def module(sharing="key_value", **fields):
  return attention.LunaSelfAttention(H, K, sharing, **fields)


@pytest.mark.parametrize("sharing", ["key_value", "none"])
def test_it_is_the_definition_of_the_paper(sharing):
  x, memory = arrays.draw(B, 5, M), arrays.draw(B, N, M, seed=1)
  variables = arrays.filled(module(sharing), x)
  params = variables["params"]
  p = np.broadcast_to(params["packed"]["embedding"], (B, K, M))
  want, _ = by_definition(params, x, memory, MASK, p)
  got = module(sharing).apply(variables, x, memory, MASK)
  arrays.close(got, want, M, D, N, M, D, K, M)
  # W_K = W_V in each of the two attentions, but for 'none'; and P.
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert count == (5 if sharing == "key_value" else 7) * (M * M + M) + K * M


def test_the_order_of_the_memory_does_not_matter():
  memory = arrays.draw(B, N, M)
  variables = arrays.filled(module(), memory)
  order = np.random.default_rng(0).permutation(N)

  def packed(memory, mask):
    return module().apply(variables, memory, mask, method="summarise")[3]

  assert packed(memory, MASK).shape == (B, K, M)
  got = packed(memory[:, order], MASK[:, order])
  arrays.close(got, packed(memory, MASK), M, D, N)


def encoder(kinds=LUNA, **fields):
  config = models.ModelConfig(
    9, N, LAYERS, M, H, F, kinds, norm_epsilon=EPSILON, **fields
  )
  return models.Encoder(config)


def layer_of(stack, i):
  return jax.tree.map(lambda leaf: leaf[i], stack)


def gradients(module, variables, x):
  """(output, gradients) of a masked loss, in one program."""

  def loss(variables, x):
    out = module.apply(variables, x, MASK)
    return jnp.sum(jnp.where(MASK[..., None], jnp.sin(out), 0)), out

  (_, out), found = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
    variables, x
  )
  return out, found


@pytest.fixture(scope="module")
def scanned():
  x = arrays.draw(B, N, M)
  variables = arrays.filled(encoder(), x)
  return x, variables, *gradients(encoder(), variables, x)


def test_layers_hand_on_what_they_packed(scanned):
  """Layer by layer: P is learned once, and then LN(Y_P + P) of the last."""
  x, variables, out, (by_variables, _) = scanned
  params, rows = variables["params"], x
  p = np.broadcast_to(params["packed"]["embedding"], (B, K, M))
  norm = models.encoder.layer_norm(encoder().config, None)
  x = norm.apply({"params": params["norm"]}, np.where(MASK[..., None], x, 0))
  for i in range(LAYERS):
    layer = layer_of(params["layers_0"], i)["block"]
    rows = np.where(MASK[..., None], x, 0)
    _, want = by_definition(layer["attention"], rows, rows, MASK, p)
    block = models.Block(encoder().config, LUNA)
    x, p = block.apply({"params": layer}, x, MASK, p)
    arrays.close(p, want, M, D, N, M)
  arrays.close(out[MASK], x[MASK], LAYERS * M, N, F, M)
  assert np.all(by_variables["params"]["packed"]["embedding"] != 0)


@pytest.mark.slow
def test_unrolled_layers_compute_the_same(scanned):
  x, variables, out, (by_variables, by_x) = scanned
  params = variables["params"]

  def unrolled(tree):
    layers = tree["params"].copy()
    stack = layers.pop("layers_0")
    parts = {f"layer_{i}": layer_of(stack, i) for i in range(LAYERS)}
    return {"params": layers | parts}

  other = encoder(scan_layers=False, remat=True)
  got, found = gradients(other, unrolled({"params": params}), x)
  lengths = LAYERS * M, N, F, M, B * N
  arrays.close(got[MASK], out[MASK], *lengths)
  jax.tree.map(
    lambda a, b: arrays.close(a, b, *lengths),
    found,
    (unrolled(by_variables), by_x),
  )


def test_what_is_packed_passes_other_layers_by():
  """A layer between two of Luna changes P through the rows alone."""
  kinds = LUNA, attention.LinearConfig(), LUNA
  module = encoder(kinds, norm_position="pre", dtype="bfloat16")
  x = arrays.draw(B, N, M)
  variables = arrays.filled(module, x)
  params = variables["params"]
  apply = jax.jit(module.apply)
  out = apply(variables, x, MASK)
  assert out.dtype == jnp.bfloat16 and np.all(np.isfinite(out[MASK]))
  names = [f"layers_{i}" for i in range(LAYERS)]
  has = ["pack_norm" in params[name]["block"]["attention"] for name in names]
  assert has == [True, False, True]
  # Through P alone: the first layer's norm of it has no other way out.
  first = params["layers_0"]["block"]["attention"]["pack_norm"]
  first["bias"] = first["bias"] + arrays.draw(*first["bias"].shape, seed=7)
  changed = apply(variables, x, MASK)
  assert np.any(changed != out)


def test_the_cost_is_linear_in_the_length():
  kind = attention.LunaConfig(projected_length=32)
  costs.assert_flops(kind)
  costs.assert_linear(kind)


def test_what_it_does_not_go_with():
  def refused(message, **fields):
    with pytest.raises(ValueError, match=message):
      encoder(attention.LunaConfig(**fields))

  refused("projected_length 0 must lie between 1", projected_length=0)
  refused("14 must lie between 1 and the max_length 13", projected_length=N + 1)
  few = dict(projected_length=K)
  refused(
    "sharing 'layerwise' is not one of key_value", sharing="layerwise", **few
  )
  refused("dropout_rate 1.0", dropout_rate=1.0, **few)
  two = LUNA, LUNA, attention.LunaConfig(projected_length=K + 1)
  with pytest.raises(ValueError, match="length = 3.*length = 4"):
    encoder(two)
