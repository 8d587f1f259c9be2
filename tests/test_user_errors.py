"""What a user gets wrong is one line and exit 2, before anything is written.

Cases with their right words, and a search over many more: `drawn_commands`.
"""

import sys

import pytest

from linformer_jax import attention, main, train
from linformer_jax.models import config as model_config
from tests import drawn_commands, user_errors

CONFIG, RUN = user_errors.CONFIG, user_errors.RUN


FIELDS = {
  "seed": ("-1", "4294967296", "1e3", "x"),
  "model.vocab_size": ("0", "-1", "1000000000000", "2147483647", "nan"),
  "model.max_length": ("0", "-5", "1000000000000"),
  "model.num_layers": ("0", "-1", "1000000000000"),
  "model.embed_dim": ("0", "7", "1000000000000", "1073741824"),
  "model.num_heads": ("0", "-1", "3", "1000000000000"),
  "model.mlp_dim": ("0", "-1", "1000000000000", "2147483647"),
  "attention.projected_length": ("0", "-1", "65", "1000000000000"),
  "attention.projected_lengths": (
    "(1,)",
    "('a', 1)",
    "(0, 1)",
    "(1.5, 2)",
    "x",
  ),
  "attention.local_window": ("-1", "1000000000000"),
  "attention.name": ("", "local", "mixed", "flash"),
  "attention.sharing": ("", "all"),
  "attention.projection": ("", "fft"),
  "attention.projection_init": ("", "ones"),
  "attention.implementation": ("", "fast", "cudnn"),
  "model.position_offset": ("-1", "1000000000000"),
  "model.position_dims": ("0", "-2", "3", "1000000000000"),
  "model.position_gain": ("nan", "inf"),
  "model.initializer_std": ("nan", "inf", "-1.0"),
  "attention.projection_std": ("nan", "inf", "-1.0"),
  "model.dropout_rate": ("1.0", "-0.1", "nan", "inf"),
  "attention.dropout_rate": ("1.0", "-0.1", "nan"),
  "model.norm_epsilon": ("0", "nan", "inf", "-1.0"),
  "model.query_block": ("-1", "1000000000000"),
  "model.scan_layers": ("maybe", "2", ""),
  "model.dtype": ("float16", "", "float64"),
  "data.holdout_fraction": ("0", "1", "nan", "inf", "-1"),
  "data.vocab_size": ("0", "1025", "1000000000000"),
  "data.sequence_length": ("0", "1", "65", "1000000000000"),
  "task.mask_rate": ("0", "1", "nan", "inf"),
  "task.mask_span": ("0", "-1"),
  "data.seed": ("-1", "1099511627776"),
  "data.cache_dir": ("s3://x/y", "~no-such-user/x"),
  "data.tokenizer_train_megabytes": ("0", "-1", "nan", "inf"),
  "optimizer.learning_rate": ("0", "-1", "nan", "inf"),
  "optimizer.warmup_steps": ("-1", "2400", "1000000000000"),
  "optimizer.adam_b1": ("1", "-0.1", "nan"),
  "optimizer.adam_b2": ("1", "-0.1", "nan", "inf"),
  "optimizer.adam_epsilon": ("0", "-1", "nan"),
  "optimizer.weight_decay": ("-1", "nan", "inf"),
  "optimizer.projection_rate": ("-1", "nan", "inf"),
  "optimizer.clip_norm": ("-1", "nan", "inf"),
  "train.batch_size": ("0", "-1", "1.5", "abc", "", "1000000000000"),
  "train.accumulation_steps": ("0", "-1", "3", "1000000000000"),
  "train.num_steps": ("0", "-1", "1000000000000"),
  "mesh.data": ("0", "-2", "2", "1000000000000"),
  "mesh.fsdp": ("0", "-1", "2"),
  "mesh.sequence": ("0", "-1", "2"),
  "mesh.tensor": ("0", "-1", "2", "1000000000000"),
  "mesh.float32_gradients": ("maybe", "2", ""),
  "run.log_every_steps": ("0", "-1", "1000000000000"),
  "run.eval_every_steps": ("-1", "1000000000000"),
  "run.eval_batch_size": ("0", "-1", "1000000000000"),
  "run.checkpoint_every_steps": ("0", "-1", "1000000000000"),
  "run.keep_checkpoints": ("0", "-1", "1000000000000"),
  "run.profile_steps": ("-1", "1000000000000"),
}
# What a message is allowed to name in place of a field.
ALSO = {
  "attention.projected_lengths": "projected_length",
  "attention.linformer.projected_lengths": "projected_length",
  "attention.name": "attention",
  "mesh.fsdp": "mesh",
  "mesh.sequence": "mesh",
  "mesh.tensor": "mesh",
  "mesh.data": "mesh",
}


MIXED = {
  "attention.pattern": ("()", "('local',)", "('local', 'x')", "x", "(1, 2)"),
  "attention.local.window": ("-1", "1000000000000", "x", "1.5"),
  "attention.local.dropout_rate": ("1.0", "nan"),
  "attention.linformer.projected_length": ("0", "65"),
  "attention.linformer.projected_lengths": ("(32, 32)", "(0,)"),
  "attention.linformer": ("3",),
}


@pytest.mark.parametrize("name", MIXED)
def test_values_of_fields_of_attentions_by_layer(name, refused):
  for value in MIXED[name]:
    flag = f"--config.{name}={value}"
    line = refused(f"{CONFIG}:attention=local+linformer", RUN, flag)
    assert ALSO.get(name, name.split(".")[-1]) in line, (value, line)


