"""A run as others use it: loaded, filled in, and a start for new runs."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

from linformer_jax import loading
from tests import runs

NEW = (
  "train",
  "--config=tests/tiny.py",
  *runs.QUICK_FLAGS,
  "--workdir={tmp}/new",
)
FROM = "--init_from={tmp}/run"


def test_weights_and_logits_are_those_of_the_run(finished):
  experiment = runs.experiment(**runs.QUICK)
  state, _ = runs.newest(finished, experiment)
  found = loading.load(str(finished))
  assert found.step == 4
  runs.assert_same_bits(found.variables["params"], state.params)
  tokens, mask = found.encode(["bada <mask> gosu", ""])
  logits = found.model.apply(found.variables, tokens, mask)
  assert logits.shape == (2, 32, 300)
  ids = found.tokenizer.encode("bada", add_special_tokens=False).ids
  after = found.tokenizer.encode(" gosu", add_special_tokens=False).ids
  row = [0, *ids, found.tokenizer.token_to_id("<mask>"), *after]
  assert tokens[0, : len(row)].tolist() == row
  assert mask.sum(axis=1).tolist() == [len(row), 1]
  assert (tokens[~mask] == 1).all()


def test_fill_ranks_tokens_by_their_probability(finished):
  found = loading.load(str(finished))
  text = "bada <mask> gosu<mask>."
  filled = found.fill(text, top=3)
  tokens, mask = found.encode([text])
  logits = found.model.apply(found.variables, tokens, mask)[0]
  (places,) = np.nonzero(tokens[0] == found.tokenizer.token_to_id("<mask>"))
  size = max(found.tokenizer.get_vocab().values()) + 1
  for place, answers in zip(places, filled, strict=True):
    expected = np.sort(jax.nn.softmax(logits[place, :size]))[::-1][:3]
    np.testing.assert_allclose([p for _, p in answers], expected, rtol=1e-5)
    best = int(np.argmax(logits[place, :size]))
    assert answers[0][0] == found.tokenizer.decode([best])


def test_an_older_checkpoint_can_be_named(finished):
  assert loading.load(str(finished), step=2).step == 2


@pytest.mark.parametrize(
  "field",
  [
    "data.pair_feature",
    "task.mask_span",
    "mesh.float32_gradients",
    "train.init_model",
  ],
)
def test_a_run_from_before_a_field_has_its_default(run, tmp_path, field):
  path = tmp_path / "run" / "config.json"
  config = json.loads(path.read_text())
  group, name = field.split(".")
  value = config[group].pop(name)
  path.write_text(json.dumps(config))
  found = loading.load(str(tmp_path / "run"))
  assert found.config[group][name] == value
  status, out, err = run(*NEW[:-1], "--workdir={tmp}/run")
  assert status == 0 and "This run was complete" in out, err


def test_text_that_does_not_fit_is_refused(finished):
  found = loading.load(str(finished))
  with pytest.raises(ValueError, match="no <mask> to fill in 'bada'"):
    found.fill("bada")
  with pytest.raises(ValueError, match="max_length 32"):
    found.fill("bada <mask> " * 40)


def test_what_is_no_run_is_refused(finished, tmp_path):
  with pytest.raises(ValueError, match="holds no run"):
    loading.load(str(tmp_path / "none"))
  shutil.copytree(finished, tmp_path / "run")
  (tmp_path / "run" / "tokenizer.json").unlink()
  with pytest.raises(ValueError, match="tokenizer.json is missing"):
    loading.load(str(tmp_path / "run"))


@pytest.mark.slow
def test_a_new_run_starts_from_the_weights(run, tmp_path):
  still = ("--config.train.num_steps=1", "--config.optimizer.warmup_steps=0")
  still += ("--config.optimizer.learning_rate=1e-30", "--config.seed=5")
  status, out, err = run(*NEW, FROM, *still)
  assert status == 0, err
  assert "starting from the weights" in out and "4 updates" in out
  old = loading.load(str(tmp_path / "run"))
  new = loading.load(str(tmp_path / "new"))
  assert new.step == 1
  runs.assert_same_bits(new.variables["params"], old.variables["params"])
  config = json.loads((tmp_path / "new" / "config.json").read_text())
  assert config["train"]["init_from"] == str(tmp_path / "run")
  # Resumed with the flag, without it, and without the run that it came from.
  assert run(*NEW, FROM, *still)[0] == 0
  shutil.rmtree(tmp_path / "run")
  assert run(*NEW, *still)[0] == 0
  more = ("--extend", "--config.train.num_steps=3")
  status, _, err = run(*NEW, *still, *more)
  assert status == 0, err


@pytest.mark.slow
def test_only_projections_start_anew_in_another_attention(run, tmp_path):
  """Linformer -> softmax -> Linformer, and another k."""
  still = ("--config.train.num_steps=1", "--config.optimizer.warmup_steps=0")
  still += ("--config.optimizer.learning_rate=1e-30", "--config.seed=5")
  source, said = "run", {}
  for name, words in (
    ("softmax", ("--config=tests/tiny.py:softmax",)),
    ("linformer", ()),
    ("smaller", ("--config.attention.projected_length=4",)),
  ):
    status, said[name], err = run(
      *NEW[:-1],
      f"--workdir={{tmp}}/{name}",
      f"--init_from={{tmp}}/{source}",
      *still,
      *words,
    )
    assert status == 0, err
    source = name
  old, softmax, linformer, smaller = (
    traverse_util.flatten_dict(
      loading.load(str(tmp_path / name)).variables["params"], sep="/"
    )
    for name in ("run", *said)
  )
  own = [name for name in old if "projection" in name]
  assert own and softmax.keys() == old.keys() - set(own)
  for found in (softmax, linformer, smaller):
    for name in softmax:
      np.testing.assert_array_equal(found[name], old[name], err_msg=name)
  assert linformer.keys() == smaller.keys() == old.keys()
  for name in own:
    assert not np.array_equal(linformer[name], old[name])
    assert smaller[name].shape[-2] == 4 != old[name].shape[-2]
  assert "new projections" not in said["softmax"]
  for name in ("linformer", "smaller"):
    assert f"{len(own)} new projections" in said[name]


def test_other_text_gets_the_tokenizer_of_the_weights(run, tmp_path):
  (tmp_path / "text").mkdir()
  for i in range(40):
    words = " ".join(f"other{i * j % 13}" for j in range(60))
    (tmp_path / "text" / f"{i}.txt").write_text(words)
  text = ("--config.data.source=files", "--config.data.files={tmp}/text/*.txt")
  status, _, err = run(*NEW, FROM, *text)
  assert status == 0, err
  old, new = (tmp_path / name / "tokenizer.json" for name in ("run", "new"))
  assert new.read_bytes() == old.read_bytes()
  # Another tokenizer makes other tokens of the same ids.
  own = json.loads(old.read_text())
  own["model"]["merges"].pop()
  own["model"]["vocab"].popitem()
  (tmp_path / "own.json").write_text(json.dumps(own))
  path = "--config.data.tokenizer_path={tmp}/own.json"
  status, _, err = run(*NEW[:-1], "--workdir={tmp}/third", FROM, *text, path)
  assert status == 2 and "its tokenizer is another one" in err
  assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
  "words, message",
  [
    (("--init_from={tmp}/none",), "none holds no run"),
    ((FROM, "--config.model.num_layers=3"), "do not fit this model"),
    ((FROM, "--config.model.mlp_dim=48"), "(32, 64) there, (32, 48) here"),
    ((FROM, "--config.model.max_length=64"), "embed/positions"),
    (("--init_from={tmp}/text",), "text holds no run"),
  ],
)
def test_weights_that_do_not_fit_are_one_line(run, tmp_path, words, message):
  status, _, err = run(*NEW, *words)
  line = err.strip().splitlines()[-1]
  assert status == 2 and "Traceback" not in err and message in line
  assert not (tmp_path / "new").exists()
