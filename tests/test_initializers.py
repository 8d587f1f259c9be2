"""Starting values: what heads see at the first update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax.attention import initializers as starts
from linformer_jax.attention import projection
from linformer_jax.models import initializers

KEY = jax.random.key(0)
ZERO = jax.nn.initializers.zeros


@pytest.mark.parametrize("heads, k, n", [(4, 8, 16), (4, 4, 16), (3, 6, 6)])
def test_strided_heads_see_rows_unmixed_and_all_of_them_together(heads, k, n):
  matrix = np.asarray(starts.strided(0.0)(KEY, (heads, k, n)))
  np.testing.assert_array_equal(matrix.sum(2), 1)  # one row a slot
  np.testing.assert_array_equal(np.unique(matrix), [0, 1][: 2 if n > 1 else 1])
  seen = matrix.sum((0, 1)) > 0
  window = n // k
  assert seen.all() == (heads >= window)
  rows = np.arange(n)
  for h in range(heads):
    np.testing.assert_array_equal(
      matrix[h] @ rows, np.arange(k) * window + h % window
    )


def test_strided_without_heads_takes_the_first_of_each_window():
  matrix = np.asarray(starts.strided(0.0)(KEY, (4, 8)))
  np.testing.assert_array_equal(matrix @ np.arange(8), [0, 2, 4, 6])


@pytest.mark.parametrize("start", ["strided", "window_mean"])
def test_noise_has_the_spread_that_is_asked_for(start):
  init = getattr(starts, start)
  noise = init(0.1)(KEY, (4, 64, 128)) - init(0.0)(KEY, (4, 64, 128))
  # The deviation of a sample's standard deviation is std / sqrt(2 size).
  error = 0.1 / np.sqrt(2 * noise.size)
  assert abs(float(jnp.std(noise)) - 0.1) < 5 * error


def test_window_mean_averages_neighbours():
  matrix = np.asarray(starts.window_mean(0.0)(KEY, (3, 6)))
  np.testing.assert_allclose(matrix @ np.arange(6.0), [0.5, 2.5, 4.5])


def test_window_means_of_heads_are_shifted():
  matrix = np.asarray(starts.window_mean(0.0)(KEY, (2, 3, 12)))
  np.testing.assert_allclose(matrix.sum(2), 1, rtol=1e-6)  # means
  assert ((matrix > 0).sum(1) == 1).all()  # each row in one slot of a head
  np.testing.assert_allclose(matrix[0] @ np.arange(12.0), [1.5, 5.5, 9.5])
  # 0 to 1, 2 to 5, 6 to 11.
  np.testing.assert_allclose(matrix[1] @ np.arange(12.0), [0.5, 3.5, 8.5])


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_no_two_heads_mix_the_same_rows(k):
  heads, n = 4, 40
  matrix = np.asarray(starts.window_mean(0.0)(KEY, (heads, k, n)))
  np.testing.assert_allclose(matrix.sum(2), 1, rtol=1e-6)
  slots = {tuple(matrix[h].argmax(0)) for h in range(heads)}
  assert len(slots) == (1 if k == 1 else heads)


@pytest.mark.parametrize("heads", [0, 5])
def test_kernels_of_a_convolution_start_as_the_mean_or_a_row(heads):
  """As the same start of E does, from windows in step."""
  n, k, d = 12, 4, 3
  axes = (heads,) if heads else ()
  x = jax.random.normal(KEY, (2, n, heads or 2, d))

  def projected(kind, init, shape):
    weights = init(KEY, (*axes, *shape))
    one = projection.Projection(kind, n, k, weights)
    return projection.project_sequence(x, one)[0]

  kernel, matrix = (n // k, d, d), (k, n)
  mean = projected("convolution", starts.mean_kernel(0.0), kernel)
  pooled = projection.Projection("mean_pool", n, k)
  expected = projection.project_sequence(x, pooled)[0]
  np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)
  picked = projected("convolution", starts.strided_kernel(0.0), kernel)
  expected = projected("linear", starts.strided(0.0), matrix)
  np.testing.assert_allclose(picked, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("init", [starts.mean_kernel, starts.strided_kernel])
def test_kernels_have_the_noise_that_is_asked_for(init):
  shape = (4, 8, 16, 16)
  noise = np.asarray(init(0.1)(KEY, shape) - init(0.0)(KEY, shape))
  error = 0.1 / np.sqrt(2 * noise.size)
  assert abs(noise.std() - 0.1) < 5 * error


def test_tokens_leave_features_to_positions():
  tokens = initializers.tokens_apart(1.0, 8)(KEY, (50, 32))
  rates = initializers.frequencies(8, 32, 50)
  positions = initializers.positions_apart(1.0, rates)(KEY, (50, 32))
  np.testing.assert_array_equal(np.asarray(tokens * positions), 0)
  assert float(jnp.abs(tokens[:, :24]).min()) > 0
  squares = jnp.mean(jnp.square(positions[:, 24:]), axis=1)
  np.testing.assert_allclose(squares, 1.0, rtol=1e-5)  # cos^2 + sin^2 = 1


@pytest.mark.parametrize(
  "head_dim,dims,length",
  [(8, 16, 24), (16, 16, 24), (32, 16, 24), (32, 32, 1_024), (32, 64, 512)],
)
def test_a_head_looks_at_its_offset_from_everywhere(head_dim, dims, length):
  """argmax_j of q_i k_j is i + offset, for tokens whatever they are."""
  heads = 4
  width = heads * head_dim
  offsets = initializers.head_offsets(heads, window=1)
  np.testing.assert_array_equal(offsets, [-1, 1, -2, 2])
  rates = initializers.frequencies(dims, head_dim, length)
  positions = initializers.positions_apart(1.0, rates)(KEY, (length, width))
  x = positions + initializers.tokens_apart(5.0, dims)(KEY, (length, width))

  def read(offsets):
    init = initializers.neighbour_heads(offsets, rates, 1.0, ZERO)
    kernel = init(KEY, (width, heads * head_dim))
    return (x @ kernel).reshape(length, heads, head_dim)

  scores = jnp.einsum("ihd,jhd->hij", read(np.zeros(heads, int)), read(offsets))
  for h, offset in enumerate(offsets):
    here = np.arange(max(0, -offset), min(length, length - offset))
    best = np.asarray(jnp.argmax(scores[h], axis=1))
    np.testing.assert_array_equal(best[here], here + offset)


@pytest.mark.parametrize("head_dim,dims", [(32, 32), (64, 64), (32, 64)])
@pytest.mark.parametrize("length", [128, 512, 1_024, 4_096])
def test_no_row_far_away_looks_like_a_neighbor(head_dim, dims, length):
  """The mean of cos(w d) over a head's w is below 0.7 for all d beyond 2.

  It is 1 at d = 0. With linear spacing it comes back to 1 at every multiple of
  its period, 4 * 32 = 128 rows for 32 features.
  """
  rates = initializers.frequencies(dims, head_dim, length)
  apart = np.arange(3, length - 2)
  stride = len(rates) // (min(head_dim, dims) // 2)
  for head in range(stride):
    scores = np.cos(apart[:, None] * rates[head::stride]).mean(1)
    assert scores.max() < 0.7


def test_frequencies_are_linear_within_their_period():
  linear = np.pi / 2 * (np.arange(16) + 0.5) / 16
  np.testing.assert_array_equal(initializers.frequencies(32, 32, 128), linear)
  assert (initializers.frequencies(32, 32, 129) != linear).any()


def test_offsets_repeat_where_a_head_sees_every_second_row():
  np.testing.assert_array_equal(
    initializers.head_offsets(8, window=2), [-1, -1, 1, 1, -2, -2, 2, 2]
  )


def test_sinusoidal_has_the_spread_that_is_asked_for():
  table = np.asarray(initializers.sinusoidal(0.5)(KEY, (512, 64)))
  np.testing.assert_allclose(np.sqrt(np.mean(table**2)), 0.5, rtol=1e-5)
