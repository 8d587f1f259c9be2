"""Imported weights compute what BERT written out in numpy computes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from linformer_jax import models
from linformer_jax.models import pretrained
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
  config, variables = pretrained.convert(weights, bert.H, kind, 0.5)
  want, _ = bert.forward(plain, TOKENS, 0.5, offset)
  got = models.TokenEncoder(config).apply(variables, TOKENS)
  arrays.close(got, want, *bert.LENGTHS)
  assert config.max_length == bert.N


def test_gamma_and_beta_are_weight_and_bias():
  """The names in the file of bert-base-uncased."""
  weights = bert.renamed(bert.tensors(), bert.TENSORFLOW, "bert.")
  assert "bert.encoder.layer.0.output.LayerNorm.gamma" in weights
  assert pretrained.convert(weights, bert.H)[0].num_layers == bert.L
  same(
    pretrained.convert(weights, bert.H)[1],
    pretrained.convert(bert.tensors(), bert.H)[1],
  )


def test_parameters_are_those_of_the_module():
  """Every name and shape, so that nothing was left at its start."""
  config, variables = pretrained.convert(bert.tensors(), bert.H)
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
    pretrained.load(path)
  told, _ = pretrained.load(path, num_heads=4)
  roberta = prefix == "roberta."
  assert (told.num_heads, told.position_offset) == (4, 2 if roberta else 0)
  assert told.norm_epsilon == (1e-5 if roberta else 1e-12)
  settings = {"num_attention_heads": 2, "layer_norm_eps": 1e-3}
  save(tmp_path, weights, settings | {"model_type": "roberta"})
  config, variables = pretrained.load(path)
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
  got = pretrained.convert(weights, bert.H)
  assert got[0].position_offset == 0
  same(got[1]["params"]["norm"]["scale"], plain["embeddings.LayerNorm.weight"])


def test_names_tell_roberta():
  """Where there is neither a config.json nor its prefix."""

  def offset(weights):
    return pretrained.convert(weights, bert.H)[0].position_offset

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
  config, variables = pretrained.load(save(tmp_path, weights, settings | sizes))
  assert (config.num_heads, config.norm_epsilon) == (4, 1e-12)
  positions = variables["params"]["embed"]["positions"]
  same(positions, plain["embeddings.position_embeddings.weight"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_it_is(tmp_path, dtype):
  halves = {n: x.astype(jnp.dtype(dtype)) for n, x in bert.tensors().items()}
  _, variables = pretrained.load(save(tmp_path, halves), bert.H)
  query = variables["params"]["layer_1"]["block"]["attention"]["query"]
  assert query["kernel"].dtype == np.float32
  np.testing.assert_array_equal(query["kernel"], halves[QUERY].T)


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
    pretrained.convert(weights, bert.H)
  assert "\n" not in str(error.value)


def test_kinds_and_heads_that_do_not_fit():
  with pytest.raises(ValueError, match="'t5' is not one of"):
    pretrained.convert(bert.tensors(), bert.H, "t5")
  with pytest.raises(ValueError, match="num_heads 3"):
    pretrained.convert(bert.tensors(), 3)
