"""Imported weights compute what the `transformers` library computes.

Random models of that library, saved as it saves them; skipped without it (pip
install .[transformers]).
"""

import json

import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.models import weights as weights_lib
from tests import arrays

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

V, N, M, H, F = 40, 16, 32, 4, 48
BERT = dict(
  vocab_size=V,
  hidden_size=M,
  num_hidden_layers=2,
  num_attention_heads=H,
  intermediate_size=F,
)
CONFIGS = {
  "Bert": BERT | {"max_position_embeddings": N},
  "Roberta": BERT
  | {"max_position_embeddings": N + 2, "type_vocab_size": 1}
  | {"layer_norm_eps": 1e-5, "pad_token_id": 1},
  "DistilBert": dict(vocab_size=V, dim=M, n_layers=2, n_heads=H, hidden_dim=F)
  | {"max_position_embeddings": N},
}
CONFIGS |= {name: CONFIGS["Roberta"] for name in ("XLMRoberta", "Camembert")}
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification")
HEADS += ("ForQuestionAnswering", "ForTokenClassification")
# Ids above those of pads, from which RoBERTa counts positions.
TOKENS = np.random.default_rng(0).integers(5, V, (3, N))
LENGTHS = np.array([N, N - 5, 1])
MASK = np.arange(N) < LENGTHS[:, None]


def make(name, head, **fields):
  """A random model, with layer norms and biases that are not trivial."""
  torch.manual_seed(0)
  config = getattr(transformers, f"{name}Config")(**CONFIGS[name] | fields)
  made = getattr(transformers, f"{name}{head}")(config).eval()
  with torch.no_grad():
    for parameter in made.parameters():
      parameter.add_(torch.randn(parameter.shape) / 5)
  return made


