"""Weights of the authors' fairseq models, against that code in numpy.

The forward pass below is written from what the modules of
facebookresearch/fairseq, examples/linformer (2020 to 2021) compute: the rows
are projected before W_K and W_V, whose biases come last, and the bias of a
projection that layers share is never added.
"""

import math

import jax
import numpy as np
import pytest
import safetensors.numpy

from linformer_jax import models
from linformer_jax.models import importers, weights
from tests import arrays

V, N, K, L, M, H, F, C = 23, 12, 4, 2, 8, 2, 20, 3
D = M // H
# Sums that one output went through, layer by layer.
LENGTHS = (3 * M,) + L * (N, M, D, K, M, 3 * M, M, F, 3 * M)
HEAD = (M, 3 * M, M)
P = "encoder.sentence_encoder."
# Sharing modes: whether K and V share, whether layers share, and ours.
SHARING = {
  "neither": (0, 0, "headwise"),
  "shared_kv_compressed": (1, 0, "key_value"),
  "shared_layer_kv_compressed": (0, 1, "layerwise"),
  "both": (1, 1, "layerwise"),
}


def tensors(sharing="neither", norm="layernorm_embedding"):
  """Random tensors by the names of a checkpoint of 2021."""
  shapes = {
    f"{P}embed_tokens.weight": (V, M),
    f"{P}embed_positions.weight": (N + 2, M),
    f"{P}{norm}.weight": (M,),
    f"{P}{norm}.bias": (M,),
    "encoder.lm_head.bias": (V,),
    "encoder.lm_head.dense.weight": (M, M),
    "encoder.lm_head.dense.bias": (M,),
    "encoder.lm_head.layer_norm.weight": (M,),
    "encoder.lm_head.layer_norm.bias": (M,),
    "classification_heads.topic.dense.weight": (M, M),
    "classification_heads.topic.dense.bias": (M,),
    "classification_heads.topic.out_proj.weight": (C, M),
    "classification_heads.topic.out_proj.bias": (C,),
  }
  one_kv, one_layer, _ = SHARING[sharing]
  for i in range(L):
    at = f"{P}layers.{i}."
    for name, shape in {
      "self_attn.k_proj": (M, M),
      "self_attn.v_proj": (M, M),
      "self_attn.q_proj": (M, M),
      "self_attn.out_proj": (M, M),
      "self_attn_layer_norm": (M,),
      "fc1": (F, M),
      "fc2": (M, F),
      "final_layer_norm": (M,),
    }.items():
      shapes[f"{at}{name}.weight"] = shape
      shapes[f"{at}{name}.bias"] = shape[:1]
    shapes[f"{at}self_attn.compress_k.weight"] = (K, N)
    if not one_kv:
      shapes[f"{at}self_attn.compress_v.weight"] = (K, N)
  found = {
    name: arrays.draw(*shape, seed=i)
    for i, (name, shape) in enumerate(shapes.items())
  }
  if one_layer:  # one linear map with a bias, under several names
    e, b = arrays.draw(K, N, seed=98), arrays.draw(K, seed=99)
    names = ["compress_layer"]
    for i in range(L):
      at = f"layers.{i}.self_attn."
      names += [f"{at}compress_k"] + (not one_kv) * [f"{at}compress_v"]
    for name in names:
      found |= {f"{P}{name}.weight": e, f"{P}{name}.bias": b}
  found["encoder.lm_head.weight"] = found[f"{P}embed_tokens.weight"]
  found |= {"encoder.version": np.int64(2), f"{P}version": np.ones(1)}
  return found | {f"{P}layers.{i}.version": np.int64(2) for i in range(L)}


def dense(t, name, x):
  return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def norm(t, name, x):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
  return x * t[f"{name}.weight"] + t[f"{name}.bias"]


def gelu(x):
  return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def heads(x):
  return x.reshape(*x.shape[:2], H, D).swapaxes(1, 2)


