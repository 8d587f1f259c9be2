"""`convert` writes a model that loads, measures it, and refuses in one line."""

import dataclasses
import itertools
import json
import signal

import jax
import jax.numpy as jnp
import pytest

import linformer_jax
from linformer_jax import attention, exported, loading, models, origin
from linformer_jax import convert as convert_lib
from linformer_jax.convert import distill, starts, texts
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.models import fits
from linformer_jax.run import preemption
from tests import runs

N = 32
TEXTS = "--texts={folder}/texts.jsonl"
SENTENCES = [
  f"{a} {b} {c}"
  for a, b, c in itertools.product(
    ("the cat", "a dog", "one bird of many"),
    ("sees", "likes and fears", "hears"),
    ("rain", "the loud old train", "it", "wind"),
  )
]
CONFIG = models.ModelConfig(
  vocab_size=300,
  max_length=N,
  num_layers=2,
  embed_dim=16,
  num_heads=2,
  mlp_dim=32,
  attention=attention.SoftmaxConfig(),
  initializer_std=0.3,
)


def saved(model, folder):
  tokens = jnp.zeros((1, 1), jnp.int32)
  variables = jax.jit(model.init)(jax.random.key(0), tokens)
  tokenizer = tokenizer_lib.train(SENTENCES, 300)
  run = loading.Run(None, None, model, variables, tokenizer)
  exported.write(run, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Texts, and models without training: 'soft', 'encoder' and 'local'."""
  folder = tmp_path_factory.mktemp("convert")
  lines = [json.dumps({"text": text}) + "\n" for text in SENTENCES]
  (folder / "texts.jsonl").write_text("".join(lines))
  saved(models.MaskedLM(CONFIG), folder / "soft")
  saved(models.TokenEncoder(CONFIG), folder / "encoder")
  local = dataclasses.replace(CONFIG, attention=attention.LocalConfig(window=2))
  saved(models.MaskedLM(local), folder / "local")
  return folder


@pytest.fixture
def convert(command, folder, tmp_path):
  """Converts a model of the folder; returns its output and the new model."""

  def run(name, *words):
    words = [word.replace("{folder}", str(folder)) for word in words]
    status, out, err = command(
      "convert", f"--from={folder / name}", "--to={tmp}/new", *words
    )
    assert status == 0, err
    return out, linformer_jax.load(str(tmp_path / "new"))

  return run


def losses(line):
  words = line.replace("(", " ").replace(")", " ").split()
  return float(words[2]), float(words[words.index("original") + 1])


def test_a_head_is_kept_and_its_loss_measured(convert, folder):
  out, new = convert("soft", "--k=16", "--texts={folder}/texts.jsonl")
  # Texts of up to 16 tokens, so nothing changes.
  line = next(line for line in out.splitlines() if "before" in line)
  got, want = losses(line)
  assert got == want
  assert "k = 16" in out and "up to 32 tokens" in out
  old = loading.load(str(folder / "soft"))
  runs.assert_same_bits(new.variables["params"], old.variables["params"])
  assert new.fill("the <mask>") == old.fill("the <mask>")


def test_an_encoder_alone_is_distilled(convert, folder):
  out, new = convert("encoder", "--k=2", TEXTS, "--updates=20")
  errors = [
    float(line.split("relative error ")[1].split(",")[0])
    for line in out.splitlines()
    if "relative error" in line
  ]
  assert errors[1] < 0.9 * errors[0]
  assert "20 of 20 updates" in out and "on 4 texts" in out
  old = loading.load(str(folder / "encoder")).variables["params"]
  runs.assert_same_bits(new.variables["params"]["embed"], old["embed"])
  found = origin.find(str(folder / "encoder"))
  assert all(name.startswith("encoder/") for name in found.shapes())


@pytest.mark.slow
def test_a_stopped_distillation_resumes_bit_for_bit(
  command, convert, folder, tmp_path, monkeypatch
):
  words = ("--k=2", TEXTS, "--updates=6")
  _, whole = convert("encoder", *words)
  (tmp_path / "new").rename(tmp_path / "whole")
  asked = itertools.count(1)

  def after_two(signals, step):
    return signal.SIGTERM if next(asked) == 2 else None

  monkeypatch.setattr(preemption.Signals, "received", after_two)
  call = ["convert", f"--from={folder / 'encoder'}", "--to={tmp}/new"]
  call += [word.replace("{folder}", str(folder)) for word in words]
  status, _, err = command(*call)
  assert status == 128 + signal.SIGTERM
  assert "saved at update 2; the same command resumes" in err
  status, _, err = command(*call, "--k=3")
  assert status == 2 and "holds a conversion with other flags" in err
  out, resumed = convert("encoder", *words)
  assert "resuming at update 2 of 6" in out
  runs.assert_same_bits(resumed.variables, whole.variables)
  names = [{x.name for x in (tmp_path / d).iterdir()} for d in ("new", "whole")]
  assert names[0] == names[1]


def test_one_layer_gets_slots_and_another_a_window(convert, tmp_path):
  out, new = convert(
    "encoder", "--k=4", "--start=svd", "--layers=1", "--window=3", TEXTS
  )
  kinds = [kind.name for kind in new.model.config.layers]
  assert kinds == ["local", "linformer"]
  assert "relative error" in out
  model, group = origin.find(str(tmp_path / "new")).groups()
  assert group["pattern"] == ("local", "linformer") and model["embed_dim"] == 16


def test_a_fit_is_better_than_the_means_that_it_starts_from(folder):
  """On the texts that it is fitted to, in the output of the only layer."""
  run = loading.load(str(folder / "encoder"))
  original = distill.encoder_of(run.model.config, run.variables)
  read = texts.read(run, f"{folder}/texts.jsonl", N)
  found = starts.on_texts("fitted", original, read, 4, [1])
  e, f = found[1]
  q, k, v = original.heads(read.tokens[:32], read.mask[:32])[1]
  for head in range(2):
    width, args = read.tokens.shape[1], (q[head], k[head], v[head])
    errors = [
      fits.error(e[head, :, :width], by, *args, read.mask[:32])
      for by in (e[head, :, :width], f[head, :, :width])
    ]
    assert errors[1] < 0.95 * errors[0]


def test_layers_are_named_by_indices_and_ranges():
  assert convert_lib.indices("", 4) == [0, 1, 2, 3]
  assert convert_lib.indices("2-", 4) == [2, 3]
  assert convert_lib.indices("0,2-3", 4) == [0, 2, 3]


def test_automatic_layers_have_a_low_rank(folder, capsys):
  """A layer whose queries are zero has constant attention, of rank one."""
  run = loading.load(str(folder / "encoder"))
  maps = run.variables["params"]["layers_0"]["block"]["attention"]
  maps["query"] = jax.tree.map(lambda x: x.at[1].set(0), maps["query"])
  options = convert_lib.Options(
    k=1, layers="auto", texts=f"{folder}/texts.jsonl"
  )
  new = convert_lib.convert(run, options)
  kinds = [kind.name for kind in new.model.config.layers]
  assert kinds == ["softmax", "linformer"]
  assert "by layer: " in capsys.readouterr().out


SOFT = "--from={folder}/soft"
WRONG = {
  "no --to": (("--from=x",), "--from=DIR and --to=DIR are needed"),
  "nothing to do": ((SOFT,), "--k=K is needed, or --length=N"),
  "no model": (("--from={folder}/none", "--k=4"), "none holds no run"),
  "too many slots": ((SOFT, "--k=33"), "--k=33 is more than"),
  "negative": ((SOFT, "--k=-1"), "--k=-1 must be 0 or more"),
  "start": ((SOFT, "--k=4", "--start=x"), "--start=x is not one of"),
  "positions": (
    (SOFT, "--length=64", "--positions=x"),
    "--positions=x is not one of repeat, stretch",
  ),
  "layers": ((SOFT, "--k=4", "--layers=a"), "--layers=a is not auto"),
  "range": ((SOFT, "--k=4", "--layers=1,2"), "2 is not within the layers 0 to"),
  "no softmax": (
    ("--from={folder}/local", "--k=4"),
    "layer 0 has local attention",
  ),
  "no texts": ((SOFT, "--k=4", "--start=svd"), "--start=svd needs texts"),
  "no texts to distill": ((SOFT, "--k=4", "--updates=1"), "needs texts"),
  "missing texts": ((SOFT, "--k=4", "--texts={folder}/x.txt"), "x.txt"),
  "taken": ((SOFT, "--k=4", "--to={folder}/soft"), "exists: name a new folder"),
  "short": (
    (SOFT, "--k=16", "--length=8"),
    "between 1 and the max_length 8",
  ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(refused, folder, case):
  words, message = WRONG[case]
  words = [word.replace("{folder}", str(folder)) for word in words]
  if case != "no --to" and case != "taken":
    words.append("--to=new")
  assert message in refused("convert", *words)


def test_a_damaged_description_is_one_line(convert, tmp_path):
  convert("encoder", "--k=4")
  path = tmp_path / "new" / "config.json"
  settings = json.loads(path.read_text())
  del settings["model"]["mlp_dim"]
  path.write_text(json.dumps(settings))
  with pytest.raises(ValueError, match="not of this version") as error:
    linformer_jax.load(str(tmp_path / "new"))
  assert "\n" not in str(error.value)
