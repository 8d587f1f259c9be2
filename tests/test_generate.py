"""Generation is the model's own distribution, token by token; and its calls."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, generate, loading, models
from linformer_jax.data.text import tokenizer as tokenizer_lib
from tests import arrays

V, N, M, H = 29, 32, 16, 2
KINDS = {
  "softmax": attention.SoftmaxConfig(),
  "causal_linformer": attention.CausalLinformerConfig(
    block_length=4, projected_length=2, levels=2, kept_blocks=1
  ),
}


def build(kind="causal_linformer"):
  config = models.ModelConfig(V, N, 2, M, H, 8, KINDS[kind])
  model = models.CausalLM(config)
  return model, arrays.filled(model, np.zeros((1, N), int))


def prompts(*lengths):
  rng = np.random.default_rng(0)
  return [rng.integers(0, V, size) for size in lengths]


def generated(generator, rows, number, **how):
  return np.concatenate(list(generator.tokens(rows, number, **how)), axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_the_likeliest_of_the_whole_text(kind):
  model, variables = build(kind)
  rows = prompts(3, 9, 1)
  greedy = generate.Generator(model, variables, generate.Sampling(0.0))
  got = generated(greedy, rows, 12, stride=5)
  apply = jax.jit(model.apply)
  for row, tokens in zip(rows, got, strict=True):
    text = np.zeros(N, int)
    text[: len(row)] = row
    for i, token in enumerate(tokens, start=len(row)):
      logits = np.asarray(apply(variables, text[None]))[0, i - 1]
      assert logits[token] >= logits.max() - 1e-4
      text[i] = token


def test_a_prompt_alone_gets_what_it_gets_among_others():
  model, variables = build()
  generator = generate.Generator(model, variables)
  rows = prompts(3, 9, 1)
  together = generated(generator, rows, 10, seed=3, names=[5, 0, 2])
  alone = generated(generator, rows[:1], 10, seed=3, names=[5], stride=4)
  np.testing.assert_array_equal(together[:1], alone)
  other = generated(generator, rows[:1], 10, seed=4, names=[5])
  assert np.any(other != alone)


def drawn(sampling, logits, count=4_000):
  keys = jax.random.split(jax.random.key(0), count)
  logits = jnp.broadcast_to(jnp.asarray(logits), (count, len(logits)))
  tokens = np.asarray(jax.jit(sampling.draw)(logits, keys))
  return np.bincount(tokens, minlength=logits.shape[1]) / count


LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2], np.float32))


@pytest.mark.parametrize(
  ("fields", "want"),
  [
    ({}, [0.1, 0.4, 0.05, 0.25, 0.2]),
    ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
    ({"temperature": 0.5}, np.square([0.1, 0.4, 0.05, 0.25, 0.2]) / 0.275),
    ({"top_k": 2}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
    ({"top_k": 9}, [0.1, 0.4, 0.05, 0.25, 0.2]),
    ({"top_p": 0.3}, [0, 1, 0, 0, 0]),
    ({"top_p": 0.6}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
    ({"top_p": 0.7}, [0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85]),
    ({"top_k": 3, "top_p": 0.7}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
  ],
)
def test_draws_have_the_distribution(fields, want):
  """Within 4 standard deviations of a share of 4,000 draws."""
  want = np.array(want)
  got = drawn(generate.Sampling(**fields), LOGITS)
  bound = 4 * np.sqrt(want * (1 - want) / 4_000)
  assert np.all(abs(got - want) <= bound)


@pytest.mark.parametrize(
  "fields",
  [
    {"temperature": -0.1},
    {"temperature": float("nan")},
    {"top_k": -1},
    {"top_p": 0.0},
    {"top_p": 1.1},
  ],
)
def test_bad_sampling(fields):
  (name,) = fields
  with pytest.raises(ValueError, match=f"{name} .* must be"):
    generate.Sampling(**fields)


def test_what_does_not_generate():
  model, variables = build()
  generator = generate.Generator(model, variables)
  with pytest.raises(ValueError, match="30 tokens of a prompt and 3 new ones"):
    next(generator.tokens(prompts(30), 3))
  with pytest.raises(ValueError, match="0 tokens of a prompt"):
    next(generator.tokens([np.zeros(0, int)], 3))
  with pytest.raises(ValueError, match="MaskedLM, which does not generate"):
    generate.Generator(models.MaskedLM(model.config), variables)
  fnet = models.ModelConfig(V, N, 2, M, H, 8, attention.FNetConfig())
  with pytest.raises(ValueError, match="no cache, so it cannot generate"):
    generate.Generator(models.CausalLM(fnet), variables)


@pytest.fixture(scope="module")
def run():
  """A model of bytes that has learned nothing, with a real tokenizer."""
  text = "The señor says: naïve people, 東京 and so on.\n" * 40
  tokenizer = tokenizer_lib.train([text], 270)
  size = tokenizer_lib.size(tokenizer)
  config = models.ModelConfig(size + 3, 64, 1, M, H, 8, KINDS["softmax"])
  model = models.CausalLM(config)
  variables = arrays.filled(model, np.zeros((1, 64), int))
  return loading.Run(None, None, model, variables, tokenizer)


def test_pieces_of_a_stream_are_the_text(run):
  writer = generate.TextGenerator(run, generate.Sampling(3.0))
  texts = ["The señor", "", "東"]
  pieces = list(writer.stream(texts, 40, seed=1))
  joined = ["".join(piece[i] for piece in pieces) for i in range(3)]
  assert joined == writer.complete(texts, 40, seed=1)
  assert all(joined) and len(set(joined)) == 3
  assert writer.complete(texts[1:2], 40, seed=1, names=[1]) == joined[1:2]


def fake(run, ids):
  """A generator of texts that draws these ids."""
  writer = generate.TextGenerator(run)
  rows = [np.array([[i]]) for i in ids]
  writer._generator = types.SimpleNamespace(tokens=lambda *args: iter(rows))
  return writer


def test_a_text_ends_at_the_stop_or_its_end(run):
  ids = [int(i) for i in run.tokenizer.encode("one\n\ntwo 東京").ids]
  eos = run.special.eos
  for more, stop, want in (
    (ids, "", "one\n\ntwo 東京"),
    (ids, "\n\n", "one"),
    (ids, "\n\n\n", "one\n\ntwo 東京"),
    ([*ids[:3], eos, *ids[3:]], "", run.tokenizer.decode(ids[:3])),
  ):
    pieces = [
      piece for (piece,) in fake(run, more).stream([""], len(more), 0, stop)
    ]
    assert "".join(pieces) == want
    # No piece has a part of a character, or of a stop, that goes away again.
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


def test_no_special_token_is_drawn(run):
  writer = generate.TextGenerator(run, generate.Sampling(100.0))
  texts = writer._generator.tokens([np.array([0])] * 20, 60)
  tokens = np.concatenate(list(texts), axis=1)
  special = run.special
  for never in (special.bos, special.pad, special.mask, special.unk):
    assert never not in tokens
  assert special.eos in tokens and tokens.max() < tokenizer_lib.size(
    run.tokenizer
  )


@pytest.fixture
def trained(command, tmp_path):
  """The command, with a causal run in tmp/c."""
  (tmp_path / "causal.py").write_text(
    "from tests import tiny\n"
    "def get_config(argument=''):\n"
    "  config = tiny.get_config('local+causal_linformer')\n"
    "  config.attention.causal_linformer.block_length = 8\n"
    "  config.train.num_steps = 3\n"
    "  with config.unlocked(): config.task = {'name': 'causal_lm'}\n"
    "  return config\n"
  )
  status, _, err = command(
    "train", "--config={tmp}/causal.py", "--workdir={tmp}/c"
  )
  assert status == 0, err
  rows = [{"text": f"ab {i}"} for i in range(20)]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "p.jsonl").write_text(lines)
  (tmp_path / "long.jsonl").write_text(
    lines + '{"text": "' + "ab " * 99 + '"}\n'
  )
  return command


CALL = ("generate", "--workdir={tmp}/c", "--number=9", "--seed=2")
FILES = ("--input={tmp}/p.jsonl", "--to={tmp}/out.jsonl")


def test_the_command(trained, tmp_path):
  status, out, err = trained(*CALL, "--prompt=ab c")
  assert status == 0 and out.startswith("ab c"), err
  writer = generate.TextGenerator(loading.load(str(tmp_path / "c")))
  assert "ab c" + writer.complete(["ab c"], 9, seed=2)[0] == out.rstrip("\n")
  for words, message in (
    (CALL, "--prompt='A text' or --input="),
    ((*CALL, FILES[0]), "--to=FILE.jsonl go together"),
    ((*CALL, *FILES, "--prompt=a"), "use one"),
    ((*CALL, "--prompt=a", "--top_p=2"), "top_p 2.0 must be above 0"),
    ((*CALL[:2], "--prompt=a", "--number=99"), "max_length 32: ask for fewer"),
    ((*CALL, "--input={tmp}/none.jsonl", FILES[1]), "none.jsonl"),
  ):
    status, _, err = trained(*words)
    assert status == 2 and message in err, err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_prompts_of_a_file(trained, tmp_path):
  """A stopped call goes on, and an export generates the same."""
  status, out, err = trained(*CALL, *FILES)
  assert status == 0 and "20 prompts continued" in out, err
  whole = (tmp_path / "out.jsonl").read_bytes()
  found = [json.loads(line) for line in whole.decode().splitlines()]
  assert [line["text"] for line in found] == [f"ab {i}" for i in range(20)]
  writer = generate.TextGenerator(loading.load(str(tmp_path / "c")))
  (alone,) = writer.complete(["ab 17"], 9, 2, names=[17])
  assert found[17]["completion"] == alone
  (tmp_path / "out.jsonl").write_bytes(whole[: len(whole) // 2])
  assert trained(*CALL, *FILES)[0] == 0
  assert (tmp_path / "out.jsonl").read_bytes() == whole
  assert trained("export", "--workdir={tmp}/c", "--to={tmp}/small")[0] == 0
  small = ("generate", "--workdir={tmp}/small", *CALL[2:], "--prompt=ab 0")
  assert trained(*small)[1] == "ab 0" + found[0]["completion"] + "\n"
  status, _, err = trained(*CALL, "--input={tmp}/long.jsonl", FILES[1])
  assert status == 2 and "long.jsonl:21: " in err, err
  assert len(err.strip().splitlines()) == 1
