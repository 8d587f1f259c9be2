"""Pairs of texts by two towers: against each text encoded alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from linformer_jax import loading, models, predict, step, tasks
from linformer_jax.data import pipeline
from linformer_jax.tasks import matching
from tests import arrays, labeled, runs, test_flops, test_tasks

B, C = 2, 3


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  config = test_tasks.config_of("matching")
  config.data.source = "labeled"
  path = tmp_path_factory.mktemp("pairs") / "a.jsonl"
  config.data.files = str(labeled.write(path, pair=True))
  config.model.dropout_rate = config.attention.dropout_rate = 0.0
  return config


@pytest.fixture(scope="module")
def task(config):
  return step.task_of(config)


@pytest.fixture(scope="module")
def corpus(config):
  return test_tasks.data_of(config)


@pytest.fixture(scope="module")
def variables(task):
  tokens, *_ = task.init_arguments()
  return arrays.filled(task.module(), tokens)


def some_pairs(task, sizes):
  """Tokens [B, 2, N] and their mask, of texts with so many tokens."""
  tokens = np.random.default_rng(0).integers(5, 300, (B, 2, task.length))
  mask = np.arange(task.length) < np.array(sizes)[..., None]
  return tokens, mask


def test_logits_are_those_of_texts_encoded_alone(task, variables):
  """In numpy from u and v on: [u, v, u v, u - v], then RoBERTa's head."""
  sizes = [(9, 32), (1, 9)]
  tokens, mask = some_pairs(task, sizes)
  got = jax.jit(task.module().apply)(variables, tokens, mask)
  params = variables["params"]
  encoder = models.TokenEncoder(task.model)
  inner = {"params": params["encoder"]}

  run = jax.jit(encoder.apply)

  def alone(row, size):
    return np.asarray(run(inner, row[None, :size])[0, 0])

  for i, (first, second) in enumerate(sizes):
    u, v = alone(tokens[i, 0], first), alone(tokens[i, 1], second)
    x = np.concatenate([u, v, u * v, u - v])
    for name, function in (("head_dense", np.tanh), ("head_out", np.array)):
      x = function(x @ params[name]["kernel"] + params[name]["bias"])
    np.testing.assert_allclose(got[i], x, rtol=2e-4, atol=2e-4)


def test_weights_are_shared_and_products_are_counted(task, variables):
  m = task.model.embed_dim
  single = models.Classifier(task.model, C)
  wanted = jax.eval_shape(single.init, jax.random.key(0), np.zeros((1, 8), int))
  count = models.num_parameters
  added = count(variables["params"]) - count(wanted["params"])
  assert added == 3 * m * m
  tokens, mask = some_pairs(task, [(9, 32)] * B)
  jaxpr = jax.make_jaxpr(task.module().apply)(variables, tokens, mask).jaxpr
  assert B * task.flops() == test_flops.jaxpr_flops(jaxpr)


@pytest.mark.parametrize("length", [8, 12, 32])
def test_each_text_is_cut_alone(task, corpus, length):
  short = dataclasses.replace(task, length=length)
  special = corpus.special
  rows = corpus.train
  lost = []
  for i in range(len(rows)):
    record = rows[i]
    row = short.example(record, None, corpus)
    assert row["tokens"].shape == row["mask"].shape == (2, length)
    for tower, name in enumerate(("text", "pair")):
      real = row["tokens"][tower][row["mask"][tower]]
      kept = record[name][: length - 2]
      np.testing.assert_array_equal(real, [special.bos, *kept, special.eos])
    sizes = len(record["text"]) + 2, len(record["pair"]) + 2
    assert rows.sizes(special)[i] == max(sizes)
    lost.append(max(sizes) > length)
  whole = corpus.train.sequence_length
  rows.sequence_length = length
  np.testing.assert_array_equal(rows.too_long(special), lost)
  rows.sequence_length = whole