def attention(t, at, x):
  """Rows [B, n, M] -> [B, n, M]."""
  n = x.shape[1]
  e = f = t[f"{at}compress_k.weight"][:, :n]
  if f"{at}compress_v.weight" in t:
    f = t[f"{at}compress_v.weight"][:, :n]
  q = heads(dense(t, f"{at}q_proj", x) * D**-0.5)
  k = heads(dense(t, f"{at}k_proj", e @ x))
  v = heads(dense(t, f"{at}v_proj", f @ x))
  scores = np.exp(q @ k.swapaxes(2, 3))
  rows = scores / scores.sum(-1, keepdims=True) @ v
  return dense(t, f"{at}out_proj", rows.swapaxes(1, 2).reshape(x.shape))


def features(t, tokens, p=P):
  """Tokens [B, n] -> rows float64 [B, n, M], post-norm or pre-norm."""
  t = {name: np.asarray(x, np.float64) for name, x in t.items()}
  n = tokens.shape[1]
  x = t[f"{p}embed_tokens.weight"][tokens]
  x = x + t[f"{p}embed_positions.weight"][2 : n + 2]
  for name in ("emb_layer_norm", "layernorm_embedding"):
    if f"{p}{name}.weight" in t:
      x = norm(t, f"{p}{name}", x)
  before = f"{p}layer_norm.weight" in t
  for i in range(L):
    at = f"{p}layers.{i}."

    def mlp(x, at=at):
      return dense(t, f"{at}fc2", gelu(dense(t, f"{at}fc1", x)))

    one, two = f"{at}self_attn_layer_norm", f"{at}final_layer_norm"
    if before:
      x = x + attention(t, f"{at}self_attn.", norm(t, one, x))
      x = x + mlp(norm(t, two, x))
    else:
      x = norm(t, one, x + attention(t, f"{at}self_attn.", x))
      x = norm(t, two, x + mlp(x))
  return norm(t, f"{p}layer_norm", x) if before else x


def draw_tokens(n=N):
  """Tokens without padding, whose id is 1."""
  return np.random.default_rng(0).integers(2, V, (2, n))


