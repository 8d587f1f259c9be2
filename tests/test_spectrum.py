"""Singular values: what they are of matrices that are known, and of a model."""

import dataclasses
import io

import jax
import matplotlib.image
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.models import weights as weights_lib
from linformer_jax.run import metrics
from linformer_jax.tools import spectrum
from tests import arrays, bert

B, N = 2, bert.N
TOKENS = np.random.default_rng(0).integers(0, bert.V, (B, N))


def orthogonal(size, seed):
  return np.linalg.qr(arrays.draw(size, size, seed=seed))[0]


def close(got, want, size):
  """LAPACK's singular values err by a modest multiple of eps sigma_1.

  The multiple is below the size; the sum of j of them errs by j times that, and
  so does the sum of all, which divides it and is at least sigma_1.
  """
  bound = 2 * size * size * arrays.EPS
  np.testing.assert_allclose(got, want, rtol=0, atol=bound)


def test_known_singular_values():
  values = np.float32([4, 2, 1, 0.5, 0.5, 0])
  matrix = orthogonal(6, 0) * values @ orthogonal(6, 1)
  want = np.cumsum(values) / 8
  close(spectrum.cumulative(matrix), want, 6)
  close(spectrum.cumulative(matrix.T), want, 6)
  close(spectrum.cumulative(matrix[::-1]), want, 6)
  close(spectrum.cumulative(3 * matrix), want, 6)
  close(
    spectrum.cumulative((orthogonal(6, 0) * values)[:, :4]),
    want[:4] / want[3],
    6,
  )


def test_from_each_to_its_own_and_from_all_to_all():
  """The identity has the flattest spectrum, the uniform matrix rank one."""
  both = np.stack([np.eye(8), np.full((8, 8), 1 / 8)]).astype(np.float32)
  got = spectrum.cumulative(both)
  close(got, [np.arange(1, 9) / 8, np.ones(8)], 8)


def test_small_singular_values_are_not_lost():
  """Sixty of 2^-16 beside a one. Of P^T P in float32 they would be noise."""
  values = np.full(61, 2.0**-16, np.float32)
  values[0] = 1
  matrix = orthogonal(61, 0) * values @ orthogonal(61, 1)
  got = np.asarray(spectrum.cumulative(matrix))
  rest = 60 * 2.0**-16
  # Each of the sixty errs by eps or so, a tenth of a percent of itself times
  # the modest multiple.
  assert 1 - got[0] == pytest.approx(rest / (1 + rest), rel=0.05)


@pytest.fixture(scope="module")
def imported():
  weights = bert.tensors()
  return weights, *weights_lib.convert(weights, bert.H)


def test_attention_is_that_of_bert(imported):
  weights, config, variables = imported
  _, want = bert.forward(weights, TOKENS, 1e-12)
  got = spectrum.attention(config, variables, TOKENS)
  assert len(got) == bert.L
  for one, other in zip(got, want, strict=True):
    # Scores err by the sums they went through, in eps of the largest, and a
    # weight by twice that: by its own score and by the sum it is divided by.
    scale = 2 * np.ptp(np.log(other))
    bound = sum(bert.LENGTHS) * arrays.EPS * scale
    np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def test_curves_are_those_of_numpy(imported):
  """[B, L, H, N]; layers and heads differ, so that their order shows."""
  _, config, variables = imported
  got = spectrum.curves(config, variables, TOKENS)
  matrices = spectrum.attention(config, variables, TOKENS)
  matrices = np.stack(matrices, 1).astype(np.float64)
  values = np.linalg.svd(matrices, compute_uv=False)
  want = np.cumsum(values, -1) / values.sum(-1, keepdims=True)
  close(got, want, N)
  for axis in range(3):
    assert np.ptp(want, axis=axis).max() > 0.01


WHOLE = attention.LinformerConfig(projected_length=N, sharing="none")
SMALL = models.ModelConfig(bert.V, N, 3, bert.M, bert.H, bert.F, WHOLE)


def encoder(config):
  return arrays.filled(models.TokenEncoder(config), TOKENS)