@pytest.mark.parametrize("buckets", [0, 3])
def test_batches_have_both_texts_at_any_length(task, corpus, buckets):
  iterator = pipeline.train_iterator(corpus, task, 0, 8, buckets=buckets)
  batches = [next(iterator) for _ in range(6)]
  lengths = {batch["tokens"].shape[-1] for batch in batches}
  assert lengths == ({8, 16, 32} & lengths if buckets else {32})
  assert len(lengths) > 1 or not buckets
  for batch in batches:
    shape = 8, 2, batch["tokens"].shape[-1]
    assert batch["tokens"].shape == batch["mask"].shape == shape
    assert batch["mask"][..., 0].all()


@pytest.mark.slow
def test_a_run_matches_words_and_predicts(tmp_path, command):
  """The label is told by the second text alone, which a first tower misses."""
  rng = np.random.default_rng(0)
  for name, size in (("train", 400), ("held", 80)):
    rows = [
      {"text": f"query {i % 7}", "text_pair": f"{w} page", "label": w}
      for i, w in enumerate(rng.choice(["yes", "no"], size).tolist())
    ]
    labeled.save(tmp_path / f"{name}.jsonl", rows)
  words = (
    "--config=tests/tiny_finetune.py", *runs.QUICK_FLAGS,
    "--config.task.num_classes=2", "--config.data.separate_pairs=True",
    "--config.data.files={tmp}/train.jsonl",
    "--config.data.validation_files={tmp}/held.jsonl",
    "--config.train.num_steps=60", "--workdir={tmp}/run",
  )  # fmt: skip
  status, _, error = command("train", *words)
  assert status == 2 and "set data.separate_pairs=False" in error
  assert not (tmp_path / "run").exists()
  status, out, error = command(
    "train", *words, "--config.task.name=matching",
    "--config.data.length_buckets=2",
  )  # fmt: skip
  assert status == 0, error
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert result["accuracy"] > 0.9
  labels = "no", "yes"
  rows = [{"text": "query 3", "text_pair": f"{w} page"} for w in labels]
  labeled.save(tmp_path / "in.jsonl", rows)
  given = (
    "--workdir={tmp}/run",
    "--input={tmp}/in.jsonl",
    "--to={tmp}/o.jsonl",
  )
  status, out, error = command("predict", *given)
  assert status == 0, error
  lines = (tmp_path / "o.jsonl").read_text().splitlines()
  assert [json.loads(line)["label"] for line in lines] == ["no", "yes"]
  exported = ("--workdir={tmp}/run", "--to={tmp}/exported")
  status, out, error = command("export", *exported)
  assert status == 0, error
  one, other = (
    predict.Predictor(loading.load(str(tmp_path / name)))
    for name in ("run", "exported")
  )
  pairs = [predict.Row("query 1", "yes page"), predict.Row("a", "no page")]
  np.testing.assert_array_equal(one.outputs(pairs), other.outputs(pairs))
  with pytest.raises(ValueError, match="no second text"):
    one.outputs([predict.Row("query 1", "", "row 0")])


def test_data_of_another_task_is_refused(config, task, corpus, tmp_path):
  other = tasks.create(test_tasks.config_of("classification"), task.model)
  with pytest.raises(ValueError, match="True.*one row.*separate_pairs=False"):
    other.floor(corpus, ())
  config = config.copy_and_resolve_references()
  config.data.separate_pairs = False
  with pytest.raises(ValueError, match="False.*two rows.*separate_pairs=True"):
    task.floor(test_tasks.data_of(config), ())
  path = labeled.write(tmp_path / "alone.jsonl")
  config.data.separate_pairs, config.data.files = True, str(path)
  with pytest.raises(ValueError, match="training row 0 has no second text"):
    task.floor(test_tasks.data_of(config), ())
  with pytest.raises(ValueError, match="has no pairs: leave"):
    config.data.source = "sotu"
    config.data.files = ""
    test_tasks.data_of(config)
  with pytest.raises(ValueError, match="is not from 2"):
    matching.Config(1)