def agrees(model, variables, tokens, want, *lengths):
  """The variables are the model's own, and its outputs those of the source."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  assert jax.tree.map(lambda x: x.shape, variables) == jax.tree.map(
    lambda x: x.shape, shapes
  )
  arrays.close(model.apply(variables, tokens), want, *LENGTHS, *lengths)


@pytest.mark.parametrize("n", [N, 7])
@pytest.mark.parametrize("sharing", SHARING)
def test_encoder(sharing, n):
  given, tokens = tensors(sharing), draw_tokens(n)
  config, variables = importers.fairseq.convert(given, H)
  assert config.attention.sharing == SHARING[sharing][2]
  assert (config.max_length, config.attention.projected_length) == (N, K)
  model = models.TokenEncoder(config)
  agrees(model, variables, tokens, features(given, tokens))


def test_checkpoint_of_2020():
  """Its layers each made the projection that they were to share."""
  given = tensors("shared_layer_kv_compressed", "emb_layer_norm")
  for i in range(L):
    e = arrays.draw(K, N, seed=50 + i)
    at = f"{P}layers.{i}."
    for name in ("self_attn.compress_k", "self_attn.compress_v"):
      given[f"{at}{name}.weight"] = e
    given[f"{at}shared_compress_layer.weight"] = e
    given[f"{at}shared_compress_layer.bias"] = e[:, 0]
  given[f"{P}compress_layer.weight"] = e
  given = {
    name.replace("encoder.", "decoder.", 1): x
    for name, x in given.items()
    if "version" not in name
  }
  config, variables = importers.fairseq.convert(given, H)
  assert config.attention.sharing == "key_value"
  tokens = draw_tokens()
  want = features(given, tokens, "decoder.sentence_encoder.")
  agrees(models.TokenEncoder(config), variables, tokens, want)


def test_pre_norm():
  given = tensors(norm="layer_norm")
  config, variables = importers.fairseq.convert(given, H)
  assert config.norm_position == "pre"
  tokens = draw_tokens()
  want = features(given, tokens)
  agrees(models.TokenEncoder(config), variables, tokens, want)


def test_tensors_of_a_file(tmp_path):
  given = {name: np.asarray(x) for name, x in tensors().items()}
  safetensors.numpy.save_file(given, tmp_path / "model.safetensors")
  read = weights.tensors_in(tmp_path / "model.safetensors")
  _, want = importers.fairseq.convert(given, H)
  _, got = importers.fairseq.convert(read, H)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_heads():
  given, tokens = tensors("both"), draw_tokens()
  rows = features(given, tokens)
  t = {name: np.asarray(x, np.float64) for name, x in given.items()}
  config, variables = importers.fairseq.convert(given, H, "MaskedLM")
  at = "encoder.lm_head."
  x = norm(t, f"{at}layer_norm", gelu(dense(t, f"{at}dense", rows)))
  want = x @ t[f"{at}weight"].T + t[f"{at}bias"]
  agrees(models.MaskedLM(config), variables, tokens, want, *HEAD)
  config, variables = importers.fairseq.convert(given, H, "Classifier")
  at = "classification_heads.topic."
  want = dense(t, f"{at}out_proj", np.tanh(dense(t, f"{at}dense", rows[:, 0])))
  agrees(models.Classifier(config, C), variables, tokens, want, M, M)


WRONG = {
  "no tensor encoder.sentence_encoder.layers.1.fc2.bias": {
    f"{P}layers.1.fc2.bias": None
  },
  "no tensor encoder.sentence_encoder.layers.0.self_attn.compress_k.weight": {
    f"{P}layers.0.self_attn.compress_k.weight": None
  },
  "no tensor encoder.sentence_encoder.layernorm_embedding.weight": {
    f"{P}layernorm_embedding.weight": None,
    f"{P}layernorm_embedding.bias": None,
  },
  "not one encoder": {f"{P}embed_tokens.weight": None},
  "1 tensors are not known here: encoder.sentence_encoder.layers.0.more": {
    f"{P}layers.0.more": np.ones(M)
  },
  "fc1.weight has shape (20, 9), not (20, 8)": {
    f"{P}layers.1.fc1.weight": np.ones((F, M + 1))
  },
  "embed_positions.weight has 13 rows, not 14": {
    f"{P}embed_positions.weight": np.ones((N + 1, M))
  },
  "fc1.weight is int8; quantized": {
    f"{P}layers.0.fc1.weight": np.ones((F, M), np.int8)
  },
  "layer_norm.weight: a pre-norm model here has no layer norm of embeddings": {
    f"{P}layer_norm.weight": np.ones(M),
    f"{P}layer_norm.bias": np.ones(M),
  },
  "encoder.lm_head.weight is not": {"encoder.lm_head.weight": np.ones((V, M))},
  "quant_noise.weight: quantization noise": {
    f"{P}quant_noise.weight": np.ones((M, M))
  },
  "bias_k: an extra key": {f"{P}layers.0.self_attn.bias_k": np.ones((1, 1, M))},
}


@pytest.mark.parametrize("said", WRONG)
def test_tensors_that_are_not_read(said):
  given = tensors() | WRONG[said]
  given = {name: x for name, x in given.items() if x is not None}
  with pytest.raises(ValueError) as error:
    importers.fairseq.convert(given, H, "MaskedLM")
  assert said in str(error.value) and "\n" not in str(error.value)


def test_options_that_are_not_supported():
  given = tensors()
  with pytest.raises(ValueError, match="activation_fn='relu' is not supp"):
    importers.fairseq.convert(given, H, settings={"activation_fn": "relu"})
  settings = {"pooler_activation_fn": "relu"}
  importers.fairseq.convert(given, H, settings=settings)  # has no pooler
  with pytest.raises(ValueError, match="pooler_activation_fn='relu' is not"):
    importers.fairseq.convert(given, H, "Classifier", settings)
  with pytest.raises(ValueError, match="'CausalLM' is not one of MaskedLM"):
    importers.fairseq.convert(given, H, "CausalLM")
  with pytest.raises(ValueError, match="not divisible by num_heads 3"):
    importers.fairseq.convert(given, 3)
  again = {x.replace("topic", "tone"): given[x] for x in given if "topic" in x}
  with pytest.raises(ValueError, match="one classification head.*tone, topic"):
    importers.fairseq.convert(given | again, H, "Classifier")
