"""Bad input is one line and exit status 2, and leaves nothing behind."""

import gzip

import pytest

SMOKE = "--config=configs/smoke.py"


@pytest.fixture
def files(tmp_path):
  """Inputs that are wrong in one way each."""
  (tmp_path / "empty.txt").write_text("")
  (tmp_path / "short.txt").write_text("Too short for a block.")
  (tmp_path / "no_field.jsonl").write_text('{"body": "words"}\n')
  (tmp_path / "broken.jsonl").write_text('{"text": "words"}\n{"text": \n')
  (tmp_path / "broken.txt.gz").write_bytes(gzip.compress(b"a b" * 99)[:20])
  (tmp_path / "tokenizer.json").write_text("{}")
  (tmp_path / "not_python.yaml").write_text("a: 1")
  (tmp_path / "syntax.py").write_text("def get_config(:\n")
  (tmp_path / "folder_of_others").mkdir()
  (tmp_path / "folder_of_others" / "thesis.tex").write_text("mine")
  (tmp_path / "a_file").write_text("")
  (tmp_path / "damaged_run").mkdir()
  (tmp_path / "damaged_run" / "config.json").write_text("{")
  return tmp_path


RUN = "--workdir={tmp}/run"
FILES = "--config.data.source=files"
BAD = {
  "no config": ([RUN], "--config"),
  "no workdir": ([SMOKE], "--workdir"),
  "no such command": (["fly", SMOKE, RUN], "'fly'"),
  "two commands": (["train", "evaluate", SMOKE, RUN], "'train evaluate'"),
  "no such flag": ([SMOKE, RUN, "--wrokdir=x"], "wrokdir"),
  "no such config": (["--config=configs/smok.py", RUN], "configs/smok.py"),
  "config is yaml": (["--config={tmp}/not_python.yaml", RUN], "yaml"),
  "syntax error": (["--config={tmp}/syntax.py", RUN], "syntax.py, line 1"),
  "argument": (["--config=configs/linformer.py:m=3", RUN], "'m=3'"),
  "argument type": (["--config=configs/linformer.py:n=x", RUN], "'n=x'"),
  "no such field": ([SMOKE, RUN, "--config.model.width=3"], "'width'"),
  "no such group": ([SMOKE, RUN, "--config.modle.max_length=3"], "'modle'"),
  "field type": ([SMOKE, RUN, "--config.model.num_heads=two"], "two"),
  "k above n": ([SMOKE, RUN, "--config.attention.projected_length=500"], "500"),
  "k is 0": ([SMOKE, RUN, "--config.attention.projected_length=0"], "0"),
  "k does not divide n": (
    [
      SMOKE,
      RUN,
      "--config.attention.projection=mean_pool",
      "--config.attention.projected_length=48",
    ],
    "64 = 1 * 48 + 16",
  ),
  "k a layer": (
    [SMOKE, RUN, "--config.attention.projected_lengths=(64, 32, 16)"],
    "3 values",
  ),
  "heads do not divide": ([SMOKE, RUN, "--config.model.num_heads=7"], "7"),
  "sharing": ([SMOKE, RUN, "--config.attention.sharing=all"], "'all'"),
  "projection": ([SMOKE, RUN, "--config.attention.projection=fft"], "'fft'"),
  "attention": ([f"{SMOKE}:attention=flash", RUN], "'flash'"),
  "attention by layer": (
    [f"{SMOKE}:attention=local+flash", RUN],
    "'flash' is not one of softmax, linformer, local, linear",
  ),
  "layers of a pattern": (
    [f"{SMOKE}:attention=local+softmax+linear", RUN],
    "3 names, which do not divide model.num_layers 2",
  ),
  "attention by a flag": (
    [SMOKE, RUN, "--config.attention.name=softmax"],
    "configs/smoke.py:attention=softmax",
  ),
  "no such name": ([SMOKE, RUN, "--config.attention.name=flash"], "'flash'"),
  "field of another attention": (
    [f"{SMOKE}:attention=softmax", RUN, "--config.attention.sharing=none"],
    "'sharing'",
  ),
  "not causal": (
    ["--config=configs/causal.py:attention=linformer", RUN],
    "'linformer' is not causal",
  ),
  "implementation": (
    [SMOKE, RUN, "--config.attention.implementation=fast"],
    "'fast' is not one of xla, flash",
  ),
  "dtype": ([SMOKE, RUN, "--config.model.dtype=float8"], "'float8'"),
  "dropout": ([SMOKE, RUN, "--config.model.dropout_rate=1.0"], "1.0"),
  "batch 0": ([SMOKE, RUN, "--config.train.batch_size=0"], "batch_size 0"),
  "parts": (
    [
      SMOKE,
      RUN,
      "--config.train.batch_size=10",
      "--config.train.accumulation_steps=4",
    ],
    "10 is not divisible by",
  ),
  "warm-up": (
    [SMOKE, RUN, "--config.optimizer.warmup_steps=10000000"],
    "10000000",
  ),
  "rate": ([SMOKE, RUN, "--config.optimizer.learning_rate=-1.0"], "-1.0"),
  "beta": ([SMOKE, RUN, "--config.optimizer.adam_b2=1.5"], "1.5"),
  "mesh": ([SMOKE, RUN, "--config.mesh.data=3"], "3 devices"),
  "mesh axis": ([SMOKE, RUN, "--config.mesh.tensor=2"], "needs 2 devices"),
  "log cadence": ([SMOKE, RUN, "--config.run.log_every_steps=0"], "0"),
  "mask rate": ([SMOKE, RUN, "--config.task.mask_rate=1.5"], "1.5"),
  "mask span": (
    [SMOKE, RUN, "--config.task.mask_span=4096"],
    "mask_span 4096 must be less",
  ),
  "hold-out": ([SMOKE, RUN, "--config.data.holdout_fraction=0.0"], "0.0"),
  "vocabulary": ([SMOKE, RUN, "--config.model.vocab_size=100"], "100"),
  "source": ([SMOKE, RUN, "--config.data.source=web"], "'web'"),
  "no files given": ([SMOKE, RUN, FILES], "files"),
  "no files match": (
    [SMOKE, RUN, FILES, "--config.data.files={tmp}/*.nothing"],
    "*.nothing",
  ),
  "empty corpus": (
    [SMOKE, RUN, FILES, "--config.data.files={tmp}/empty.txt"],
    "empty.txt",
  ),
  "too few documents": (
    [SMOKE, RUN, FILES, "--config.data.files={tmp}/short.txt"],
    "document",
  ),
  "JSON field": (
    [SMOKE, RUN, FILES, "--config.data.files={tmp}/no_field.jsonl"],
    "'text'",
  ),
  "JSON line": (
    [SMOKE, RUN, FILES, "--config.data.files={tmp}/broken.jsonl"],
    "broken.jsonl:2",
  ),
  "gzip": (
    [SMOKE, RUN, FILES, "--config.data.files={tmp}/broken.txt.gz"],
    "broken.txt.gz",
  ),
  "no tokenizer": (
    [SMOKE, RUN, "--config.data.tokenizer_path={tmp}/none.json"],
    "none.json",
  ),
  "tokenizer": (
    [SMOKE, RUN, "--config.data.tokenizer_path={tmp}/tokenizer.json"],
    "tokenizer.json",
  ),
  "TFDS name": (
    [
      SMOKE,
      RUN,
      "--config.data.source=tfds",
      "--config.data.tfds_name=no_such_set",
    ],
    "no_such_set",
  ),
  "workdir is a file": ([SMOKE, "--workdir={tmp}/a_file"], "is a file"),
  "workdir of others": (
    [SMOKE, "--workdir={tmp}/folder_of_others"],
    "thesis.tex",
  ),
  "damaged run": ([SMOKE, "--workdir={tmp}/damaged_run"], "config.json"),
  "new and distributed": ([SMOKE, RUN, "--new", "--distributed"], "--new"),
  "nothing to evaluate": (["evaluate", RUN], "holds no run"),
  "plan without config": (["plan", "--topology=h100"], "--config"),
  "plan without topology": (["plan", SMOKE], "--topology"),
  "topology": (["plan", SMOKE, "--topology=v5e-16"], "'v5e-16'"),
  "generation": (["plan", SMOKE, "--topology=v9:2x2"], "v5p:2x2x1"),
  "dimensions": (["plan", SMOKE, "--topology=v5p:4x4"], "3 dimensions"),
  "chips": (["plan", SMOKE, "--topology=v5e:16x32"], "256 chips"),
  "no chips": (["plan", SMOKE, "--topology=v5e:0x4"], "does not exist"),
  "topology to train": ([SMOKE, RUN, "--topology=h100"], "only for plan"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, command, files):
  words, expected = BAD[case]
  before = sorted(p for p in files.rglob("*") if "cache" not in p.parts)
  status, out, err = command(*words)
  assert status == 2, err
  assert err.count("\n") == 1 and err.startswith("linformer_jax: "), err
  assert expected in err
  assert "Traceback" not in err
  assert sorted(p for p in files.rglob("*") if "cache" not in p.parts) == before
  assert not (files / "run").exists()
