"""launch.sh: its help, its errors, and an environment that it makes itself."""

import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def launch(*words, root=ROOT, **environment):
  """Runs launch.sh: (status, stdout, stderr)."""
  done = subprocess.run(
    ["bash", str(root / "launch.sh"), *words],
    capture_output=True,
    text=True,
    timeout=120,
    env=os.environ | environment,
  )
  return done.returncode, done.stdout, done.stderr


@pytest.fixture
def clone(tmp_path):
  """A copy whose Python makes environments that write down what pip is told."""
  for name in ("launch.sh", "requirements.txt", "pyproject.toml"):
    shutil.copy(ROOT / name, tmp_path)
  fake = tmp_path / "python"
  fake.write_text(
    f"""#!/usr/bin/env bash
root={tmp_path}
case "$*" in
  -c*) exec {sys.executable} "$@" ;;
  --version) echo Python 3.99 ;;
  "-m venv .venv") echo venv >> $root/calls; mkdir -p .venv/bin
    cp $0 .venv/bin/python; cp $0 .venv/bin/tensorboard; cp $0 .venv/bin/ruff ;;
  "-m pip --version") ;;
  "-m pip install"*) echo "pip ${{*:6}}" >> $root/calls
    [ ! -e $root/broken ] ;;
  *) echo "$(basename $0) $*" >> $root/calls ;;
esac
"""
  )
  fake.chmod(fake.stat().st_mode | stat.S_IEXEC)

  def run(*words):
    calls = tmp_path / "calls"
    calls.unlink(missing_ok=True)
    status, out, err = launch(*words, root=tmp_path, PYTHON=str(fake))
    made = calls.read_text().splitlines() if calls.exists() else []
    return status, err, made

  run.root = tmp_path
  return run


MAIN = "python -m linformer_jax.main "
SMOKE = MAIN + "train --config={root}/configs/smoke.py"
SMOKE += " --workdir={root}/runs/smoke"
SMALL = "{root}/experiments/checkpoints/mixed-small"
READY = ["venv", "pip -r requirements.txt"]
PYTEST = "python -m pytest --numprocesses=auto --maxprocesses=4"
PYTEST += " --dist=loadfile --no-loadscope-reorder "


@pytest.mark.parametrize(
  "words, calls",
  [
    ([], [SMOKE]),
    (["--new", "--config.seed=1"], [SMOKE + " --new --config.seed=1"]),
    (["train", "--workdir=x"], [MAIN + "train --workdir=x"]),
    (["evaluate", "--workdir=x"], [MAIN + "evaluate --workdir=x"]),
    (["fill", "--workdir=x", "a"], [MAIN + "fill --workdir=x a"]),
    (["fill", "a"], [f"{MAIN}fill a --workdir={SMALL}"]),
    (["plan", "--topology=h100"], [MAIN + "plan --topology=h100"]),
    (
      ["plan", "--topology=v5e:1"],
      [
        "pip --no-deps --upgrade --target .venv/plan libtpu",
        MAIN + "plan --topology=v5e:1",
      ],
    ),
    (
      ["speed", "--list"],
      ["pip -e .[parity]", "python -m experiments speed --list"],
    ),
    (
      ["tensorboard", "--port=1"],
      ["tensorboard --logdir={root}/runs --port=1"],
    ),
    (["setup"], []),
    (["setup", "tpu"], ["pip -r requirements.txt jax[tpu]"]),
    (
      ["test", "tests/test_x.py"],
      [
        "pip -e .[test]",
        "ruff check .",
        "ruff format --check --quiet .",
        PYTEST + "-m not slow and not hour tests/test_x.py",
      ],
    ),
    (
      ["test", "--slow"],
      [
        "pip -e .[test]",
        "ruff check .",
        "ruff format --check --quiet .",
        PYTEST + "-m not hour",
      ],
    ),
    (
      ["test", "--slow", "--tpu", "-x"],
      [
        "pip -e .[test]",
        "pip --no-deps --upgrade --target .venv/plan libtpu",
        "ruff check .",
        "ruff format --check --quiet .",
        PYTEST + "-m tpu and (not hour) -x",
      ],
    ),
  ],
)
def test_commands_make_the_environment_and_run(clone, words, calls):
  status, err, made = clone(*words)
  assert status == 0, err
  assert made == READY + [call.format(root=clone.root) for call in calls]


