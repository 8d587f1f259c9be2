"""Attention cut to a band or a rank, and losses by document."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import documents, text
from experiments.mechanism import cut
from experiments.perplexity import sweep
from linformer_jax import attention, evaluate, models
from linformer_jax.data import pipeline
from tests import runs

N, M, H = 24, 16, 2
EPS = float(np.finfo(np.float32).eps)


def applied(config, x, variables=None):
  """The variables and the output of one attention."""
  sizes = attention.Sizes(embed_dim=M, num_heads=H, max_length=N)
  module = config.module(sizes)
  if variables is None:
    variables = module.init(jax.random.key(0), x)
  return variables, module.apply(variables, x)


@pytest.fixture
def rows():
  return 3 * jax.random.normal(jax.random.key(1), (2, N, M))


@pytest.mark.parametrize("fields", [{}, {"band": N - 1}, {"rank": N}])
def test_a_cut_of_nothing_is_softmax_attention(fields, rows):
  variables, wanted = applied(attention.SoftmaxConfig(), rows)
  _, got = applied(cut.Cut(**fields), rows, variables)
  np.testing.assert_allclose(got, wanted, rtol=0, atol=64 * EPS * 10)


@pytest.mark.parametrize("band", [0, 1, 5])
def test_a_band_is_local_attention(band, rows):
  variables, got = applied(cut.Cut(band=band), rows)
  if band:
    local = attention.LocalConfig(window=band)
    _, wanted = applied(local, rows, variables)
  else:  # each row attends to itself
    values = rows @ variables["params"]["value"]["kernel"]
    wanted = values @ variables["params"]["out"]["kernel"]
  np.testing.assert_allclose(got, wanted, rtol=0, atol=64 * EPS * 10)


@pytest.mark.parametrize("converges", [True, False])
def test_the_rank_is_the_rank_and_no_other_matrix_is_nearer(
  converges, monkeypatch
):
  if not converges:  # as LAPACK's gesdd, at times, near a permutation
    svd = jnp.linalg.svd
    monkeypatch.setattr(
      cut.jnp.linalg,
      "svd",
      lambda *a, **k: tuple(x.at[0].set(jnp.nan) for x in svd(*a, **k)),
    )
  p = jax.nn.softmax(4 * jax.random.normal(jax.random.key(2), (3, N, N)))
  values = np.linalg.svd(np.asarray(p, np.float64), compute_uv=False)
  for rank in (1, 4, N - 1):
    near = np.asarray(cut.low_rank(p, rank), np.float64)
    assert (np.linalg.matrix_rank(near, tol=1e-4) == rank).all()
    error = np.sqrt(((near - p) ** 2).sum((1, 2)))
    # Eckart and Young: the rest of the singular values.
    rest = np.sqrt((values[:, rank:] ** 2).sum(1))
    np.testing.assert_allclose(error, rest, rtol=1e-4, atol=1e-5)


def test_one_layer_is_cut_or_all():
  one = cut.Cut(rank=2)
  assert cut.layers(3, 1, one)[1] is one
  assert [a.name for a in cut.layers(3, 1, one)] == [
    "softmax",
    "cut",
    "softmax",
  ]
  assert cut.layers(3, None, one) == (one,) * 3


def test_a_cut_model_has_the_parameters_of_the_softmax_model():
  config = models.ModelConfig(
    vocab_size=32,
    max_length=N,
    num_layers=2,
    embed_dim=M,
    num_heads=H,
    mlp_dim=M,
    attention=attention.SoftmaxConfig(),
    scan_layers=False,
  )
  tokens = jnp.zeros((1, N), jnp.int32)
  shapes = [
    jax.eval_shape(models.MaskedLM(c).init, jax.random.key(0), tokens)
    for c in (
      config,
      dataclasses.replace(config, attention=cut.layers(2, 0, cut.Cut(band=2))),
    )
  ]
  assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape, *shapes))


def test_each_token_belongs_to_its_document():
  eos = documents.special.TRAINED.eos
  stream = [9, 9, eos, eos, 9, eos]
  assert documents.ends(stream).tolist() == [0, 0, 0, 1, 2, 2]


def test_the_interval_of_a_difference_is_paired():
  rng = np.random.default_rng(0)
  targets = rng.integers(5, 50, 200)
  hard = rng.gamma(2, 1, 200)  # what documents differ by
  base = np.stack([targets * hard, targets], 1)
  other = base + np.stack([targets * 0.1, 0 * targets], 1)
  value, low, high = documents.interval(other, base)
  assert (
    value == pytest.approx(0.1) == documents.nats(other) - documents.nats(base)
  )
  assert high - low < 1e-9  # the difference is the same in each document
  _, low, high = documents.interval(base)
  spread = np.sqrt((targets**2 * (hard - documents.nats(base)) ** 2).sum())
  # 1.96 standard errors of a ratio on either side, to a tenth.
  wanted = 2 * 1.96 * spread / targets.sum()
  assert high - low == pytest.approx(wanted, rel=0.1)
  with pytest.raises(ValueError, match="different targets"):
    documents.interval(base, base[:, ::-1])


def test_a_share_of_every_source_is_held_out(tmp_path):
  for name, count in (("a", 400), ("b", 50)):
    lines = [f"{name} text {i} " + "x" * (i % 7) for i in range(count)]
    lines += lines[:5] + [f"{name} long. " * 1_000]
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": x}) + "\n" for x in lines))
  words = [f"{name}={tmp_path}/{name}.jsonl" for name in "ab"]
  assert text.main([*words, f"--out={tmp_path}/out", "--share=0.1"]) == 0
  made = json.loads((tmp_path / "out" / text.MANIFEST).read_text())
  for name, entry in made["sources"].items():
    parts = {}
    for folder in text.FOLDERS:
      path = tmp_path / "out" / folder / f"{name}.jsonl"
      digest = hashlib.sha256(path.read_bytes()).hexdigest()
      assert digest == entry[folder]["sha256"]
      rows = [json.loads(x)["text"] for x in path.read_text().splitlines()]
      assert len(rows) == entry[folder]["documents"] == len(set(rows))
      assert max(map(len, rows)) <= text.PART
      parts[folder] = sum(len(x.encode()) for x in rows)
      assert parts[folder] == entry[folder]["bytes"]
    whole = sum(parts.values())
    # At least the share, and at most one document more.
    assert 0.1 * whole <= parts["valid"] < 0.1 * whole + text.PART


@pytest.mark.parametrize(
  "words, message",
  [
    (["nothing"], "NAME=GLOBS"),
    (["a=b", "--share=2"], "--share=2.0 is not between 0 and 1"),
  ],
)
def test_wrong_words_are_refused(words, message, capsys):
  with pytest.raises(SystemExit) as error:
    text.main(words)
  assert error.value.code == 2
  assert message in capsys.readouterr().err


def test_a_missing_file_is_one_line(capsys, tmp_path):
  assert text.main([f"a={tmp_path}/none*", f"--out={tmp_path}"]) == 2
  assert capsys.readouterr().err.count("\n") == 1


def test_losses_by_document_add_up_to_the_evaluation():
  experiment = runs.experiment()
  steps, corpus = experiment.steps, experiment.corpus
  state = steps.init()
  batches = pipeline.validation_batches(corpus, steps.task, 4)
  whole = evaluate.evaluate(steps, state, batches)
  variables = {"params": state.params, "constants": state.constants}
  sums = documents.losses(steps.task, variables, corpus, 4)
  ended = np.asarray(corpus.validation.tokens) == documents.special.TRAINED.eos
  assert len(sums) == ended.sum() > 1
  assert sums[:, 1].sum() == whole["eval/targets"]
  assert documents.nats(sums) == pytest.approx(whole["eval/loss"], rel=1e-5)
  half = documents.losses(steps.task, variables, corpus, 4, every=2)
  assert half.shape == sums.shape
  blocks = len(documents.Every(corpus.validation, 2))
  assert half[:, 1].sum() == pytest.approx(
    sums[:, 1].sum() * blocks / len(corpus.validation), rel=0.1
  )


def test_a_run_reads_the_divided_text(tmp_path):
  (tmp_path / "manifest.json").write_text("{}")
  words = sweep.words_of(str(tmp_path))
  assert f"--config.data.files={tmp_path}/train/*.jsonl" in words
  assert f"--config.data.validation_files={tmp_path}/valid/*.jsonl" in words
  assert "--config.data.files=a/*.txt" in sweep.words_of("a/*.txt")
  assert not any("validation" in word for word in sweep.words_of("a/*.txt"))
