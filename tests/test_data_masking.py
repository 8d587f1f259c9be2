"""What masking must hold: exact counts, 80/10/10, its own seed per record."""

import numpy as np
import pytest

from linformer_jax.data import pipeline
from linformer_jax.data.text import masking

SIZE = 50
SPECIAL = [0, 1, 2, 3, 49]
VOCABULARY = masking.vocabulary(SIZE, SPECIAL, mask_id=49)


def block(length=64, real=64):
  """<s>, ordinary tokens with a </s> among them, then padding."""
  tokens = 4 + np.arange(length, dtype=np.int32) % 45
  tokens[0] = 0
  tokens[20] = 2
  tokens[real:] = 1
  return tokens, np.arange(length) < real


def masked(records, length=64, real=64, count=10, span=1):
  tokens, mask = block(length, real)
  return tokens, [
    masking.mask_tokens(
      tokens, mask, pipeline.record_rng(7, 0, record), VOCABULARY, count, span
    )
    for record in range(records)
  ]


def within(observed, trials, probability):
  """Five standard deviations of a binomial: a false alarm in 2 million."""
  deviation = np.sqrt(trials * probability * (1 - probability))
  return abs(observed - trials * probability) <= 5 * deviation


@pytest.mark.parametrize(
  "length, rate, span, expected",
  [
    (128, 0.15, 1, 19),
    (512, 0.15, 1, 77),
    (3, 0.15, 1, 1),
    (128, 0.15, 8, 16),
    (512, 0.15, 8, 80),
    (20, 0.15, 8, 8),
  ],
)
def test_num_predictions(length, rate, span, expected):
  assert masking.num_predictions(length, rate, span) == expected


def test_exactly_p_distinct_ordinary_positions():
  tokens, rows = masked(200)
  for row in rows:
    positions = row["positions"]
    assert (np.diff(positions) > 0).all()
    assert not np.isin(tokens[positions], SPECIAL).any()
    np.testing.assert_array_equal(row["targets"], tokens[positions])
    np.testing.assert_array_equal(row["weights"], np.ones(10))
    untouched = np.delete(np.arange(64), positions)
    np.testing.assert_array_equal(row["tokens"][untouched], tokens[untouched])


def test_shapes_and_dtypes():
  tokens, (row,) = masked(1)
  expected = {
    "tokens": (np.int32, 64),
    "mask": (np.bool_, 64),
    "positions": (np.int32, 10),
    "targets": (np.int32, 10),
    "weights": (np.float32, 10),
  }
  assert {k: (v.dtype.type, len(v)) for k, v in row.items()} == expected
  assert 49 not in tokens  # The input is not written to.


def test_eighty_ten_ten():
  _, rows = masked(3000)
  shown = np.concatenate([row["tokens"][row["positions"]] for row in rows])
  targets = np.concatenate([row["targets"] for row in rows])
  trials = len(targets)
  same = 1 / (SIZE - len(SPECIAL))  # A random token may be the target itself.
  assert within((shown == 49).sum(), trials, 0.8)
  assert within((shown == targets).sum(), trials, 0.1 + 0.1 * same)
  random = shown[(shown != 49) & (shown != targets)]
  assert within(len(random), trials, 0.1 * (1 - same))
  assert not np.isin(random, SPECIAL).any()
  counts = np.bincount(random, minlength=SIZE)
  ordinary = [i for i in range(SIZE) if i not in SPECIAL]
  assert all(within(counts[i], len(random), same) for i in ordinary)


def test_positions_are_uniform():
  tokens, rows = masked(3000)
  counts = np.bincount(
    np.concatenate([row["positions"] for row in rows]), minlength=64
  )
  candidates = np.flatnonzero(~np.isin(tokens, SPECIAL))
  share = 10 / len(candidates)
  assert all(within(counts[i], 3000, share) for i in candidates)


def test_spans_are_runs_of_ordinary_tokens_with_one_fate():
  """Four runs of three; a run passes over a special token, never over another.

  Tokens 19 and 21 are neighbors here, as </s> stands at 20.
  """
  tokens, rows = masked(3000, count=12, span=3)
  candidates = np.flatnonzero(~np.isin(tokens, SPECIAL))
  order = np.full(64, -1)
  order[candidates] = np.arange(len(candidates))
  starts, fates = [], []
  for row in rows:
    positions = row["positions"]
    assert (np.diff(positions) > 0).all() and (row["weights"] == 1).all()
    runs = order[positions].reshape(4, 3)
    assert (np.diff(runs, axis=1) == 1).all() and (runs >= 0).all()
    starts += runs[:, 0].tolist()
    shown = row["tokens"][positions].reshape(4, 3) == 49
    assert (shown.all(1) == shown.any(1)).all()
    fates += shown.all(1).tolist()
  assert within(sum(fates), len(fates), 0.8)
  # Every start is reached, the ends of the block too.
  assert set(starts) == set(range(len(candidates) - 2))


def test_spans_of_a_padded_block_and_of_one_that_is_too_short():
  _, (row,) = masked(1, real=32, count=12, span=3)
  assert row["weights"].tolist() == [1] * 6 + [0] * 6
  _, (row,) = masked(1, real=3, count=12, span=3)  # two ordinary tokens
  assert not row["weights"].any()


def test_a_padded_block_is_masked_in_proportion():
  _, (row,) = masked(1, real=32)
  assert row["weights"].tolist() == [1] * 5 + [0] * 5
  assert (row["positions"][:5] < 32).all()
  assert not row["positions"][5:].any() and not row["targets"][5:].any()


def test_fewer_candidates_than_predictions():
  tokens = np.array([0, 2, 7, 2, 8, 2], dtype=np.int32)
  row = masking.mask_tokens(
    tokens,
    np.ones(6, bool),
    pipeline.record_rng(0, 0, 0),
    VOCABULARY,
    4,
  )
  assert row["positions"].tolist() == [2, 4, 0, 0]
  assert row["weights"].tolist() == [1, 1, 0, 0]
  none = masking.mask_tokens(
    np.array([0, 2], np.int32),
    np.ones(2, bool),
    pipeline.record_rng(0, 0, 0),
    VOCABULARY,
    1,
  )
  assert none["weights"].tolist() == [0]


def test_seed_epoch_and_record_each_have_a_stream():
  draws = {
    pipeline.record_rng(*key).integers(2**63)
    for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32 - 1, 0, 0)]
  }
  assert len(draws) == 5
  again = [pipeline.record_rng(3, 2, 1).random() for _ in range(2)]
  assert again[0] == again[1]


def test_vocabulary_is_checked():
  with pytest.raises(ValueError, match="mask_id 4"):
    masking.vocabulary(10, [0, 1], mask_id=4)
  with pytest.raises(ValueError, match="12.*10"):
    masking.vocabulary(10, [0, 12], mask_id=12)