def test_paths_count_from_where_the_user_stands(tmp_path):
  """By a link, to a checkout whose path has spaces."""
  root, stand = tmp_path / "a [b] c", tmp_path / "stand"
  (root / ".venv" / "bin").mkdir(parents=True)
  stand.mkdir()
  (stand / "linformer_jax.py").write_text("raise SystemExit('the wrong one')")
  (stand / "mine.py").write_text(
    "import os\nfrom configs import smoke\n"
    "raise ValueError(f'{os.getcwd()} {smoke.__file__}')\n"
  )
  for name in ("launch.sh", "requirements.txt", "pyproject.toml"):
    shutil.copy(ROOT / name, root)
  for name in ("linformer_jax", "configs"):
    (root / name).symlink_to(ROOT / name)
  python = root / ".venv" / "bin" / "python"
  python.write_text(
    f"""#!/usr/bin/env bash
case "$*" in *pip*) ;; *) exec {sys.executable} "$@" ;; esac
"""
  )
  python.chmod(0o755)
  (tmp_path / "link").symlink_to(root / "launch.sh")
  done = subprocess.run(
    [tmp_path / "link", "train", "--config=mine.py", "--workdir=x"],
    cwd=stand,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == (
    f"linformer_jax: --config=mine.py, line 3: {stand} {root}/configs/smoke.py"
  )


def test_installs_once_and_again_when_requirements_change(clone):
  assert clone("setup")[2] == READY
  assert clone("setup")[2] == []
  with (clone.root / "requirements.txt").open("a") as file:
    file.write("another-package\n")
  assert clone("setup")[2] == ["pip -r requirements.txt"]


def test_an_install_that_failed_is_done_again(clone):
  (clone.root / "broken").touch()
  status, err, made = clone("setup")
  assert status == 2 and "pip could not install" in err
  (clone.root / "broken").unlink()
  assert clone("setup")[2] == ["pip -r requirements.txt"]


def test_a_broken_environment_is_made_anew(clone):
  clone("setup")
  (clone.root / ".venv" / "bin" / "python").write_text("#!/bin/false\n")
  assert clone("setup")[2] == READY


def test_wrong_words(clone):
  for words in (["fly"], ["setup", "abacus"]):
    status, err, made = clone(*words)
    assert status == 2
    assert err.splitlines()[-1].startswith("launch.sh: ")
    assert f"'{words[-1]}'" in err
    assert not set(made) - set(READY)


def test_old_python_is_one_line(clone, tmp_path):
  old = tmp_path / "bin"
  old.mkdir()
  for name in ("python3", "python3.11", "python3.12", "python3.13"):
    (old / name).write_text("#!/bin/sh\nexit 1\n")
    (old / name).chmod(0o755)
  path = f"{old}:{os.environ['PATH']}"
  status, _, err = launch("setup", root=clone.root, PATH=path, PYTHON="")
  assert status == 2
  assert err.count("\n") == 1 and "Python 3.11 or newer" in err


def test_help_lists_every_command():
  status, out, _ = launch("--help")
  assert status == 0
  for word in (
    "train",
    "evaluate",
    "plan",
    "speed",
    "tensorboard",
    "test",
    "tpu",
    "setup",
    "--new",
  ):
    assert word in out


def test_scripts_can_be_run_and_continuous_integration_runs_the_tests():
  assert os.access(ROOT / "launch.sh", os.X_OK)
  assert os.access(ROOT / ".ci" / "run", os.X_OK)
  assert "./launch.sh test" in (ROOT / ".ci" / "run").read_text()
