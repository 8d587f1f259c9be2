"""Batches of like length: the same rows and sums, with less padding."""

import itertools
import signal

import jax
import numpy as np
import pytest

from linformer_jax import loading, train
from linformer_jax.data import buckets, pipeline
from linformer_jax.run import preemption, workdir
from tests import labeled, runs, tiny_finetune

N, BATCH, ROWS = 32, 8, 53
# Sums of float32 in another order.
CLOSE = dict(rtol=2e-5)


def config_of(folder, number=3, **changes):
  path = labeled.write(folder / "train.jsonl", 60, pair=True)
  held = labeled.write(folder / "held.jsonl", 21, seed=1)
  config = tiny_finetune.get_config()
  fields = runs.QUICK | {
    "data.files": str(path),
    "data.validation_files": str(held),
    "data.length_buckets": number,
    "train.num_steps": 9,
    "run.eval_batch_size": BATCH,
    "run.eval_every_steps": 4,
    "run.checkpoint_every_steps": 4,
  }
  config.update_from_flattened_dict(fields | changes)
  return config


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
  return train.build(config_of(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def state(experiment):
  return experiment.steps.init()


def batches(experiment, count, start=0, number=3, **kwargs):
  iterator = pipeline.train_iterator(
    experiment.corpus, experiment.steps.task, 0, BATCH, buckets=number, **kwargs
  )
  iterator.set_state({"next_index": start})
  found = list(itertools.islice(iterator, count))
  assert iterator.get_state() == {"next_index": start + count}
  iterator.close()
  return found


def assert_same(actual, expected):
  for one, other in zip(actual, expected, strict=True):
    runs.assert_same_bits(one, other)


def real_rows(found):
  """The tokens of rows that weigh, without padding, with their labels."""
  return sorted(
    (*tokens[mask].tolist(), int(label))
    for batch in found
    for tokens, mask, label, weight in zip(
      *(batch[k] for k in ("tokens", "mask", "label", "weight")), strict=True
    )
    if weight
  )


def test_every_epoch_has_each_row_once(experiment):
  per_epoch = -(-len(experiment.corpus.train) // BATCH)
  task, data = experiment.steps.task, experiment.corpus
  rows = [
    task.example(data.train[i], None, data) for i in range(len(data.train))
  ]
  want = real_rows([{k: np.stack([r[k] for r in rows]) for k in rows[0]}])
  orders, together = set(), set()
  for epoch in range(3):
    found = batches(experiment, per_epoch, epoch * per_epoch)
    assert real_rows(found) == want
    orders.add(tuple(b["tokens"].shape[1] for b in found))
    together.add(frozenset(tuple(real_rows([b])) for b in found))
  assert len(together) == 3  # other rows share a batch
  assert len(orders) > 1


def test_a_batch_is_as_long_as_its_longest_row(experiment):
  found = batches(experiment, 20)
  for batch in found:
    assert {x.shape[0] for x in batch.values()} == {BATCH}
    longest = batch["mask"].sum(1).max()
    length = batch["tokens"].shape[1]
    assert length in (8, 16, N) and longest <= length
    assert length == 8 or longest > length // 2
  assert len({b["tokens"].shape for b in found}) > 1


@pytest.mark.parametrize("processes", [2, 4, BATCH])
def test_any_number_of_processes_and_threads_sees_the_same(
  experiment, processes
):
  """And resuming at a batch gives the batches from there."""
  whole = batches(experiment, 20)
  parts = [
    batches(experiment, 20, process_index=i, process_count=processes)
    for i in range(processes)
  ]
  joined = [
    {k: np.concatenate([part[k] for part in x]) for k in x[0]}
    for x in zip(*parts, strict=True)
  ]
  assert_same(joined, whole)
  assert_same(batches(experiment, 13, start=7, num_threads=4), whole[7:])


def sums(experiment, state, number):
  total, padded = {}, 0
  for batch in pipeline.validation_batches(
    experiment.corpus, experiment.steps.task, BATCH, buckets=number
  ):
    padded += batch["tokens"].size
    found = experiment.steps.evaluate(state, experiment.steps.place(batch))
    for name, value in jax.device_get(found).items():
      total[name] = total.get(name, 0) + value
  return total, padded


def test_validation_has_the_same_sums(experiment, state):
  """A short row of Linformer's attention is that row padded and masked."""
  want, all_padded = sums(experiment, state, 0)
  got, padded = sums(experiment, state, 3)
  assert padded < 0.8 * all_padded
  assert want["weight"] == got["weight"] == len(experiment.corpus.validation)
  for name in want:
    np.testing.assert_allclose(got[name], want[name], **CLOSE)


@pytest.mark.slow
def test_an_update_has_the_same_gradient(experiment):
  """Of a batch, and of the same batch padded to N."""
  steps = experiment.steps
  batch = next(b for b in batches(experiment, 9) if b["tokens"].shape[1] == 16)
  more = [(0, 0), (0, N - 16)]
  longer = batch | {k: np.pad(batch[k], more) for k in ("tokens", "mask")}
  found = [
    jax.device_get(steps.train(steps.init(), steps.place(rows))[1])
    for rows in (batch, longer)
  ]
  for name in found[0]:
    np.testing.assert_allclose(found[0][name], found[1][name], **CLOSE)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit(experiment, tmp_path, at):
  folders = tmp_path / "whole", tmp_path / "stopped"

  def trained(folder):
    with workdir.claim(folder, experiment.config, experiment.corpus):
      return train.train_and_evaluate(experiment, folder)

  result = trained(folders[0])
  at(6, runs.send(signal.SIGTERM))
  with pytest.raises(preemption.Interrupted):
    trained(folders[1])
  trained(folders[1])
  runs.assert_same_run(folders[1], folders[0], experiment)
  # Speed is that of the tokens that were computed.
  sizes = [b["tokens"].size for b in batches(experiment, 9)]
  assert result["tokens"] == sum(sizes) < 9 * BATCH * N
  rate = result["tokens_per_second"] * result["busy_seconds"]
  assert rate == pytest.approx(sum(sizes))
  assert loading.load(str(folders[0])).config.data.length_buckets == 3


# SST-2 has phrases and sentences. We take their tokens to be few, 15 on average
# with special tokens, and to have a long tail.
def sst2(rows):
  draw = np.random.default_rng(0).lognormal(2.4, 0.6, rows)
  return 2 + np.maximum(1, draw.round()).astype(int)


@pytest.mark.parametrize(
  "length, number, without, within, fewer",
  [(128, 4, 0.88, 0.34, 5.6), (512, 6, 0.97, 0.34, 22.3)],
)
def test_padding_that_is_saved(length, number, without, within, fewer):
  """The share of padding among tokens, of rows as short as SST-2's."""
  sizes = sst2(20_000)
  divide = buckets.in_buckets(sizes, 32, length, number)
  found = divide(np.random.default_rng(0))
  computed = sum(long * len(rows) for long, rows in found)
  real = np.minimum(sizes, length).sum()
  assert 1 - real / (length * len(sizes)) == pytest.approx(without, abs=0.005)
  assert 1 - real / computed == pytest.approx(within, abs=0.005)
  assert length * len(sizes) / computed == pytest.approx(fewer, abs=0.05)


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("data.length_buckets", 9, "32 down to 1: at least 8"),
    ("data.length_buckets", -1, "data.length_buckets -1"),
    ("data.source", "synthetic", "data.length_buckets is for source 'labeled'"),
  ],
)
def test_bad_values_are_one_line(tmp_path, field, value, message):
  with pytest.raises(ValueError, match=message) as error:
    changes = {field: value} | (
      {"data.files": "", "data.validation_files": ""}
      if field == "data.source"
      else {}
    )
    train.build(config_of(tmp_path, **changes))
  assert "\n" not in str(error.value)