def check(path, theirs):
  """Hidden states at real tokens, read from `path`, are those of `theirs`."""
  tokens = np.where(MASK, TOKENS, theirs.config.pad_token_id or 0)
  config, variables = weights_lib.load(path)
  given, segments = {}, None
  if config.num_segments:  # BERT's token types
    segments = np.arange(N)[None].repeat(len(tokens), 0) // 5 % 2
    given["token_type_ids"] = torch.tensor(segments)
  with torch.no_grad():
    want = getattr(theirs, theirs.base_model_prefix, theirs)(
      input_ids=torch.tensor(tokens),
      attention_mask=torch.tensor(1 * MASK),
      **given,
    ).last_hidden_state.numpy()
  encoder = models.TokenEncoder(config)
  got = encoder.apply(variables, tokens, MASK, segments)
  np.testing.assert_allclose(got[MASK], want[MASK], rtol=0, atol=2e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states(tmp_path, name, head):
  theirs = make(name, head)
  theirs.save_pretrained(tmp_path, safe_serialization=True)
  check(tmp_path, theirs)
  config, _ = weights_lib.load(tmp_path)
  (tmp_path / "config.json").unlink()  # names alone tell as much
  told, _ = weights_lib.load(tmp_path, H)
  assert told == config


HEADED = {"ForMaskedLM": "MaskedLM", "ForSequenceClassification": "Classifier"}
CLASSES = 3


def logits(theirs, **given):
  """Their logits, on padded rows."""
  tokens = np.where(MASK, TOKENS, theirs.config.pad_token_id or 0)
  with torch.no_grad():
    found = theirs(
      input_ids=torch.tensor(tokens),
      attention_mask=torch.tensor(1 * MASK),
      **given,
    )
  return tokens, found.logits.numpy()


def check_logits(got, want, head):
  if head == "ForMaskedLM":
    got, want = got[MASK], want[MASK]
  np.testing.assert_allclose(got, want, rtol=0, atol=5e-5)


def module(config, head):
  if head == "ForMaskedLM":
    return models.MaskedLM(config)
  return models.Classifier(config, CLASSES)


@pytest.mark.parametrize("head", HEADED)
@pytest.mark.parametrize("name", CONFIGS)
def test_heads(tmp_path, name, head):
  theirs = make(name, head, num_labels=CLASSES)
  theirs.save_pretrained(tmp_path)
  if (name, head) == ("DistilBert", "ForSequenceClassification"):
    with pytest.raises(ValueError, match="ReLU"):
      weights_lib.load(tmp_path, head=HEADED[head])
    return
  config, variables = weights_lib.load(tmp_path, head=HEADED[head])
  tokens, want = logits(theirs)
  got = module(config, head).apply(variables, tokens, MASK)
  check_logits(got, want, head)


@pytest.mark.parametrize("segments", [0, 2])
@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("head", ["Model", *HEADED])
def test_what_is_written_is_roberta(tmp_path, head, offset, segments):
  """A model here with random weights, opened by that library."""
  config = models.ModelConfig(
    vocab_size=V,
    max_length=N,
    num_layers=2,
    embed_dim=M,
    num_heads=H,
    mlp_dim=F,
    attention=attention.SoftmaxConfig(),
    num_segments=segments,
    position_offset=offset,
    scan_layers=False,
  )
  made = (
    models.TokenEncoder(config) if head == "Model" else module(config, head)
  )
  types = np.arange(N)[None].repeat(len(TOKENS), 0) // 5 % 2
  given, theirs_given = {}, {}
  if segments:
    given["segments"] = types
    theirs_given["token_type_ids"] = torch.tensor(types)
  variables = arrays.filled(made, TOKENS)
  weights_lib.save(tmp_path, config, variables, HEADED.get(head))
  opened = getattr(transformers, f"AutoModel{head.removeprefix('Model')}")
  theirs, told = opened.from_pretrained(tmp_path, output_loading_info=True)
  missing = {x for x in told["missing_keys"] if "pooler" not in x}
  assert not missing and not told["unexpected_keys"], told
  tokens = np.where(MASK, TOKENS, 1)
  got = made.apply(variables, tokens, MASK, **given)
  if head == "Model":
    with torch.no_grad():
      want = theirs.eval()(
        torch.tensor(tokens), torch.tensor(1 * MASK), **theirs_given
      ).last_hidden_state.numpy()
    np.testing.assert_allclose(got[MASK], want[MASK], rtol=0, atol=2e-5)
  else:
    check_logits(got, logits(theirs.eval(), **theirs_given)[1], head)
  again, back = weights_lib.load(tmp_path, head=HEADED.get(head))
  assert again.num_segments == segments
  got_again = (
    module(again, head) if head != "Model" else models.TokenEncoder(again)
  )
  np.testing.assert_allclose(
    got_again.apply(back, tokens, MASK, **given), got, rtol=0, atol=1e-6
  )


def test_several_files(tmp_path):
  theirs = make("Bert", "ForMaskedLM")
  theirs.save_pretrained(tmp_path, max_shard_size="20KB")
  assert not (tmp_path / "model.safetensors").exists()
  check(tmp_path, theirs)
  check(tmp_path / "model.safetensors.index.json", theirs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tmp_path, dtype):
  theirs = make("Bert", "Model").to(getattr(torch, dtype))
  theirs.save_pretrained(tmp_path)
  check(tmp_path, theirs.float())


def test_positions_start_after_the_pad(tmp_path):
  theirs = make(
    "Roberta", "Model", pad_token_id=3, max_position_embeddings=N + 4
  )
  theirs.save_pretrained(tmp_path)
  check(tmp_path, theirs)


OTHERS = {
  "Albert": dict(embedding_size=8, **BERT),
  "Electra": dict(embedding_size=8, **BERT),
  "DebertaV2": dict(relative_attention=True, pos_att_type=["p2c"], **BERT),
  "MPNet": BERT,
  "T5": dict(vocab_size=V, d_model=M, d_kv=8, d_ff=F, num_layers=1),
  "GPT2": dict(vocab_size=V, n_embd=M, n_layer=1, n_head=H),
  "ModernBert": BERT | {"pad_token_id": 0},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_architecture(tmp_path, name):
  config = getattr(transformers, f"{name}Config")(**OTHERS[name])
  getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path)
  path = tmp_path / "config.json"
  settings = json.loads(path.read_text())
  settings |= {"num_attention_heads": H, "hidden_act": "gelu"}
  path.write_text(json.dumps(settings))
  with pytest.raises(ValueError, match=settings["model_type"]):
    weights_lib.load(tmp_path)
  path.unlink()
  with pytest.raises(ValueError, match="tensor") as error:
    weights_lib.load(tmp_path, H)
  assert "\n" not in str(error.value)
