"""Documents packed into one row: no row attends to another document."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models, tasks
from linformer_jax.attention import masks
from tests import arrays
from tests import test_causal_linformer as slots

B, N, M, H = 2, 23, 8, 2
KINDS = {
  "softmax": attention.SoftmaxConfig(),
  "local": attention.LocalConfig(window=3),
} | {
  name: attention.CausalLinformerConfig(**fields)
  for name, fields in slots.CHOICES.items()
}
# Documents end within blocks and with them, and have padding around and within.
IDS = np.array(
  [
    [0] * 2 + [1] * 5 + [2] * 1 + [3] * 12 + [0] * 3,
    [1] * 12 + [0] * 2 + [1] * 2 + [2] * 7,
  ],
  np.int32,
)


def make(kind, length=N, **sizes):
  sizes = {"causal": True, "max_length": length} | sizes
  sizes = attention.Sizes(embed_dim=M, num_heads=H, **sizes)
  kind.check(sizes)
  module = kind.module(sizes)
  x = arrays.draw(B, length, M)
  return module, arrays.filled(module, x), x


def assert_apart(name, **sizes):
  module, variables, x = make(KINDS[name], **sizes)
  apply = jax.jit(lambda mask: module.apply(variables, x, None, mask))
  got = apply(masks.Documents(IDS))
  for i in range(1, 1 + IDS.max()):
    own = IDS == i
    arrays.close(got[own], apply(own)[own], M, N, M, 10)


@pytest.mark.parametrize("name", KINDS)
def test_a_document_gets_what_it_gets_if_the_others_are_padding(name):
  assert_apart(name)


@pytest.mark.parametrize("name", ["softmax", "local", "linear", "pyramid"])
def test_blocks_of_queries(name):
  assert_apart(name, query_block=5)


@pytest.mark.parametrize("name", ["softmax", "local"])
def test_both_directions(name):
  assert_apart(name, causal=False)


QUICK = ("softmax", "local", "linear", "three levels")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in KINDS
  ],
)
def test_gradients_to_other_documents_are_zero(name):
  """Exactly, for documents of random lengths."""
  rng = np.random.default_rng(list(KINDS).index(name))
  for _ in range(2):
    n = int(rng.integers(8, 24))
    module, variables, x = make(KINDS[name], n)
    ids = 1 + np.cumsum(rng.random(n) < 0.2)
    ids = np.where(rng.random(n) < 0.8, ids, 0).astype(np.int32)

    def rows(x, variables=variables, module=module, ids=ids):
      mask = masks.Documents(ids[None])
      return jnp.sin(module.apply(variables, x[None], None, mask)[0]).sum(1)

    slopes = np.any(jax.jit(jax.jacrev(rows))(x[0]) != 0, axis=2)
    same = (ids[:, None] == ids) & (ids > 0)
    assert not slopes[(ids > 0)[:, None] & ~same].any()
    assert slopes[np.diag(ids > 0)].all()


def model(kind, length=N, **fields):
  return models.ModelConfig(11, length, 2, M, H, 8, attention=kind, **fields)


@pytest.mark.parametrize("positions", ["normal", "rotary"])
@pytest.mark.parametrize("name", ["softmax", "local"])
def test_a_model_reads_each_document_as_if_alone(name, positions):
  """At positions from 0, wherever the document begins."""
  made = models.CausalLM(model(KINDS[name], position_init=positions))
  tokens = np.random.default_rng(0).integers(11, size=(B, N))
  variables = arrays.filled(made, tokens)
  apply = jax.jit(made.apply)
  got = apply(variables, tokens, masks.Documents(IDS))
  for i in range(1, 1 + IDS.max()):
    alone, mask = np.zeros((B, N), int), np.zeros((B, N), bool)
    for row in range(B):
      own = np.flatnonzero(IDS[row] == i)
      if own.size:  # and padding within
        span = slice(own[0], own[-1] + 1)
        alone[row, : own[-1] + 1 - own[0]] = tokens[row, span]
        mask[row, own - own[0]] = True
    want = apply(variables, alone, mask)
    arrays.close(got[IDS == i], want[mask], *(M, N, M, 8) * 3)


def test_slots_read_a_document_that_begins_with_a_block_as_if_alone():
  b = 4
  kind = attention.CausalLinformerConfig(block_length=b, projected_length=2)
  made = models.CausalLM(model(kind))
  tokens = np.random.default_rng(0).integers(11, size=(1, 22))
  variables = arrays.filled(made, tokens)
  ids = np.repeat([1, 2], [2 * b, 22 - 2 * b])[None].astype(np.int32)
  apply = jax.jit(made.apply)
  got = apply(variables, tokens, masks.Documents(ids))[0]
  want = apply(variables, tokens[:, 2 * b :])[0]
  arrays.close(got[2 * b :], want, *(M, N, M, 8) * 3)


def test_positions():
  found = masks.Documents(IDS).positions()
  np.testing.assert_array_equal(found[0, 2:20], [*range(5), 0, *range(12)])
  np.testing.assert_array_equal(found[1], [*range(16), *range(7)])


def task(kind=KINDS["softmax"], length=N, document_mask=True):
  config = tasks.TASKS["causal_lm"](document_mask=document_mask)
  return config.build(model(kind, length), length)


class Data:
  """What the task reads of a corpus."""

  special = dataclasses.make_dataclass("Special", ["bos", "pad", "eos"])(
    0, 1, 2
  )


def packed(texts):
  """A block as `packing` makes it: <s> a a </s> b </s> ..."""
  tokens = np.ones(N, np.int32)
  row = [0] + [x for text in texts for x in (*text, 2)]
  tokens[: len(row)] = row
  return {"tokens": tokens, "mask": np.arange(N) < len(row)}


def test_a_document_begins_with_bos_and_ends_with_eos():
  texts = [5, 6, 7], [8], [9, 10]
  row = task().example(packed(texts), None, Data)
  real = row["weights"] > 0
  np.testing.assert_array_equal(
    row["tokens"][real], [0, 5, 6, 7, 0, 8, 0, 9, 10]
  )
  np.testing.assert_array_equal(
    row["targets"][real], [5, 6, 7, 2, 8, 2, 9, 10, 2]
  )
  np.testing.assert_array_equal(
    row["documents"][real], np.repeat([1, 2, 3], [4, 2, 3])
  )
  assert (
    set(task().spec(masked=False))
    == set(row)
    == {"tokens", "documents", "targets", "weights"}
  )


def test_the_loss_of_a_block_is_that_of_its_documents():
  texts = [5, 6, 7], [8], [9, 10]
  made = task()
  variables = arrays.filled(made.module(), np.zeros((1, N), int))

  def loss(texts):
    row = made.example(packed(texts), None, Data)
    return sums(variables, {k: v[None] for k, v in row.items()})["loss"]

  sums = jax.jit(made.sums)
  alone = [loss([text]) for text in texts]
  np.testing.assert_allclose(loss(texts), sum(alone), rtol=1e-5)
  made = task(document_mask=False)
  sums = jax.jit(made.sums)
  assert abs(loss(texts) - sum(alone)) > 1e-3


@pytest.mark.parametrize("name", sorted(attention.ATTENTIONS))
def test_an_attention_keeps_documents_apart_or_says_that_it_does_not(name):
  length = 256
  kind = attention.ATTENTIONS[name]()
  module, variables, x = make(kind, length, causal=kind.one_way)
  mask = masks.Documents(np.ones((B, length), np.int32))
  if kind.documents:
    task(kind, length)
    module.apply(variables, x, None, mask)
    return
  with pytest.raises(ValueError, match=f"{name!r} does not keep documents"):
    task(kind, length)
  with pytest.raises(ValueError, match="does not keep documents apart"):
    module.apply(variables, x, None, mask)


def test_wrong_ids_and_uses():
  module, variables, x = make(KINDS["softmax"], causal=False)
  for ids, message in (
    (IDS[:, 1:], r"ids of shape \(2, 22\) do not fit rows of shape \(2, 23\)"),
    (IDS > 0, "dtype bool"),
    (-IDS, "from 1 upward"),
    (IDS[:, ::-1], "from 1 upward"),
  ):
    with pytest.raises(ValueError, match=message):
      module.apply(variables, x, None, masks.Documents(ids))
  with pytest.raises(ValueError, match="does not keep documents apart"):
    module.apply(variables, x, x, masks.Documents(IDS))
  flash = attention.SoftmaxConfig(implementation="flash")
  module, variables, x = make(flash, causal=False)
  with pytest.raises(ValueError, match="does not keep documents apart"):
    module.apply(variables, x, None, masks.Documents(IDS))
