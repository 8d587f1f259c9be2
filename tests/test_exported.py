"""Exported models: what is loaded from them is what was trained."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

import linformer_jax
from linformer_jax import loading
from tests import runs

EXPORT = ("export", "--workdir={tmp}/run", "--to={tmp}/out")
TEXT = "bada <mask> gosu"


def test_an_export_gives_what_the_run_gives(run, tmp_path):
  """But for the places of files on the machine of the run."""
  place = tmp_path / "run" / "config.json"
  stored = json.loads(place.read_text())
  stored["data"]["cache_dir"] = "/here/cache"
  place.write_text(json.dumps(stored))
  status, out, err = run(*EXPORT)
  assert status == 0, err
  assert "MaskedLM after 4 updates" in out and "linformer_jax.load opens" in out
  old = loading.load(str(tmp_path / "run"))
  new = loading.load(str(tmp_path / "out"))
  assert old.config.data.cache_dir == "/here/cache"
  old.config.data.cache_dir = ""
  assert new.step == 4 and new.config == old.config
  runs.assert_same_bits(new.variables, old.variables)
  assert new.fill(TEXT) == old.fill(TEXT)
  model, variables, tokenizer = linformer_jax.load(str(tmp_path / "out"))
  tokens, mask = new.encode([TEXT])
  assert model.apply(variables, tokens, mask).shape == (1, 32, 300)
  path = tmp_path / "out" / "config.json"  # as of an earlier version
  settings = json.loads(path.read_text())
  del settings["config"]["data"]["truncate"]
  path.write_text(json.dumps(settings))
  assert loading.load(str(tmp_path / "out")).config == old.config
  bos, *_, eos = tokenizer.encode(" gosu").ids
  assert (bos, eos) == (0, 2)  # as RoBERTa's


def test_half_precision_is_half_the_file(run, tmp_path):
  assert run(*EXPORT)[0] == 0
  assert run(*EXPORT[:2], "--to={tmp}/half", "--dtype=bfloat16")[0] == 0
  whole, half = (
    (tmp_path / name / "model.safetensors").stat().st_size
    for name in ("out", "half")
  )
  assert 0.5 * whole < half < 0.6 * whole
  for a, b in zip(
    *(
      jax.tree.leaves(loading.load(str(tmp_path / name)).variables)
      for name in ("out", "half")
    ),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=2**-8)


@pytest.mark.slow
def test_softmax_attention_is_a_roberta(run, tmp_path):
  train = ("train", "--config=tests/tiny.py:softmax", *runs.QUICK_FLAGS)
  assert run(*train, "--workdir={tmp}/soft")[0] == 0
  status, out, err = run("export", "--workdir={tmp}/soft", "--to={tmp}/out")
  assert status == 0, err
  assert "transformers' AutoModel" in out
  settings = json.loads((tmp_path / "out" / "config.json").read_text())
  assert settings["architectures"] == ["RobertaForMaskedLM"]
  old = loading.load(str(tmp_path / "soft"))
  new = loading.load(str(tmp_path / "out"))
  assert new.config is None and new.step is None
  tokens, mask = old.encode([TEXT])
  want, got = (
    x.model.apply(x.variables, tokens, mask)[mask] for x in (old, new)
  )
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
  status, out, err = run("fill", "--workdir={tmp}/out", TEXT, "--top=3")
  assert status == 0, err
  assert len(out.splitlines()) == 1 and out.count("%") == 3


def test_transformers_open_it(run, tmp_path):
  transformers = pytest.importorskip("transformers")
  train = ("train", "--config=tests/tiny.py:softmax", *runs.QUICK_FLAGS)
  assert run(*train, "--workdir={tmp}/soft")[0] == 0
  assert run("export", "--workdir={tmp}/soft", "--to={tmp}/out")[0] == 0
  ours = loading.load(str(tmp_path / "out"))
  folder = str(tmp_path / "out")
  theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  texts = [TEXT, "bada"]
  given = tokenizer(texts, return_tensors="pt", padding=True)
  tokens, mask = (given[x].numpy() for x in ("input_ids", "attention_mask"))
  # <s> text, as here, and RoBERTa's </s>.
  for row, text in zip(tokens, texts, strict=True):
    ids, real = ours.encode([text])
    assert [*ids[real], 2] == [x for x in row.tolist() if x != 1]
  mask = mask.astype(bool)
  got = ours.model.apply(ours.variables, tokens, mask)[mask]
  want = theirs.eval()(**given).logits.detach().numpy()[mask]
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


WRONG = {
  "no --to": (EXPORT[:2], "--to=DIR is needed"),
  "taken": ((*EXPORT[:2], "--to={tmp}/run"), "exists: name a new folder"),
  "dtype": ((*EXPORT, "--dtype=int8"), "'int8' is not one of float32"),
  "no run": (("export", "--workdir={tmp}/x", "--to={tmp}/y"), "no run"),
  "no text": (("fill", "--workdir={tmp}/run"), "fill needs a text"),
  "no mask": (("fill", "--workdir={tmp}/run", "bada"), "no <mask> to fill"),
  "top": (("fill", "--workdir={tmp}/run", TEXT, "--top=0"), "--top=0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(run, tmp_path, case):
  words, message = WRONG[case]
  status, _, err = run(*words)
  assert status == 2 and message in err
  assert len(err.strip().splitlines()) == 1
  assert {x.name for x in tmp_path.iterdir()} <= {"run"}


def broken_config(folder):
  path = folder / "config.json"
  settings = json.loads(path.read_text())
  del settings["config"]["model"]["embed_dim"]
  path.write_text(json.dumps(settings))


def another_size(folder):
  path = folder / "config.json"
  settings = json.loads(path.read_text())
  settings["config"]["model"]["mlp_dim"] += 16
  path.write_text(json.dumps(settings))


def truncated(folder):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:1_000])


def without_tensor(folder):
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  del tensors["params.head_bias"]
  safetensors.numpy.save_file(tensors, path)


DAMAGE = {
  broken_config: "not of this version",
  another_size: "the two are not of one model",
  truncated: "cannot read the weights",
  without_tensor: "head_bias is missing",
  lambda folder: (folder / "tokenizer.json").unlink(): "tokenizer.json is",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_export_is_one_line(run, tmp_path, damage):
  assert run(*EXPORT)[0] == 0
  damage(tmp_path / "out")
  with pytest.raises(ValueError, match=DAMAGE[damage]) as error:
    loading.load(str(tmp_path / "out"))
  assert "\n" not in str(error.value)
  shutil.rmtree(tmp_path / "out")


def test_an_export_has_no_steps(run, tmp_path):
  assert run(*EXPORT)[0] == 0
  with pytest.raises(ValueError, match="no steps"):
    loading.load(str(tmp_path / "out"), step=2)


def test_a_run_is_made_longer(run, tmp_path):
  words = "convert", "--from={tmp}/run", "--to={tmp}/long", "--length=64"
  status, out, err = run(*words)
  assert status == 0, err
  old, new = (loading.load(str(tmp_path / x)) for x in ("run", "long"))
  assert new.config.model.max_length == 64 and new.step == old.step
  assert new.encode(["bada"])[0].shape == (1, 64)
  assert new.config.attention == old.config.attention
