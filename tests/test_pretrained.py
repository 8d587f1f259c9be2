"""Imported weights compute what BERT written out in numpy computes."""

import json

import numpy as np
import pytest
import safetensors.numpy

from linformer_jax import model, pretrained
from tests import arrays, bert

TOKENS = np.random.default_rng(0).integers(0, bert.V, (2, bert.N))
QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_encoder_is_theirs(kind):
  """An epsilon as large as the spread of a row shows where it is added."""
  offset = {"bert": 0, "roberta": 2}[kind]
  weights = bert.tensors(rows=bert.N + offset)
  config, variables = pretrained.convert(weights, bert.H, kind, 0.5)
  want, _ = bert.forward(weights, TOKENS, 0.5, offset)
  got = model.Encoder(config).apply(variables, TOKENS)
  arrays.close(got, want, *bert.LENGTHS)
  assert config.max_length == bert.N


def test_parameters_are_those_of_the_module():
  """Every name and shape, so that nothing was left at its start."""
  config, variables = pretrained.convert(bert.tensors(), bert.H)
  filled = arrays.filled(model.Encoder(config), TOKENS)

  def shapes(tree):
    return {
      name: shapes(x) if isinstance(x, dict) else x.shape
      for name, x in tree.items()
    }

  assert shapes(variables) == shapes(filled)


@pytest.mark.parametrize("prefix", ["", "bert.", "roberta."])
def test_a_file_with_its_config(tmp_path, prefix):
  """Prefixes and heads over the encoder are passed over; config.json tells."""
  weights = bert.tensors(prefix, rows=bert.N + 2)
  weights[f"{prefix}pooler.dense.bias"] = np.ones(bert.M, np.float32)
  weights["cls.predictions.bias"] = np.ones(bert.V, np.float32)
  weights[f"{prefix}embeddings.position_ids"] = np.arange(bert.N)[None]
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file(weights, path)
  with pytest.raises(ValueError, match="number of heads"):
    pretrained.load(path)
  told, _ = pretrained.load(path, num_heads=4)
  roberta = prefix == "roberta."
  assert (told.num_heads, told.position_offset) == (4, 2 if roberta else 0)
  assert told.norm_epsilon == (1e-5 if roberta else 1e-12)
  settings = {"num_attention_heads": 2, "layer_norm_eps": 1e-3}
  settings["model_type"] = "roberta"
  (tmp_path / "config.json").write_text(json.dumps(settings))
  config, variables = pretrained.load(path)
  assert (config.num_heads, config.norm_epsilon) == (2, 1e-3)
  assert (config.max_length, config.position_offset) == (bert.N, 2)
  name = f"{prefix}encoder.layer.1.output.dense.weight"
  kernel = variables["params"]["layer_1"]["block"]["mlp_out"]["kernel"]
  np.testing.assert_array_equal(kernel, weights[name].T)


def test_half_precision_is_read_as_it_is():
  weights = bert.tensors()
  halves = {name: x.astype(np.float16) for name, x in weights.items()}
  _, variables = pretrained.convert(halves, bert.H)
  query = variables["params"]["layer_1"]["block"]["attention"]["query"]
  assert query["kernel"].dtype == np.float32
  np.testing.assert_array_equal(query["kernel"], halves[QUERY].T)


def without(name):
  return {n: x for n, x in bert.tensors().items() if n != name}


BAD = {
  "missing": (without(QUERY), f"no tensor {QUERY}"),
  "no layers": (
    {n: x for n, x in bert.tensors().items() if "layer." not in n},
    "no tensor encoder.layer.0",
  ),
  "no such layer": (
    {n: x for n, x in bert.tensors().items() if "layer.0." not in n},
    "no tensor encoder.layer.0",
  ),
  "unknown": (bert.tensors() | {"adapter.weight": np.ones(3)}, "adapter"),
  "shape": (
    bert.tensors() | {QUERY: np.ones((bert.M, 3), np.float32)},
    r"\(8, 3\), not \(8, 8\)",
  ),
  "axes": (
    bert.tensors() | {"embeddings.word_embeddings.weight": np.ones(3)},
    "not 2 axes",
  ),
}


@pytest.mark.parametrize("case", BAD)
def test_tensors_of_something_else(case):
  weights, message = BAD[case]
  with pytest.raises(ValueError, match=message):
    pretrained.convert(weights, bert.H)


def test_settings_of_something_else(tmp_path):
  with pytest.raises(ValueError, match="'t5' is not one of"):
    pretrained.convert(bert.tensors(), bert.H, "t5")
  with pytest.raises(ValueError, match="num_heads 3"):
    pretrained.convert(bert.tensors(), 3)
  path = tmp_path / "model.safetensors"
  with pytest.raises(ValueError, match="cannot read the weights"):
    pretrained.load(path)
  path.write_bytes(b"no tensors at all")
  with pytest.raises(ValueError, match="cannot read the weights"):
    pretrained.load(path)
  safetensors.numpy.save_file(bert.tensors(), path)
  (tmp_path / "config.json").write_text('{"hidden_act": "relu"}')
  with pytest.raises(ValueError, match="hidden_act is 'relu'"):
    pretrained.load(path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match="config.json"):
    pretrained.load(path)
