"""Tasks: batches as their specs say, exact metrics, and no look ahead."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models, step, tasks
from linformer_jax.data import pipeline
from linformer_jax.tasks import language
from tests import arrays, labeled, tiny

V, N, B = 300, 12, 3
# Every task: its config group, and an attention that it allows.
GROUPS = {
  "masked_lm": ({"mask_rate": 0.15, "mask_span": 1}, "linformer"),
  "causal_lm": ({}, "softmax"),
  "classification": ({"num_classes": 3, "metric": "accuracy"}, "linformer"),
  "regression": ({}, "linformer"),
  "matching": ({"num_classes": 3, "metric": "accuracy"}, "linformer"),
}


def config_of(name, names=None):
  fields, allowed = GROUPS[name]
  config = tiny.get_config(names or allowed)
  with config.unlocked():
    config.task = {"name": name} | fields
    config.data.separate_pairs = name == "matching"
  return config


def data_of(config):
  return pipeline.prepare(pipeline.DataConfig(**config.data.to_dict()))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
  """Data for each task by its name."""
  text = data_of(config_of("masked_lm"))
  folder = tmp_path_factory.mktemp("labeled")
  config = config_of("classification")
  config.data.source = "labeled"
  config.data.files = str(labeled.write(folder / "a.jsonl"))
  found = dict.fromkeys(("masked_lm", "causal_lm"), text)
  found["classification"] = data_of(config)
  rows = [{"text": f"one {i}", "label": i / 4} for i in range(90)]
  path = folder / "b.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  config.data.files = str(path)
  found["regression"] = data_of(config)
  config = config_of("matching")
  config.data.source = "labeled"
  config.data.files = str(labeled.write(folder / "c.jsonl", pair=True))
  return found | {"matching": data_of(config)}


@pytest.fixture
def corpus(corpora):
  return corpora["masked_lm"]


@pytest.mark.parametrize("name", tasks.TASKS)
def test_rows_are_as_the_spec_says(name, corpora):
  task, corpus = step.task_of(config_of(name)), corpora[name]
  spec = task.spec(masked=True)
  assert spec.keys() - task.spec(masked=False).keys() == {"mask"}
  (*_, last) = pipeline.validation_batches(corpus, task, 64)
  train = next(pipeline.train_iterator(corpus, task, 0, 8))
  assert train.keys() == task.spec(masked=task.short).keys()
  assert last.keys() == spec.keys()
  for batch in (train, last):
    for field, rows in batch.items():
      assert rows.shape[1:] == spec[field].shape, field
      assert rows.dtype == spec[field].dtype, field
      assert len(spec[field].axes) == rows.ndim - 1


@pytest.mark.parametrize("name", tasks.TASKS)
def test_the_floor_is_finite_and_fillers_weigh_nothing(name, corpora):
  task, corpus = step.task_of(config_of(name)), corpora[name]
  state = jax.jit(task.module().init)(jax.random.key(0), *task.init_arguments())
  row = {name: x[None] for name, x in task.filler().items()}
  sums = jax.device_get(jax.jit(task.sums)(state, row))
  assert all(value == 0 for value in sums.values())
  whole = pipeline.validation_batches(corpus, task, 64)
  low, high = (1, V) if task.scale == "log" else (0.2, 0.9)
  if name == "regression":  # A constant correlates with nothing.
    assert task.floor(corpus, whole) == 0
  else:
    assert low < task.floor(corpus, whole) < high


def test_a_causal_batch_predicts_the_next_token(corpus):
  task = step.task_of(config_of("causal_lm"))
  block = corpus.validation[len(corpus.validation) - 1]  # with padding
  row = task.example(block, None, corpus)
  real = int(block["mask"].sum())
  assert 1 < real < len(block["mask"])
  np.testing.assert_array_equal(
    row["targets"][: real - 1], block["tokens"][1:real]
  )
  assert row["weights"].sum() == real - 1
  assert not row["weights"][real - 1 :].any()


CAUSAL = {
  "post": ([attention.SoftmaxConfig()], dict(norm_position="post")),
  "pre": ([attention.SoftmaxConfig()], dict(norm_position="pre")),
  "local": (
    [attention.LocalConfig(window=2), attention.SoftmaxConfig()],
    dict(query_block=5),
  ),
}


@pytest.mark.parametrize("case", CAUSAL)
def test_no_causal_logit_depends_on_a_later_token(case):
  layers, changes = CAUSAL[case]
  config = models.ModelConfig(29, N, 2, 8, 2, 16, layers, **changes)
  encoder = models.TokenEncoder(config, causal=True)
  tokens = np.random.default_rng(0).integers(0, 29, (B, N))
  variables = arrays.filled(encoder, tokens)

  @jax.jit
  def run(tokens):
    return encoder.apply(variables, tokens)

  out = run(tokens)
  for i in (1, 5, N - 1):
    other = tokens.copy()
    other[:, i:] = (other[:, i:] + 1) % 29
    changed = run(other)
    np.testing.assert_array_equal(out[:, :i], changed[:, :i])
    assert (np.abs(out[:, i:] - changed[:, i:]).max(axis=-1) > 0).all()
  # A short input alone equals the same padded and masked.
  mask = np.arange(N) < np.full((B, 1), 7)
  masked = encoder.apply(variables, tokens, mask)
  alone = encoder.apply(variables, tokens[:, :7])
  np.testing.assert_allclose(masked[:, :7], alone, atol=1e-5)


def test_a_causal_gradient_reaches_no_later_row():
  module = attention.SoftmaxSelfAttention(2, causal=True)
  x = arrays.draw(1, N, 8)
  variables = arrays.filled(module, x)

  def jacobian_of(module):
    return jax.jit(
      jax.jacobian(lambda x: module.apply(variables, x)[0].sum(-1))
    )(x)

  jacobian = jacobian_of(module)
  reached = np.abs(jacobian[:, 0]).max(axis=-1)  # [N outputs, N inputs]
  np.testing.assert_array_equal(reached > 0, np.tri(N, dtype=bool))
  blocks = dataclasses.replace(module, query_block=5)
  again = jacobian_of(blocks)
  np.testing.assert_allclose(again, jacobian, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(again == 0, jacobian == 0)
  other = dataclasses.replace(module, implementation="flash")
  with pytest.raises(ValueError, match="causal True is not supported"):
    other.apply(variables, x)
  with pytest.raises(ValueError, match="attention to itself"):
    module.apply(variables, x, x)


def test_what_no_task_is_refused():
  for names in ("linformer", "linear+linformer", "softmax+linformer"):
    with pytest.raises(ValueError, match="not causal.*choose .* 'softmax'"):
      step.abstract_shapes(config_of("causal_lm", names))
  config = config_of("masked_lm")
  config.task.name = "causal_lm"
  with pytest.raises(ValueError, match="has no field task.mask_rate"):
    step.task_of(config)
  config.task.name = "nothing"
  with pytest.raises(ValueError, match="'nothing' is not one of masked_lm"):
    step.task_of(config)


def test_metrics_are_of_sums_and_perplexity_is_not_clipped():
  got = language.metrics({"loss": 30.0, "correct": 3.0, "weight": 4.0})
  assert got == {"loss": 7.5, "perplexity": math.exp(7.5), "accuracy": 0.75}
  large = language.metrics({"loss": 400.0, "correct": 0, "weight": 2})
  assert large["perplexity"] == math.exp(200)
  huge = language.metrics({"loss": 4000.0, "correct": 0, "weight": 2})
  assert huge["perplexity"] == math.inf


def test_token_sums_by_hand():
  logits = jnp.log(jnp.array([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]]))
  targets, weights = np.array([[1, 2]]), np.array([[1.0, 0.5]])
  sums = language.token_sums(logits, targets, weights)
  assert sums["loss"] == pytest.approx(-math.log(0.3) - 0.5 * math.log(0.8))
  assert sums["correct"] == 0.5 and sums["weight"] == 1.5


def test_unigram_perplexity_by_hand():
  counts = np.array([0, 3, 1])
  batches = [
    {"targets": np.array([[1, 2]]), "weights": np.array([[1.0, 1.0]])},
    {"targets": np.array([[0, 0]]), "weights": np.array([[1.0, 0.0]])},
  ]
  # Probabilities 4/7, 2/7 and 1/7, once each; the last target weighs 0.
  expected = (4 / 7 * 2 / 7 * 1 / 7) ** (-1 / 3)
  actual = language.unigram_perplexity(counts, batches)
  assert actual == pytest.approx(expected, rel=1e-12)
  with pytest.raises(ValueError, match="nothing to score"):
    language.unigram_perplexity(counts, [])
