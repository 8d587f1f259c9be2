"""What every attention of the table holds, and the groups that choose one."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, smoke
from linformer_jax import attention, models, step
from tests import arrays

B, N, M, H = 2, 24, 16, 2
D = M // H
CHOICES = {
  "softmax": attention.SoftmaxConfig(),
  "linformer": attention.LinformerConfig(projected_length=6),
  "linformer mean": attention.LinformerConfig(
    projected_length=6, projection="mean_pool"
  ),
  "linformer near": attention.LinformerConfig(
    projected_length=6, local_window=2
  ),
  "local": attention.LocalConfig(window=3),
  "linear": attention.LinearConfig(),
  "transformer_ls": attention.TransformerLSConfig(projected_length=6, window=2),
  "luna": attention.LunaConfig(projected_length=6),
  "fnet": attention.FNetConfig(),
  "adamra": attention.AdaMRAConfig(ratios=(1, 4)),
  "adamra hard": attention.AdaMRAConfig(
    ratios=(1, 4),
    compression="linear",
    kernel="softmax",
    route="hard",
    heads="coarse_to_fine",
  ),
  "nystrom": attention.NystromConfig(num_landmarks=4, kernel_size=5),
  "nystrom exact": attention.NystromConfig(num_landmarks=16),
  "performer": attention.PerformerConfig(num_features=12),
  "cosformer": attention.CosformerConfig(),
  "causal_linformer": attention.CausalLinformerConfig(
    block_length=4, projected_length=2
  ),
  "causal_linformer pyramid": attention.CausalLinformerConfig(
    block_length=2,
    projected_length=1,
    previous_block=False,
    levels=2,
    kept_blocks=2,
  ),
}
CAUSAL = [name for name, choice in CHOICES.items() if choice.causal]
SIZES = attention.Sizes(embed_dim=M, num_heads=H, max_length=N)
SHORT = 11


def case(name, **sizes):
  """A module of the table with random parameters, and an input."""
  module = CHOICES[name].module(dataclasses.replace(SIZES, **sizes))
  x = arrays.draw(B, N, M)
  return module, arrays.filled(module, x), x


def test_every_attention_of_the_table_is_tested():
  ours = [
    name
    for name, config in attention.ATTENTIONS.items()
    if config.__module__.startswith("linformer_jax.")  # tests add theirs
  ]
  assert {choice.name for choice in CHOICES.values()} == set(ours)


@pytest.mark.parametrize("name", CHOICES)
def test_a_short_input_is_that_input_padded_and_masked(name):
  module, variables, x = case(name)
  x[:, SHORT:] = np.nan
  mask = np.arange(N)[None].repeat(B, 0) < SHORT
  apply = jax.jit(module.apply)
  alone = apply(variables, x[:, :SHORT])
  padded = apply(variables, x, None, mask)
  arrays.close(padded[:, :SHORT], alone, M, D, N, M)


@pytest.mark.parametrize("name", CHOICES)
def test_no_gradient_goes_to_padding(name):
  module, variables, x = case(name)
  mask = np.arange(N)[None].repeat(B, 0) < SHORT
  mask[1] = np.arange(N) % 3 > 0

  def loss(x):
    out = module.apply(variables, x, None, mask)
    return jnp.sum(jnp.where(mask[..., None], jnp.sin(out), 0))

  gradient = np.asarray(jax.jit(jax.grad(loss))(x))
  assert np.all(gradient[~mask] == 0)
  assert np.all(np.any(gradient[mask] != 0, axis=-1))


@pytest.mark.parametrize("block", [0, 5])
@pytest.mark.parametrize("name", CAUSAL)
def test_no_gradient_goes_to_a_later_row(name, block):
  """Exactly zero; an earlier row within reach has some, if it has a weight."""
  module, variables, x = case(name, causal=True, query_block=block)
  row = 9

  def loss(x):
    return jnp.sum(jnp.sin(module.apply(variables, x)[:, row]))

  gradient = np.asarray(jax.jit(jax.grad(loss))(x))
  assert np.all(gradient[:, row + 1 :] == 0)
  seen = np.any(gradient[:, row - 3 : row + 1] != 0, axis=-1)
  assert np.any(seen) if CHOICES[name].sparse else np.all(seen)


def test_others_say_that_they_are_not_causal():
  for name in CHOICES.keys() - set(CAUSAL):
    config = models.ModelConfig(9, N, 1, M, H, 8, attention=CHOICES[name])
    with pytest.raises(ValueError, match="not causal.*such as 'softmax'"):
      models.CausalLM(config).init(
        jax.random.key(0), np.zeros((1, N), np.int32)
      )


# A block of positions, and of whole sequences.
@pytest.mark.parametrize("block", [5, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CHOICES)
def test_query_blocks_change_neither_value_nor_gradient(name, block):
  mask = np.arange(N) < np.array([[N], [SHORT]])

  def run(query_block):
    causal = name in CAUSAL
    module, variables, x = case(name, causal=causal, query_block=query_block)

    def loss(variables, x):
      out = module.apply(variables, x, None, mask)
      return jnp.sum(jnp.sin(out)), out

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables, x)

  (whole, want), (blocked, got) = run(0), run(block)
  arrays.close(got, want, M, D, N, M)
  jax.tree.map(
    lambda a, b: arrays.close(a, b, M, D, N, M, B * N), blocked, whole
  )


@pytest.mark.parametrize("name", CHOICES)
def test_attend_to_some_rows_is_those_rows_of_all(name):
  module, variables, x = case(name)

  @jax.jit
  def run(variables, x):
    summary = module.apply(variables, x, method="summarise")
    rows = module.apply(variables, x[:, 7:13], summary, 7, method="attend")
    return rows, module.apply(variables, x)[:, 7:13]

  arrays.close(*run(variables, x), M, D, N, M)


def test_a_mixed_stack_is_its_layers_in_turn():
  kinds = CHOICES["local"], CHOICES["linformer"], CHOICES["linear"]
  sizes = dict(vocab_size=30, max_length=N, embed_dim=M, num_heads=H, mlp_dim=8)
  mask = np.arange(N) < np.array([[N], [SHORT]])
  config = models.ModelConfig(
    num_layers=6, attention=kinds, norm_position="pre", **sizes
  )
  assert config.layers == kinds * 2
  encoder = models.Encoder(config)
  rows = x = arrays.draw(B, N, M)
  variables = arrays.filled(encoder, x)
  params = variables["params"]
  for i, kind in enumerate(config.layers):
    layer = jax.tree.map(lambda leaf: leaf[0], params[f"layers_{i}"]["block"])
    block = models.Block(config, kind)
    x = block.apply({"params": layer}, x, mask)
  norm = nn.LayerNorm(epsilon=config.norm_epsilon, use_fast_variance=False)
  x = norm.apply({"params": params["norm"]}, x)
  arrays.close(encoder.apply(variables, rows, mask), x, 6 * M, N, 8, M)


def test_a_pattern_of_names_reaches_the_layers():
  config = smoke.get_config("attention=local+linformer")
  config.model.num_layers = 4
  config.attention.local.window = 5
  config.attention.linformer.projected_lengths = (32, 16)
  layers = step.model_config(config).layers
  assert [layer.name for layer in layers] == ["local", "linformer"] * 2
  assert [layers[i].projected_length for i in (1, 3)] == [32, 16]
  assert layers[0].window == 5
  # What the file chose for its own attention is kept.
  assert layers[1].projection_init == "strided"
  assert layers[0].dropout_rate == 0


def test_another_attention_keeps_the_dropout_rate_alone():
  config = base.get_config()
  base.set_attention(config, "local")
  assert config.attention.to_dict() == {
    "name": "local",
    "window": 64,
    "dropout_rate": 0.1,
  }
  base.set_attention(config, "linear")
  assert config.attention.to_dict() == {"name": "linear"}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"name": "fft"}, "'fft' is not one of softmax, linformer, local, linear"),
    (
      {"name": "softmax"},
      "no field attention.local_window.*smoke.py:attention",
    ),
    ({"name": "mixed"}, r"attention.pattern \(\) lists 0 names"),
    ({"window": 3}, "'linformer' has no field attention.window"),
  ],
)
def test_a_group_that_does_not_fit_its_name(change, message):
  group = attention.fields("linformer") | change
  with pytest.raises(ValueError, match=message):
    attention.from_fields(group, 2)


def test_patterns_that_do_not_fit():
  group = attention.fields("local", "linear")
  with pytest.raises(ValueError, match="2 names.*num_layers 3"):
    attention.from_fields(group, 3)
  del group["linear"]
  with pytest.raises(ValueError, match="attention.linear disagree"):
    attention.from_fields(group, 2)
  with pytest.raises(ValueError, match="'fft' is not one of"):
    smoke.get_config("attention=local+fft")


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_scan_remat_and_bfloat16(name):
  """Scanned layers that recompute are the layers; in bfloat16 nearly so."""
  x = arrays.draw(B, N, M)
  mask = np.arange(N) < np.array([[N], [SHORT]])

  def run(variables=None, **fields):
    kind = CHOICES[name]
    config = models.ModelConfig(9, N, 2, M, H, 8, kind, **fields)
    encoder = models.Encoder(config, kind.one_way)
    variables = variables or arrays.filled(encoder, x)

    def loss(variables, x):
      out = encoder.apply(variables, x, mask)
      out = jnp.where(mask[..., None], out.astype(jnp.float32), 0)
      return jnp.sum(jnp.sin(out)), out

    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (by_variables, by_x), out = gradient(variables, x)
    return variables, by_variables["params"], by_x, out

  stacked, by_stack, *scanned = run(remat=True)
  layers = {}
  for collection, tree in stacked.items():  # params, and constants of some
    tree = dict(tree)
    stack = tree.pop("layers_0")
    for i in range(2):
      tree[f"layer_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], stack)
    layers[collection] = tree
  _, by_layers, *unrolled = run(layers, scan_layers=False)
  lengths = 2 * M, D, N, M, M, 8, M, B * N
  for got, want in zip(scanned, unrolled, strict=True):
    arrays.close(got, want, *lengths)
  for i in range(2):
    jax.tree.map(
      lambda got, want, i=i: arrays.close(got[i], want, *lengths),
      by_stack["layers_0"],
      by_layers[f"layer_{i}"],
    )
  *_, half = run(stacked, dtype="bfloat16")
  assert np.linalg.norm(half - scanned[-1]) < 3e-2 * np.linalg.norm(half)


def test_lengths_by_layer_are_not_for_one_layer():
  one = attention.LinformerConfig(projected_lengths=(4, 2))
  with pytest.raises(ValueError, match=r"\(4, 2\) are for all layers"):
    models.ModelConfig(9, N, 2, M, H, 8, attention=(one,))


def test_one_projection_is_shared_or_none():
  kinds = [
    attention.LinformerConfig(projected_length=k, sharing="layerwise")
    for k in (4, 8)
  ]
  with pytest.raises(ValueError, match="share one projection.*k = 4.*k = 8"):
    models.ModelConfig(9, N, 2, M, H, 8, attention=kinds)
  mixed = kinds[0], CHOICES["local"]
  config = models.ModelConfig(9, N, 4, M, H, 8, attention=mixed)
  shapes = jax.eval_shape(
    models.Encoder(config).init, jax.random.key(0), np.zeros((1, N, M))
  )["params"]
  assert shapes["projection"]["kernel"].shape == (4, N)
  assert "projection" not in shapes["layers_1"]["block"]["attention"]