@pytest.mark.parametrize(
  "kind",
  [
    attention.SoftmaxConfig(implementation="flash"),
    dataclasses.replace(WHOLE, projected_lengths=(6, 6, 4)),
  ],
)
def test_a_loop_of_layers_is_opened(kind):
  """Loops, with query blocks and recomputation: the same function."""
  config = dataclasses.replace(SMALL, attention=kind, query_block=4, remat=True)
  variables = encoder(config)
  plain, opened = spectrum.layer_by_layer(config, variables)
  assert not plain.scan_layers
  lengths = (3 * bert.M,) + 3 * bert.LENGTHS[1:9]
  want = models.TokenEncoder(config).apply(variables, TOKENS)
  out = models.TokenEncoder(plain).apply(opened, TOKENS)
  arrays.close(out, want, *lengths)
  got = spectrum.attention(config, variables, TOKENS)
  sizes = (N, N, N) if kind.name == "softmax" else (6, 6, 4)
  assert [p.shape for p in got] == [(B, bert.H, N, k) for k in sizes]
  for p in got:
    np.testing.assert_allclose(p.sum(-1), 1, rtol=0, atol=N * arrays.EPS)
  if kind.name == "linformer":
    with pytest.raises(ValueError, match="6, 6, 4"):
      spectrum.curves(config, variables, TOKENS)


def test_with_all_slots_unmixed_linformer_has_the_matrices_of_softmax():
  variables = jax.device_get(encoder(SMALL))
  softmax = dataclasses.replace(SMALL, attention=attention.SoftmaxConfig())
  plain = {"params": dict(variables["params"])}
  identity = np.broadcast_to(np.eye(N, dtype=np.float32), (3, bert.H, N, N))
  block = variables["params"]["layers_0"]["block"]
  layers = block["attention"]
  for name in ("key_projection", "value_projection"):
    assert layers[name]["kernel"].shape == identity.shape
    layers[name]["kernel"] = identity
  maps = {name: layers[name] for name in ("query", "key", "value", "out")}
  plain["params"]["layers_0"] = {"block": block | {"attention": maps}}
  got = spectrum.attention(SMALL, variables, TOKENS)
  want = spectrum.attention(softmax, plain, TOKENS)
  for one, other in zip(got, want, strict=True):
    arrays.close(one, other, *3 * bert.LENGTHS)


@pytest.mark.parametrize(
  "kind",
  [
    dataclasses.replace(WHOLE, local_window=1),
    attention.LocalConfig(window=1),
    attention.LinearConfig(),
  ],
)
def test_what_is_not_one_matrix_of_softmax_has_no_spectrum(kind):
  config = dataclasses.replace(SMALL, attention=[kind, WHOLE, WHOLE])
  with pytest.raises(ValueError, match=f"attention {kind.name}.*no matrix"):
    spectrum.attention(config, {}, TOKENS)


def test_moments_are_those_of_all_blocks():
  found = np.random.default_rng(0).random((5, 2, 3, 8)).astype(np.float32)
  moments = spectrum.Moments()
  moments.add(found[:2])
  moments = spectrum.Moments(moments.state())
  moments.add(found[2:])
  whole = spectrum.Moments()
  whole.add(found)
  assert moments.count == 5
  levels = {"heads": found, "layers": found.mean(2), "all": found.mean((1, 2))}
  for name, values in levels.items():
    np.testing.assert_allclose(moments.mean(name), values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.spread(name), values.std(0), rtol=1e-5)
    np.testing.assert_array_equal(moments.mean(name), whole.mean(name))
    np.testing.assert_array_equal(moments.spread(name), whole.spread(name))


def test_the_summary_counts_from_one():
  """At index j is the sum of j of them: a quarter of equal ones hold 1/4."""
  moments = spectrum.Moments()
  moments.add(np.broadcast_to(np.arange(1, 65) / 64, (1, 2, 3, 64)))
  found = spectrum.summary(moments)
  assert found["quarter"] == 16
  assert found["at_quarter"]["all"] == {"mean": 0.25, "spread": 0.0}
  assert found["at_quarter"]["heads"]["mean"] == [[0.25] * 3] * 2
  want = np.round(np.array(found["indices"]) / 64, 5)
  assert found["mean"] == want.tolist()
  assert found["indices"][:3] == [1, 2, 4] and found["indices"][-1] == 64


def test_the_image_reaches_tensorboard(tmp_path):
  from tensorboard.backend.event_processing import event_accumulator

  moments = spectrum.Moments()
  moments.add(np.random.default_rng(0).random((2, 2, 3, 8)))
  found = spectrum.summary(moments)
  image = spectrum.picture(spectrum.draw({"a": found, "b": found}))
  assert image.dtype == np.uint8 and image.shape[-1] == 3
  assert len(np.unique(image)) > 20  # something is drawn
  metrics.Writer(tmp_path).images(7, {"spectrum/a": image})
  reader = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
  (event,) = reader.Tensors("spectrum/a")
  width, height, png = event.tensor_proto.string_val
  assert (int(height), int(width)) == image.shape[:2]
  drawn = matplotlib.image.imread(io.BytesIO(png))
  np.testing.assert_array_equal(np.round(255 * drawn[..., :3]), image)
