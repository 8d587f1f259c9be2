"""Causal Linformer against its definition, in loops; what it may not see."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.attention import projection as projection_lib
from linformer_jax.attention.ops import pyramid as pyramid_lib
from tests import arrays, costs

B, M, H = 2, 8, 2
D = M // H
# Every kind and sharing, block before or not, all slots or a pyramid.
CHOICES = {
  "linear": dict(block_length=4, projected_length=2),
  "one E": dict(block_length=3, projected_length=2, sharing="key_value"),
  "E of each head": dict(
    block_length=5, projected_length=3, sharing="none", previous_block=False
  ),
  "mean_pool": dict(block_length=4, projected_length=2, projection="mean_pool"),
  "max_pool": dict(
    block_length=4,
    projected_length=1,
    projection="max_pool",
    previous_block=False,
  ),
  "convolution": dict(
    block_length=4, projected_length=2, projection="convolution"
  ),
  "adaptive_pool": dict(
    block_length=5, projected_length=2, projection="adaptive_pool"
  ),
  "random": dict(block_length=4, projected_length=2, projection="random"),
  "pyramid": dict(block_length=2, projected_length=2, levels=2, kept_blocks=2),
  "one level": dict(
    block_length=2,
    projected_length=1,
    levels=1,
    kept_blocks=3,
    previous_block=False,
  ),
  "three levels": dict(
    block_length=1,
    projected_length=1,
    levels=3,
    kept_blocks=1,
    projection="mean_pool",
    previous_block=False,
  ),
}


def make(n, **fields):
  config = attention.CausalLinformerConfig(**fields)
  sizes = attention.Sizes(
    embed_dim=M, num_heads=H, max_length=max(n, 1), causal=True
  )
  config.check(sizes)
  module = config.module(sizes)
  x = arrays.draw(B, n, M)
  return config, module, arrays.filled(module, x), x


def shown_groups(done, levels, kept):
  """Lists of blocks, one for each group that is shown, then the older ones."""
  groups, end = [], done  # counted in groups of the level
  for level in range(levels):
    size, first = 2**level, max(0, end - kept)
    if level < levels - 1 and first % 2:
      first -= 1
    groups += [range(size * i, size * (i + 1)) for i in range(first, end)]
    end = first // 2
  return groups, range(first * 2 ** (levels - 1))


def pooled(slots, real, group):
  """r slots of a group of two, four... blocks: means of neighbors, in turn."""
  if len(group) == 1:
    return slots[group[0]], real[group[0]].astype(float)
  half = len(group) // 2
  parts = [pooled(slots, real, part) for part in (group[:half], group[half:])]
  x = np.concatenate([part[0] for part in parts])
  w = np.concatenate([part[1] for part in parts])
  r = len(x) // 2
  total = w.reshape(r, 2).sum(1)
  share = (w.reshape(r, 2) / np.maximum(total, 1)[:, None])[..., None, None]
  return (x.reshape(r, 2, *x.shape[1:]) * share).sum(1), total


def reference(config, module, variables, x, mask):
  """The definition, one query, head and slot at a time, in float64."""

  def rows(module, x):
    dense = [f(x, D) for f in (module.query, module.key, module.value)]
    return *dense, module.e(D), module.f(D)

  q, k, v, e, f = module.apply(variables, x, method=rows)
  q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
  n, b, previous = x.shape[1], config.block_length, config.previous_block
  out = np.zeros_like(q)
  for i in range(B):
    slots = [
      [
        projection_lib.project_sequence(
          jnp.asarray(a[i : i + 1, t : t + b], jnp.float32),
          by,
          mask[i : i + 1, t : t + b],
        )
        for a, by in ((k, e), (v, f))
      ]
      for t in range(0, n - b + 1, b)
    ]
    ks, vs = (
      [np.asarray(s[j][0][0], np.float64) for s in slots] for j in (0, 1)
    )
    real = [np.asarray(s[0][1][0]) for s in slots]
    for row in range(n):
      done = max(row // b - previous, 0)
      keys, values = [], []  # [H, D] of each
      if config.levels:
        groups, older = shown_groups(done, config.levels, config.kept_blocks)
        for group in groups:
          (gk, w), (gv, _) = (pooled(s, real, group) for s in (ks, vs))
          keys += list(gk[w > 0])
          values += list(gv[w > 0])
        w = np.array([real[t][j] for t in older for j in range(len(real[t]))])
        if w.any():
          for s, found in ((ks, keys), (vs, values)):
            every = np.concatenate([s[t] for t in older])
            found.append(every[w].mean(0))
      else:
        for t in range(done):
          keys += list(ks[t][real[t]])
          values += list(vs[t][real[t]])
      near = [j for j in range(done * b, row + 1) if mask[i, j]]
      keys, values = keys + list(k[i, near]), values + list(v[i, near])
      for h in range(H):
        if not keys:
          continue
        scores = np.array([q[i, row, h] @ key[h] for key in keys]) * D**-0.5
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[i, row, h] = weights @ np.array([value[h] for value in values])
  return module.apply(
    variables, out.astype(np.float32), method=lambda module, x: module.out(x)
  )


@pytest.mark.parametrize("name", CHOICES)
def test_it_is_its_definition(name):
  n = 23
  config, module, variables, x = make(n, **CHOICES[name])
  mask = np.ones((B, n), bool)
  mask[0, :7] = False  # padding before
  mask[1] = np.random.default_rng(1).random(n) < 0.7
  got = module.apply(variables, x, None, mask)
  x[~mask] = 0
  want = reference(config, module, variables, x, mask)
  arrays.close(got[mask], want[mask], M, D, n, M, 10)


@pytest.mark.parametrize("name", CHOICES)
def test_no_output_has_a_gradient_to_a_later_row(name):
  """Exactly zero, for random sizes, block boundaries and padding."""
  rng = np.random.default_rng(list(CHOICES).index(name))
  for _ in range(3):
    n = int(rng.integers(1, 20))
    fields = dict(CHOICES[name])
    if fields.get("projection", "linear") in ("linear", "random"):
      fields["block_length"] = int(rng.integers(1, 8))
      fields["projected_length"] = int(
        rng.integers(1, 1 + fields["block_length"])
      )
    _, module, variables, x = make(n, **fields)
    mask = rng.random((B, n)) < rng.choice([0.5, 1.0])

    def scalars(x, variables=variables, module=module, mask=mask):
      out = module.apply(variables, x[None], None, mask[:1])[0]
      return jnp.sin(out).sum(1)

    slopes = np.asarray(jax.jit(jax.jacrev(scalars))(x[0]))  # [N, N, M]
    later = np.triu(np.ones((n, n), bool), 1)
    assert np.all(slopes[later] == 0)
    assert np.all(slopes[:, ~mask[0]] == 0)
    own = np.any(np.diagonal(slopes, axis1=0, axis2=1) != 0, axis=0)
    assert np.all(own[mask[0]])


def test_a_plain_projection_leaks_and_is_refused():
  n = 8
  plain = attention.LinformerConfig(projected_length=4)
  sizes = attention.Sizes(embed_dim=M, num_heads=H, max_length=n)
  module = plain.module(sizes)
  x = arrays.draw(1, n, M)
  variables = arrays.filled(module, x)
  slope = jax.grad(lambda x: module.apply(variables, x)[0, 0].sum())(x)
  assert np.all(np.any(slope[0, 1:] != 0, axis=-1))
  with pytest.raises(ValueError, match="not causal: a row would see later"):
    plain.check(dataclasses.replace(sizes, causal=True))


@pytest.mark.parametrize("previous", [False, True])
def test_an_identity_for_e_is_softmax_attention(previous):
  n, b = 17, 4
  _, module, variables, x = make(
    n, block_length=b, projected_length=b, previous_block=previous
  )
  params = variables["params"]
  for name in ("key_slots", "value_slots"):
    params[name]["kernel"] = np.eye(b, dtype=np.float32)
  exact = attention.SoftmaxSelfAttention(H, causal=True)
  kept = {"params": {k: v for k, v in params.items() if "slots" not in k}}
  mask = np.arange(n) < np.array([[n], [11]])
  got, want = (
    f.apply(v, x, None, mask)[mask]
    for f, v in ((module, variables), (exact, kept))
  )
  arrays.close(got, want, M, D, n, M)


def test_an_input_of_one_block_is_softmax_attention():
  n = 9
  _, module, variables, x = make(n, block_length=16, levels=2)
  kept = {k: v for k, v in variables["params"].items() if "slots" not in k}
  exact = attention.SoftmaxSelfAttention(H, causal=True)
  want = exact.apply({"params": kept}, x)
  arrays.close(module.apply(variables, x), want, M, D, n, M)


def test_a_wide_pyramid_shows_all_slots():
  n = 31
  fields = dict(block_length=3, projected_length=2)
  _, module, variables, x = make(n, **fields)
  _, wide, _, _ = make(n, **fields, levels=1, kept_blocks=n)
  arrays.close(wide.apply(variables, x), module.apply(variables, x), M, D, n, M)


def test_a_pyramid_shows_every_block_once():
  for levels, kept in itertools.product((1, 2, 3, 4), (1, 2, 3, 5)):
    made = pyramid_lib.Pyramid(levels, kept)
    spans, older = jax.device_get(made.spans(jnp.arange(80)))
    assert sum(at.shape[1] for at, _ in spans) == made.groups
    for blocks in range(80):
      groups, before = shown_groups(blocks, levels, kept)
      found = [
        range(2**level * int(i), 2**level * (int(i) + 1))
        for level, (at, seen) in enumerate(spans)
        for i in at[blocks][seen[blocks]]
      ]
      assert found == groups
      assert int(older[blocks]) * 2 ** (levels - 1) == len(before)
      every = sorted([*before, *(t for group in groups for t in group)])
      assert every == list(range(blocks))


@pytest.mark.parametrize("name", CHOICES)
def test_parameters_in_closed_form(name):
  config, _, variables, _ = make(20, **CHOICES[name])
  b, r = config.block_length, config.projected_length
  sizes = {"linear": r * b, "convolution": b // r * D**2}
  count = {"none": 2 * H, "headwise": 2}.get(config.sharing, 1)
  want = 4 * M * (M + 1) + count * sizes.get(config.projection, 0)
  assert models.num_parameters(variables["params"]) == want


@pytest.mark.parametrize(
  "fields",
  [
    dict(block_length=64, projected_length=8),
    dict(block_length=64, projected_length=8, previous_block=False),
    dict(block_length=32, projected_length=2, levels=2, kept_blocks=4),
  ],
)
def test_flops_are_those_of_the_compiler(fields):
  costs.assert_flops(attention.CausalLinformerConfig(**fields), causal=True)


def test_a_pyramid_costs_the_same_for_every_row():
  kind = attention.CausalLinformerConfig(
    block_length=32, projected_length=4, levels=3, kept_blocks=2
  )
  costs.assert_linear(kind, causal=True)


def test_layers_share_one_e():
  kind = attention.CausalLinformerConfig(
    block_length=4, projected_length=2, sharing="layerwise"
  )
  config = models.ModelConfig(9, 16, 2, M, H, 8, attention=kind)
  shapes = jax.eval_shape(
    models.CausalLM(config).init, jax.random.key(0), np.zeros((1, 16), int)
  )["params"]["encoder"]
  assert shapes["slots"]["kernel"].shape == (2, 4)
  assert not [x for x in shapes["layers_0"]["block"]["attention"] if "slo" in x]


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(block_length=0), "block_length 0 must be at least 1"),
    (dict(projected_length=65), "65 must lie between 1 and the max_length 64"),
    (dict(levels=-1), "levels -1 must be at least 0"),
    (dict(kept_blocks=0), "kept_blocks 0 must be at least 1"),
    (dict(sharing="both"), "sharing 'both' is not one of"),
    (dict(projection="fft"), "projection 'fft' is not one of"),
    (dict(projection_init="ones"), "projection_init 'ones' is not one of"),
    (dict(dropout_rate=1.0), "dropout_rate 1.0 must lie"),
  ],
)
def test_bad_fields(fields, message):
  with pytest.raises(ValueError, match=message):
    make(8, **fields)


def test_meshes_that_do_not_fit():
  kind = attention.CausalLinformerConfig(block_length=4, projected_length=2)
  sizes = attention.Sizes(M, H, 24, causal=True)
  with pytest.raises(ValueError, match="24 is not divisible by block_length 4"):
    kind.check(sizes, shards=4)
  sizes = dataclasses.replace(sizes, max_length=32, query_block=6)
  with pytest.raises(ValueError, match="query_block 6 is not divisible"):
    kind.check(sizes, shards=2)


def test_tasks_that_read_all_rows_refuse_it():
  kind = attention.CausalLinformerConfig()
  config = models.ModelConfig(9, 16, 1, M, H, 8, attention=kind)
  with pytest.raises(ValueError, match="is causal: a row would not see later"):
    models.MaskedLM(config).init(jax.random.key(0), np.zeros((1, 16), int))