@pytest.mark.parametrize("name", FIELDS)
def test_values_of_fields(name, refused):
  for value in FIELDS[name]:
    line = refused(CONFIG, RUN, f"--config.{name}={value}")
    assert ALSO.get(name, name.split(".")[-1]) in line, (value, line)


WORDS = {
  "two words": (["--config", "nosuch.py"], "nosuch.py"),
  "no value": (["--config"], "--config needs a value"),
  "a flag as value": (
    [CONFIG, "--workdir", "--new"],
    "--workdir needs a value",
  ),
  "empty": (["--config="], "is empty"),
  "folder": (["--config=."], "is a folder"),
  "scheme": (["--config=s3://x.py"], "s3://"),
  "group": ([CONFIG, "--config.model=3"], "'model' is a group"),
  "below a field": ([CONFIG, "--config.seed.x=3"], "'x'"),
  "a near name": ([CONFIG, "--config.model.max_lenght=3"], "model.max_length?"),
  "a group left out": (
    [CONFIG, "--config.norm_epsilon=0"],
    "model.norm_epsilon?",
  ),
  "of two groups": ([CONFIG, "--config.dropout_rate=0"], ".dropout_rate?"),
  "twice": (
    [CONFIG, "--config.data.files=a", "--config.data.files=b"],
    "data.files is given twice",
  ),
  "no config": (["--config.seed=3"], "--config=FILE.py"),
  "an argument": (["--config=configs/base.py:3"], "get_config()"),
  "its value": (["--config=configs/linformer.py:n=x"], "'x' is not int"),
  "a near flag": ([CONFIG, "--wrkdir=x"], "workdir"),
  "no bool": ([CONFIG, RUN, "--new=maybe"], "'maybe' is not true or false"),
}


@pytest.mark.parametrize("case", WORDS)
def test_words(case, refused):
  words, expected = WORDS[case]
  assert expected in refused(RUN, *words)


HEAD = (
  "from configs import smoke\ndef get_config():\n  c = smoke.get_config()\n"
)
FILES = {
  "x = 1\n": "no function get_config()",
  "def get_config(:\n": "c.py, line 1: invalid syntax",
  "import no_such\n": "c.py, line 1: ModuleNotFoundError",
  "def get_config(a): return a\n": "c.py: TypeError: get_config() missing",
  HEAD: "returns NoneType",
  HEAD + "  return c.to_dict()\n": "returns dict",
  HEAD + "  1 / 0\n": "c.py, line 4: ZeroDivisionError",
  HEAD + "  raise SystemExit(0)\n": "c.py, line 4: SystemExit",
  HEAD
  + "  c.model.new_field = 3\n": "c.py, line 4: AttributeError: 'Key \"new_f",
  HEAD + "  c.unlock().x = 3\n  return c\n": "no field 'x'",
  HEAD + "  c.unlock()\n  c.run.x = 3\n  return c\n": "no field 'run.x'",
  HEAD + "  c.unlock()\n  del c.seed\n  return c\n": "'seed' is missing",
  HEAD + "  c.train.num_steps = 'x'\n": "c.py, line 4: TypeError",
}


@pytest.mark.parametrize("text", FILES)
def test_config_files(text, refused, tmp_path):
  (tmp_path / "c.py").write_text(text)
  assert FILES[text] in refused("--config=c.py", RUN)


@pytest.mark.parametrize("kind", drawn_commands.KINDS)
def test_a_few_of_each_kind(kind, tmp_path_factory):
  search(kind, range(2), tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize("kind", drawn_commands.KINDS)
def test_many_of_each_kind(kind, tmp_path_factory):
  search(kind, range(2, 14), tmp_path_factory)


def search(kind, seeds, factory):
  folder, problems = factory.mktemp("cases"), []
  for seed in seeds:
    case = drawn_commands.draw(kind, seed, str(folder / "cache"))
    problem = user_errors.problem_of(case, folder / str(seed))
    if problem:
      problems.append(f"{kind}, seed {seed}: {case}: {problem}")
  assert not problems, "\n".join(problems)


def test_a_programming_error_keeps_its_traceback(monkeypatch, tmp_path):
  def broken(*_):
    raise KeyError("a bug")

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(train, "build", broken)
  monkeypatch.setattr(sys, "argv", ["main", CONFIG, RUN])
  with pytest.raises(KeyError, match="a bug"):
    main.main()


def test_a_model_config_refuses_what_is_not_finite():
  sizes = dict(zip(("vocab_size", "max_length"), (9, 8), strict=True))
  sizes |= dict(num_layers=1, embed_dim=8, num_heads=2, mlp_dim=8)
  sizes |= dict(attention=attention.LinformerConfig(projected_length=4))
  model_config.ModelConfig(**sizes)
  for name in ("position_gain", "initializer_std", "norm_epsilon"):
    for value in (float("nan"), float("inf")):
      with pytest.raises(ValueError, match=f"{name} {value} must be"):
        model_config.ModelConfig(**sizes, **{name: value})
  for value in (float("nan"), float("inf")):
    std = attention.LinformerConfig(projected_length=4, projection_std=value)
    with pytest.raises(ValueError, match=f"projection_std {value} must be"):
      model_config.ModelConfig(**sizes | {"attention": std})
