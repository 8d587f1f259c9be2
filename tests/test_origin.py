"""A new run starts from a run, an export, or weights of `transformers`."""

import json
import pathlib

import numpy as np
import pytest
from flax import traverse_util

from linformer_jax import loading
from linformer_jax.models import layers
from tests import labeled, runs

STILL = (
  "--config.train.num_steps=1",
  "--config.optimizer.warmup_steps=0",
  "--config.optimizer.learning_rate=1e-30",
)
NEW = ("train", "--config=tests/tiny.py", *runs.QUICK_FLAGS, *STILL)
TUNE = (
  "train",
  "--config=tests/tiny_finetune.py",
  "--config.data.files={tmp}/train.jsonl",
  *STILL,
)


def leaves(folder):
  """Parameters by path, the layers one by one."""
  found = loading.load(str(folder))
  return traverse_util.flatten_dict(
    layers.unstack(found.variables["params"]), sep="/"
  )


def assert_same(got, want, names):
  """But for updates at a learning rate of 1e-30."""
  assert names
  for name in names:
    np.testing.assert_allclose(
      got[name], want[name], rtol=0, atol=1e-28, err_msg=name
    )


def test_an_export_is_a_start_like_its_run(run, tmp_path):
  """Its layers are single in the file, and stacked in the run before."""
  assert run("export", "--workdir={tmp}/run", "--to={tmp}/out")[0] == 0
  status, out, err = run(
    *NEW,
    "--config.model.scan_layers=False",
    "--init_from={tmp}/out",
    "--workdir={tmp}/new",
  )
  assert status == 0, err
  assert "out after 4 updates\n" in out
  old, new = leaves(tmp_path / "run"), leaves(tmp_path / "new")
  assert_same(new, old, old.keys())


@pytest.mark.slow
def test_a_roberta_is_a_start(run, tmp_path):
  """By its file; test_a_damaged_model_is_one_line names folders."""
  soft = [word.replace("tiny.py", "tiny.py:softmax") for word in NEW]
  assert run(*soft, "--workdir={tmp}/soft")[0] == 0
  assert run("export", "--workdir={tmp}/soft", "--to={tmp}/out")[0] == 0
  start = "--init_from={tmp}/out/model.safetensors"
  status, _, err = run(*soft, start, "--workdir={tmp}/new")
  assert status == 0, err
  old, new = leaves(tmp_path / "soft"), leaves(tmp_path / "new")
  # But for two rows of positions that are never read.
  for found in (old, new):
    found["encoder/embed/positions"] = found["encoder/embed/positions"][-32:]
  assert_same(new, old, old.keys())


@pytest.fixture
def tuned(run, tmp_path):
  """A classifier that took a model with other sizes than its own config."""
  labeled.write(tmp_path / "train.jsonl")
  wide = ("--config.model.mlp_dim=48", "--config.attention.projected_length=4")
  assert run(*NEW, *wide, "--workdir={tmp}/lm")[0] == 0
  command = (*TUNE, "--workdir={tmp}/c", "--config.data.sequence_length=24")
  status, out, err = run(*command, "--init_from={tmp}/lm")
  assert status == 0, err
  assert "with a new head" in out
  return command


def test_a_classifier_takes_encoder_and_config(tuned, tmp_path):
  old, new = leaves(tmp_path / "lm"), leaves(tmp_path / "c")
  encoder = {name for name in old if name.startswith("encoder/")}
  assert encoder == {name for name in new if name.startswith("encoder/")}
  assert_same(new, old, encoder)
  assert new["head_out/kernel"].shape == (32, 3)
  stored = json.loads((tmp_path / "c" / "config.json").read_text())
  assert stored["model"]["mlp_dim"] == 48
  assert stored["model"]["dropout_rate"] == 0.2  # its own
  assert stored["attention"]["dropout_rate"] == 0.2
  assert stored["attention"]["projected_length"] == 4


@pytest.mark.slow
def test_a_classifier_resumes_and_is_a_start_itself(run, tuned, tmp_path):
  assert run(*tuned)[0] == 0
  status, out, err = run(
    *TUNE, "--workdir={tmp}/d", "--init_from={tmp}/c",
    "--config.data.sequence_length=24",
  )  # fmt: skip
  assert status == 0 and "new head" not in out, err
  old, new = leaves(tmp_path / "c"), leaves(tmp_path / "d")
  assert_same(new, old, old.keys())


def test_flags_come_after_the_model_that_is_taken(run, tmp_path):
  labeled.write(tmp_path / "train.jsonl")
  status, _, err = run(
    *TUNE,
    "--workdir={tmp}/c",
    "--init_from={tmp}/run",
    "--config.attention.projected_length=2",
    "--config.model.mlp_dim=80",
  )
  assert status == 2 and "(32, 64) there, (32, 80) here" in err
  assert not (tmp_path / "c").exists()


def binary(folder):
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  return "not safetensors: save it as safetensors"


def truncated(folder):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:1_000])
  return "cannot read the weights"


def foreign(folder):
  path = folder / "config.json"
  settings = json.loads(path.read_text()) | {"model_type": "t5"}
  path.write_text(json.dumps(settings))
  return "'t5' is not one of"


def tokenless(folder):
  (folder / "tokenizer.json").unlink()
  return "tokenizer.json"


@pytest.mark.parametrize("damage", [binary, truncated, foreign, tokenless])
def test_a_damaged_model_is_one_line(run, tmp_path, damage):
  assert run("export", "--workdir={tmp}/run", "--to={tmp}/out")[0] == 0
  message = damage(tmp_path / "out")
  status, _, err = run(*NEW, "--init_from={tmp}/out", "--workdir={tmp}/new")
  line = err.strip().splitlines()[-1]
  assert status == 2 and message in line and "Traceback" not in err
  assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_head_of_other_classes_is_one_line(run, tmp_path):
  labeled.write(tmp_path / "train.jsonl")
  assert run(*TUNE, "--workdir={tmp}/c")[0] == 0
  status, _, err = run(
    *TUNE,
    "--config.task.num_classes=4",
    "--init_from={tmp}/c",
    "--workdir={tmp}/d",
  )
  assert status == 2 and "head_out" in err.strip().splitlines()[-1]
  assert not pathlib.Path(tmp_path / "d").exists()
