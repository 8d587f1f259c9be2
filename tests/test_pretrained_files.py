"""Files, folders and config.json that weights are read from, or refused."""

import json

import numpy as np
import pytest

from linformer_jax.models import weights as weights_lib
from tests import bert
from tests.test_pretrained import same, save

INDEX = "model.safetensors.index.json"


@pytest.fixture
def whole():
  return weights_lib.convert(bert.tensors(), bert.H)


def test_a_folder_means_its_file(tmp_path, monkeypatch, whole):
  save(tmp_path, bert.tensors(), {"num_attention_heads": bert.H})
  monkeypatch.setenv("HOME", str(tmp_path.parent))
  for path in (tmp_path, str(tmp_path), f"~/{tmp_path.name}"):
    config, variables = weights_lib.load(path)
    assert config == whole[0]
    same(variables, whole[1])


def test_a_model_in_several_files(tmp_path, whole):
  weights, names = bert.tensors(), {}
  for i in range(2):
    name = f"model-0000{i + 1}-of-00002.safetensors"
    part = dict(list(weights.items())[i::2])
    names |= dict.fromkeys(part, name)
    path = save(tmp_path, part, {"num_attention_heads": bert.H}, name)
  index = tmp_path / INDEX
  index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
  for given in (tmp_path, index):
    same(weights_lib.load(given)[1], whole[1])
  with pytest.raises(ValueError, match="one of several.*folder"):
    weights_lib.load(path)
  path.unlink()
  with pytest.raises(ValueError, match=f"cannot read the weights {path}"):
    weights_lib.load(tmp_path)
  for text in ("{}", "[]", '{"weight_map": {"a": 3}}', '{"weight_map": 3}'):
    index.write_text(text)
    with pytest.raises(ValueError, match=INDEX):
      weights_lib.load(tmp_path)


def test_other_formats_are_named(tmp_path):
  with pytest.raises(ValueError, match=f"no model.safetensors in.*{tmp_path}"):
    weights_lib.load(tmp_path)
  path = tmp_path / "pytorch_model.bin"
  path.write_bytes(b"a pickle")
  for given in (tmp_path, path):
    with pytest.raises(ValueError, match="pytorch_model.bin.*save_pretrained"):
      weights_lib.load(given)


def test_no_weights_at_all(tmp_path):
  path = tmp_path / "model.safetensors"
  for given in (path, tmp_path / ("x" * 5000)):
    with pytest.raises(ValueError, match="cannot read the weights"):
      weights_lib.load(given)
  path.write_bytes(b"no tensors at all")
  with pytest.raises(ValueError, match="cannot read the weights"):
    weights_lib.load(path)
  header = {"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0")
  with pytest.raises(ValueError, match="cannot read the weights.*dtype"):
    weights_lib.load(path, bert.H)
  with pytest.raises(ValueError, match="gs://"):
    weights_lib.load("gs://bucket/model.safetensors")


SETTINGS = {
  "not JSON": ("{", "cannot read .*config.json"),
  "no text": (b"\xff\xfe\x00", "cannot read .*config.json"),
  "deep": ("[" * 100_000, "config.json: too deeply nested"),
  "a list": ("[]", "config.json holds no settings"),
  "heads null": ('{"num_attention_heads": null}', "number of heads"),
  "heads string": ('{"num_attention_heads": "2"}', "_heads is '2', not a"),
  "heads float": ('{"num_attention_heads": 2.0}', "_heads is 2.0, not a"),
  "heads bool": ('{"n_heads": true}', "n_heads is True, not a"),
  "heads": ('{"num_attention_heads": 3}', "8 is not divisible by num_heads 3"),
  "no heads": ('{"num_attention_heads": 0}', "by num_heads 0"),
  "epsilon": ('{"layer_norm_eps": "1e-12"}', "layer_norm_eps is '1e-12'"),
  "epsilon NaN": ('{"layer_norm_eps": NaN}', "layer_norm_eps is nan"),
  "epsilon 0": ('{"layer_norm_eps": 0.0}', "layer_norm_eps is 0.0"),
  "relu": ('{"hidden_act": "relu"}', "hidden_act is 'relu'; only 'gelu'"),
  "gelu_new": ('{"hidden_act": "gelu_new"}', "hidden_act is 'gelu_new'"),
  "distil relu": ('{"activation": "relu"}', "activation is 'relu'"),
  "relative": (
    '{"position_embedding_type": "relative_key"}',
    "position_embedding_type is 'relative_key'; only 'absolute'",
  ),
  "decoder": ('{"is_decoder": true}', "is_decoder is True"),
  "albert": ('{"model_type": "albert"}', "model type 'albert' is not one of"),
  "type list": ('{"model_type": ["bert"]}', "model type .'bert'. is not one"),
  "pad": ('{"pad_token_id": "1"}', "pad_token_id is '1'"),
  "width": ('{"hidden_size": 768}', "hidden_size is 768, but 8 in"),
  "depth": ('{"num_hidden_layers": 3}', "num_hidden_layers is 3, but 2 in"),
  "vocab": ('{"vocab_size": "23"}', "vocab_size is '23', but 23 in"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_of_something_else(tmp_path, case):
  text, message = SETTINGS[case]
  path = save(tmp_path, bert.tensors())
  text = text if isinstance(text, bytes) else text.encode()
  (tmp_path / "config.json").write_bytes(text)
  heads = None if "heads" in case else bert.H
  with pytest.raises(ValueError, match=message) as error:
    weights_lib.load(path, heads)
  assert "\n" not in str(error.value) and str(path.parent) in str(error.value)


def test_null_is_as_if_it_were_not_there(tmp_path, whole):
  names = ("model_type", "layer_norm_eps", "pad_token_id", "hidden_act")
  settings = dict.fromkeys(names) | {"num_attention_heads": bert.H}
  config, _ = weights_lib.load(save(tmp_path, bert.tensors(), settings))
  assert config == whole[0]


def test_the_offset_follows_the_pad(tmp_path):
  weights = bert.tensors("roberta.", rows=bert.N + 4)
  settings = {"num_attention_heads": bert.H, "pad_token_id": 3}
  settings["max_position_embeddings"] = bert.N + 4
  config, _ = weights_lib.load(save(tmp_path, weights, settings))
  assert (config.position_offset, config.max_length) == (4, bert.N)
  assert np.isclose(config.norm_epsilon, 1e-5)
