"""The attention modules: equation 7 and its order of contraction.

Tolerances: a chain of dot products of lengths L1, L2, ... on values of size at
most `scale` errs by about (L1 + L2 + ...) * eps * scale, to first order.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linformer_jax import attention
from linformer_jax.attention import linformer
from linformer_jax.attention import order as order_lib
from linformer_jax.attention import projection as projection_lib
from tests import arrays

B, N, K, M, H = 2, 12, 4, 16, 4
D = M // H
KEY = jax.random.key(0)


def with_identity(module, softmax_params, *args):
  """Variables of `module`: the maps of softmax attention and E = F = I.

  The kernel of a convolution over windows of one row is I as well.
  """
  variables = jax.eval_shape(module.init, KEY, *args)

  def fill(path, leaf):
    if path[1].key in softmax_params:
      return softmax_params[path[1].key][path[2].key]
    return np.broadcast_to(np.eye(*leaf.shape[-2:], dtype="f4"), leaf.shape)

  return jax.tree_util.tree_map_with_path(fill, variables)


@functools.cache
def softmax_case():
  """Softmax attention to itself, across, and across with pads of two kinds."""
  module = attention.SoftmaxSelfAttention(H)
  x, memory = arrays.draw(B, N, M), arrays.draw(B, N, M, seed=1)
  mask = np.arange(N) < np.array([[N], [7]])
  variables = arrays.filled(module, x)
  zeroed = np.where(mask[..., None], memory, 0)
  run = module.apply
  results = (
    run(variables, x),
    run(variables, x, memory),
    run(variables, x, memory, mask),
    run(variables, x, zeroed),
  )
  return variables["params"], x, memory, mask, results


@pytest.mark.parametrize(
  ("kind", "sharing"),
  [("linear", sharing) for sharing in linformer.SHARING]
  + [("convolution", sharing) for sharing in linformer.SHARING]
  + [("random", "none"), ("mean_pool", "none"), ("max_pool", "none")],
)
def test_identity_projection_is_softmax_attention(kind, sharing):
  """k = n and E = F = I: equation 7 is Vaswani's attention."""
  params, x, memory, mask, (alone, across, masked, zeroed) = softmax_case()
  module = attention.LinformerSelfAttention(H, N, N, sharing, kind)
  variables = with_identity(module, params, x)

  def run(variables):
    apply = functools.partial(module.apply, variables, x)
    return apply(), apply(memory), apply(memory, mask)

  got = run(variables)
  arrays.close(got[0], alone, M, D, N, M)
  arrays.close(got[1], across, M, D, N, M)
  # A dense E cannot leave out the slots of the pads: they hold zero rows.
  masked = zeroed if kind in projection_lib.DENSE else masked
  arrays.close(got[2], masked, M, D, N, M)


@pytest.mark.parametrize("sharing", linformer.SHARING)
def test_identity_on_the_real_tokens_is_masked_softmax_attention(sharing):
  """With E = [I, anything] and real tokens up to K, pads do not exist."""
  real = 7
  module = attention.LinformerSelfAttention(H, N, real, sharing)
  plain = attention.SoftmaxSelfAttention(H)
  x = arrays.draw(B, N, M)
  mask = np.arange(N)[None].repeat(B, 0) < real
  softmax = arrays.filled(plain, x)
  variables = with_identity(module, softmax["params"], x)
  junk = arrays.draw(real, N - real, seed=3)
  for name in set(variables["params"]) - set(softmax["params"]):
    kernel = np.array(variables["params"][name]["kernel"])
    kernel[..., real:] = junk
    variables["params"][name] = {"kernel": kernel}
  got = module.apply(variables, x, None, mask)
  want = plain.apply(softmax, x, None, mask)
  arrays.close(got[:, :real], want[:, :real], M, D, N, M)


