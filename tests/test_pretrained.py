"""Imported weights compute what BERT written out in numpy computes."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from linformer_jax import attention, models
from linformer_jax.models import bert as bert_lib
from linformer_jax.models import layers
from linformer_jax.models import weights as weights_lib
from tests import arrays, bert

TOKENS = np.random.default_rng(0).integers(0, bert.V, (2, bert.N))
QUERY = "encoder.layer.1.attention.self.query.weight"
WORDS = "embeddings.word_embeddings.weight"
ROBERTAS = ("roberta", "xlm-roberta", "camembert")


def save(folder, weights, settings=None, name="model.safetensors"):
  """A file as released, beside a config.json where there are settings."""
  weights = {name: np.ascontiguousarray(x) for name, x in weights.items()}
  safetensors.numpy.save_file(weights, folder / name)
  if settings is not None:
    (folder / "config.json").write_text(json.dumps(settings))
  return folder / name


def same(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("kind", ["bert", "distilbert", *ROBERTAS])
def test_the_encoder_is_theirs(kind):
  """An epsilon as large as the spread of a row shows where it is added."""
  offset = 2 if kind in ROBERTAS else 0
  weights = plain = bert.tensors(rows=bert.N + offset)
  if kind == "distilbert":
    weights, plain = bert.distilbert()
  config, variables = weights_lib.convert(weights, bert.H, kind, 0.5)
  want, _ = bert.forward(plain, TOKENS, 0.5, offset)
  got = models.TokenEncoder(config).apply(variables, TOKENS)
  arrays.close(got, want, *bert.LENGTHS)
  assert config.max_length == bert.N


def test_gamma_and_beta_are_weight_and_bias():
  """The names in the file of bert-base-uncased."""
  weights = bert.renamed(bert.tensors(), bert.TENSORFLOW, "bert.")
  assert "bert.encoder.layer.0.output.LayerNorm.gamma" in weights
  assert weights_lib.convert(weights, bert.H)[0].num_layers == bert.L
  same(
    weights_lib.convert(weights, bert.H)[1],
    weights_lib.convert(bert.tensors(), bert.H)[1],
  )


def test_parameters_are_those_of_the_module():
  """Every name and shape, so that nothing was left at its start."""
  config, variables = weights_lib.convert(bert.tensors(), bert.H)
  filled = arrays.filled(models.TokenEncoder(config), TOKENS)
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, filled)


@pytest.mark.parametrize("prefix", ["", "bert.", "roberta."])
def test_a_file_with_its_config(tmp_path, prefix):
  """Prefixes and heads over the encoder are passed over; config.json tells."""
  weights = bert.tensors(prefix, rows=bert.N + 2)
  weights[f"{prefix}pooler.dense.bias"] = np.ones(bert.M, np.float32)
  weights["cls.predictions.bias"] = np.ones(bert.V, np.float32)
  weights[f"{prefix}embeddings.position_ids"] = np.arange(bert.N)[None]
  path = save(tmp_path, weights)
  with pytest.raises(ValueError, match="number of heads"):
    weights_lib.load(path)
  told, _ = weights_lib.load(path, num_heads=4)
  roberta = prefix == "roberta."
  assert (told.num_heads, told.position_offset) == (4, 2 if roberta else 0)
  assert told.norm_epsilon == (1e-5 if roberta else 1e-12)
  settings = {"num_attention_heads": 2, "layer_norm_eps": 1e-3}
  save(tmp_path, weights, settings | {"model_type": "roberta"})
  config, variables = weights_lib.load(path)
  assert (config.num_heads, config.norm_epsilon) == (2, 1e-3)
  assert (config.max_length, config.position_offset) == (bert.N, 2)
  name = f"{prefix}encoder.layer.1.output.dense.weight"
  kernel = variables["params"]["layer_1"]["block"]["mlp_out"]["kernel"]
  np.testing.assert_array_equal(kernel, weights[name].T)


WRAPPED = ["module.bert.", "model.", "0.auto_model.", "encoder.", "distilbert."]
HEADS = {
  "": ["cls.seq_relationship.bias", "classifier.weight", "qa_outputs.bias"],
  "module.": ["classifier.bias", "anything.weight"],
}


@pytest.mark.parametrize("prefix", WRAPPED)
@pytest.mark.parametrize("heads", HEADS)
def test_prefixes_and_heads(prefix, heads):
  """Whatever stands before the word embeddings, and what is beside them."""
  weights, plain = bert.tensors(prefix), bert.tensors()
  if prefix == "distilbert.":
    weights, plain = bert.distilbert(prefix)
  weights |= {heads + name: np.ones(3, np.float32) for name in HEADS[heads]}
  got = weights_lib.convert(weights, bert.H)
  assert got[0].position_offset == 0
  same(got[1]["params"]["norm"]["scale"], plain["embeddings.LayerNorm.weight"])


def test_names_tell_roberta():
  """Where there is neither a config.json nor its prefix."""

  def offset(weights):
    return weights_lib.convert(weights, bert.H)[0].position_offset

  one_type = bert.tensors(types=1)
  assert offset(one_type) == 2
  assert offset(bert.tensors("bert.", types=1)) == 0
  assert offset(bert.tensors("model.") | {"lm_head.bias": np.ones(3)}) == 2


def test_distilbert_has_a_config_of_its_own(tmp_path):
  weights, plain = bert.distilbert("distilbert.")
  for head in ("vocab_transform", "vocab_layer_norm", "pre_classifier"):
    weights[f"{head}.weight"] = np.ones(3, np.float32)
  settings = {"model_type": "distilbert", "activation": "gelu", "n_heads": 4}
  sizes = {"dim": bert.M, "n_layers": bert.L, "hidden_dim": bert.F}
  config, variables = weights_lib.load(
    save(tmp_path, weights, settings | sizes)
  )
  assert (config.num_heads, config.norm_epsilon) == (4, 1e-12)
  positions = variables["params"]["embed"]["positions"]
  same(positions, plain["embeddings.position_embeddings.weight"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_it_is(tmp_path, dtype):
  halves = {n: x.astype(jnp.dtype(dtype)) for n, x in bert.tensors().items()}
  _, variables = weights_lib.load(save(tmp_path, halves), bert.H)
  query = variables["params"]["layer_1"]["block"]["attention"]["query"]
  assert query["kernel"].dtype == np.float32
  np.testing.assert_array_equal(query["kernel"], halves[QUERY].T)


def roberta(module, scanned, head=None):
  """A model here with random weights, and the tensors of it as a RoBERTa."""
  config = models.ModelConfig(
    vocab_size=bert.V,
    max_length=bert.N,
    num_layers=bert.L,
    embed_dim=bert.M,
    num_heads=bert.H,
    mlp_dim=bert.F,
    attention=attention.SoftmaxConfig(),
    scan_layers=scanned,
  )
  variables = arrays.filled(module(config), TOKENS)
  params = layers.unstack(variables["params"])
  return config, variables, bert_lib.tensors_of(config, params, head)


MODELS = {
  None: models.TokenEncoder,
  "MaskedLM": models.MaskedLM,
  "Classifier": functools.partial(models.Classifier, num_classes=3),
}


@pytest.mark.parametrize("scanned", [True, False])
@pytest.mark.parametrize("head", MODELS)
def test_what_is_written_is_read_back(tmp_path, head, scanned):
  config, variables, _ = roberta(MODELS[head], scanned, head)
  weights_lib.save(tmp_path, config, variables, head)
  found, back = weights_lib.load(tmp_path, head=head)
  assert (found.max_length, found.position_offset) == (bert.N, 2)
  got = MODELS[head](found).apply(back, TOKENS)
  want = MODELS[head](config).apply(variables, TOKENS)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_layers_are_stacked_as_they_were():
  mixed = (attention.LocalConfig(window=2), attention.SoftmaxConfig())
  config, variables, _ = roberta(MODELS[None], True)
  config = dataclasses.replace(
    config, num_layers=4, attention=mixed[:1] * 2 + mixed[1:] * 2
  )
  variables = arrays.filled(models.TokenEncoder(config), TOKENS)
  single = layers.unstack(variables)
  assert {f"layer_{i}" for i in range(4)} <= single["params"].keys()
  same(layers.stack(single, config.layers), variables)


def test_half_precision_is_written(tmp_path):
  config, variables, tensors = roberta(MODELS[None], False)
  weights_lib.save(tmp_path, config, variables, dtype="bfloat16")
  held = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(held[name], tensor.astype(jnp.bfloat16))


@pytest.mark.parametrize(
  "fields,message",
  [
    (
      {"attention": attention.LocalConfig(window=2)},
      "softmax attention.*local",
    ),
    ({"norm_position": "pre"}, "norm_position=pre"),
  ],
)
def test_what_is_no_roberta_is_not_written(tmp_path, fields, message):
  config, _, _ = roberta(MODELS[None], False)
  config = dataclasses.replace(config, **fields)
  variables = arrays.filled(models.TokenEncoder(config), TOKENS)
  with pytest.raises(ValueError, match=message):
    weights_lib.save(tmp_path / "x", config, variables)
  assert not (tmp_path / "x").exists()


def test_a_head_that_is_not_there_or_not_tied():
  _, _, tensors = roberta(MODELS["MaskedLM"], False, "MaskedLM")
  with pytest.raises(ValueError, match="classifier.dense.*not of a Classifier"):
    weights_lib.convert(tensors, bert.H, head="Classifier")
  copy = {"lm_head.decoder.weight": tensors[f"roberta.{WORDS}"]}
  weights_lib.convert(tensors | copy, bert.H, head="MaskedLM")
  copy = {name: 2 * x for name, x in copy.items()}
  with pytest.raises(ValueError, match="lm_head.decoder.weight is not"):
    weights_lib.convert(tensors | copy, bert.H, head="MaskedLM")
  with pytest.raises(ValueError, match="ReLU"):
    weights_lib.convert(bert.distilbert()[0], bert.H, head="Classifier")


def without(name):
  return {n: x for n, x in bert.tensors().items() if n != name}


BAD = {
  "missing": (without(QUERY), f"no tensor {QUERY}"),
  "no words": (without(WORDS), f"no tensor {WORDS}"),
  "two encoders": (
    bert.tensors("a.") | bert.tensors("b."),
    f"more than one tensor {WORDS}.*a.{WORDS}, b.{WORDS}",
  ),
  "no layers": (
    {n: x for n, x in bert.tensors().items() if "layer." not in n},
    "no tensor encoder.layer.0",
  ),
  "no such layer": (
    {n: x for n, x in bert.tensors().items() if "layer.0." not in n},
    "no tensor encoder.layer.0",
  ),
  "a layer far away": (
    bert.tensors() | {"encoder.layer.999999999.x": np.ones(3)},
    "no tensor encoder.layer.2.*encoder.layer.999999999.x",
  ),
  "unknown": (bert.tensors() | {"adapter.weight": np.ones(3)}, "adapter"),
  "within": (
    bert.tensors("bert.") | {"bert.embeddings_project.bias": np.ones(3)},
    "bert.embeddings_project.bias",
  ),
  "shape": (
    bert.tensors() | {QUERY: np.ones((bert.M, 3), np.float32)},
    r"\(8, 3\), not \(8, 8\)",
  ),
  "axes": (bert.tensors() | {WORDS: np.ones(3)}, "not 2 axes"),
  "quantized": (
    bert.tensors("bert.") | {f"bert.{QUERY}": np.ones((8, 8), np.int8)},
    f"bert.{QUERY} is int8",
  ),
}


@pytest.mark.parametrize("case", BAD)
def test_tensors_of_something_else(case):
  weights, message = BAD[case]
  with pytest.raises(ValueError, match=message) as error:
    weights_lib.convert(weights, bert.H)
  assert "\n" not in str(error.value)


def test_kinds_and_heads_that_do_not_fit():
  with pytest.raises(ValueError, match="'t5' is not one of"):
    weights_lib.convert(bert.tensors(), bert.H, "t5")
  with pytest.raises(ValueError, match="num_heads 3"):
    weights_lib.convert(bert.tensors(), 3)