def equation_7(params, x, memory, sharing):
  """head_i = softmax(Q_i (E_i K_i)^T / sqrt(D)) F_i V_i in float64, by head."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  names = ("key_projection", "value_projection")
  if sharing in ("key_value", "layerwise"):
    names = ("projection", "projection")
  e, f = (
    np.broadcast_to(params[name]["kernel"], (H, K, N))[..., : memory.shape[1]]
    for name in names
  )
  outputs = []
  for h in range(H):
    part = slice(h * D, (h + 1) * D)

    def linear(rows, name, part=part):
      layer = params[name]
      return rows @ layer["kernel"][:, part] + layer["bias"][part]

    q = linear(x.astype(np.float64), "query")
    k = linear(e[h] @ memory, "key")  # (E X) W + b: the bias is not projected
    v = linear(f[h] @ memory, "value")
    scores = q @ k.swapaxes(1, 2) / np.sqrt(D)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    outputs.append(weights / weights.sum(-1, keepdims=True) @ v)
  joined = np.concatenate(outputs, axis=-1)
  return joined @ params["out"]["kernel"] + params["out"]["bias"]


@pytest.mark.parametrize("sharing", linformer.SHARING)
@pytest.mark.parametrize("order", order_lib.ORDERS)
def test_equation_7_in_every_order(order, sharing):
  module = attention.LinformerSelfAttention(H, N, K, sharing, order=order)
  x, memory = arrays.draw(B, N, M), arrays.draw(B, N - 3, M, seed=1)
  variables = arrays.filled(module, x)
  for rows in (x, memory):
    got = module.apply(variables, x, rows)
    want = equation_7(variables["params"], x, rows, sharing)
    arrays.close(got, want, N, M, D, K, M)


@pytest.mark.parametrize(
  ("kind", "sharing"),
  [("linear", sharing) for sharing in linformer.SHARING]
  + [("random", "none"), ("mean_pool", "none"), ("mean_pool", "headwise")],
)
def test_orders_agree_in_value_and_gradient(kind, sharing):
  """E (X W) = (E X) W, with a mask, a bias and an odd short memory."""
  x, memory = arrays.draw(B, N, M), arrays.draw(B, N - 1, M, seed=1)
  mask = np.arange(N - 1) < np.array([[N - 1], [5]])

  def run(order):
    module = attention.LinformerSelfAttention(
      H, N, K, sharing, kind, order=order
    )
    variables = arrays.filled(module, x)

    def loss(variables):
      return jnp.mean(module.apply(variables, x, memory, mask) ** 2)

    return jax.value_and_grad(loss)(variables)

  lengths = (N, M, D, K, M, B * N * M)  # the last: the mean
  jax.tree.map(
    lambda a, b: arrays.close(a, b, *lengths), run("after"), run("before")
  )


def test_windowed_kinds_that_do_not_commute():
  x = arrays.draw(B, N, M)
  for kind in ("convolution", "max_pool"):
    module = attention.LinformerSelfAttention(
      H, N, K, "headwise", kind, order="before"
    )
    with pytest.raises(ValueError, match=f"'before'.*auto, after.*{kind}"):
      module.init(KEY, x)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"num_heads": 3}, "16 is not divisible by num_heads 3"),
    ({"sharing": "all"}, "'all'.*none, headwise, key_value, layerwise"),
    ({"order": "first"}, "'first'.*auto, before, after"),
    ({"projection": "fourier"}, "'fourier'.*linear"),
    ({"projected_length": N + 1}, f"{N + 1}.*{N}"),
    ({"max_length": N - 1}, f"{N} tokens.*max_length {N - 1}"),
  ],
)
def test_attributes_that_do_not_fit(fields, message):
  sizes = {"num_heads": H, "max_length": N, "projected_length": K}
  module = attention.LinformerSelfAttention(**(sizes | fields))
  with pytest.raises(ValueError, match=message):
    module.init(KEY, arrays.draw(B, N, M))


def test_bfloat16_products_keep_float32_parameters_and_softmax():
  module = attention.LinformerSelfAttention(H, N, K, dtype=jnp.bfloat16)
  exact = attention.LinformerSelfAttention(H, N, K)
  x = arrays.draw(B, N, M)
  shapes = jax.eval_shape(module.init, KEY, x)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
  variables = arrays.filled(module, x)
  got = module.apply(variables, x)
  assert got.dtype == jnp.bfloat16
  # bfloat16 keeps 8 bits; products sum in float32, so that only the roundings
  # between the five steps count, each at most 2^-8 of the largest value.
  want = np.asarray(exact.apply(variables, x))
  scale = max(1, np.max(abs(want)))
  assert np.max(abs(got.astype(np.float32) - want)) < 5 * 2**-8 * M**0.5 * scale
  jaxpr = str(jax.make_jaxpr(module.apply)(variables, x))
  exps = [line for line in jaxpr.splitlines() if " = exp " in line]
  assert exps and all(":f32[" in line for line in exps)


def test_jit_vmap_and_grad_compose():
  """A gradient for each example under vmap is that example's gradient."""
  module = attention.LinformerSelfAttention(H, N, K, query_block=5)
  x = arrays.draw(2, N, M)
  variables = arrays.filled(module, x)

  def loss(variables, row):
    return jnp.sum(module.apply(variables, row[None]) ** 2)

  gradient = jax.grad(loss)
  each = jax.jit(jax.vmap(gradient, (None, 0)))(variables, x)
  alone = jax.jit(gradient)
  for i in range(2):
    jax.tree.map(
      lambda a, b, i=i: arrays.close(a[i], b, N, M, D, K, M, N * M),
      each,
      alone(variables, x[i]),
    )


def test_trains_alone_under_plain_optax():
  """Someone's own Flax code: reverse a sequence, with nothing else of ours."""
  x = jnp.asarray(arrays.draw(4, N, M))

  class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
      position = self.param("position", nn.initializers.normal(1.0), (N, M))
      x = x + position
      return attention.LinformerSelfAttention(H, N, N, "none")(x)

  model = Model()
  params = model.init(KEY, x)
  optimizer = optax.adam(1e-2)

  def loss(params):
    return jnp.mean((model.apply(params, x) - x[:, ::-1]) ** 2)

  @jax.jit
  def train(params, state):
    def update(carry, _):
      params, state = carry
      value, grads = jax.value_and_grad(loss)(params)
      changes, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, changes), state), value

    return jax.lax.scan(update, (params, state), length=300)[1]

  losses = np.asarray(train(params, optimizer.init(params)))
  # The best that ignores the input is the variance of the target.
  assert losses[-1] < 0.5 * np.var(x) < losses[0]
