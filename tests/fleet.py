"""TPU workers that are folders, a gcloud that reaches them, and a fake Python.

Stubs on PATH: gcloud writes down its words and runs what ssh would run, in each
worker's home folder; python3 writes down what it is told, and trains until it
is stopped.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).parent.parent

GCLOUD = r"""#!/usr/bin/env bash
printf '%s\0' "$#" "$@" >>"$FLEET/gcloud"
case "$*" in
  "config get-value compute/zone") cat "$FLEET/zone" 2>/dev/null ;;
  "compute tpus "*" list "*)
    [ ! -e "$FLEET/broken" ] || exit 1
    grep --quiet --word-regexp "$3" "$FLEET/absent" 2>/dev/null || echo a
    ;;
  "storage cp "*)
    mkdir -p "$FLEET/x-logs"
    cp "$3" "$FLEET/${4#gs://bucket/runs/}"
    ;;
  "compute tpus tpu-vm scp "*)
    [ -z "$RECORD" ] || exit 0
    for home in "$FLEET"/w-*; do cp "$5" "$home"; done
    ;;
  "compute tpus tpu-vm ssh "*)
    [ -z "$RECORD" ] || exit 0
    for word; do
      case "$word" in
        --command=*) command="${word#*=}" ;;
        --worker=all) worker='*' ;;
        --worker=*) worker="${word#*=}" ;;
      esac
    done
    status=0
    for home in "$FLEET"/w-$worker; do
      (cd "$home" && HOME="$home" exec setsid bash -c "$command") &
      processes+=($!)
    done
    for process in "${processes[@]}"; do
      wait "$process" || status=$?
      # What is left of the session learns that the terminal is gone.
      kill -HUP -- "-$process" 2>/dev/null || true
    done
    exit "$status"
    ;;
esac
"""

PYTHON = r"""#!/usr/bin/env bash
name="$(basename "$0")"
case "$*" in
  -c*) [ "$name" != python3 ] || [ ! -e "$FLEET/old" ] ;;
  --version) echo Python 3.x ;;
  "-m venv .venv")
    echo "venv by $name" >>"$HOME/calls"
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    ;;
  "-m pip --version") ;;
  "-m pip install --quiet --user uv")
    echo uv >>"$HOME/calls"
    [ ! -e "$FLEET/offline" ]
    ;;
  "-m pip install"*) echo "pip ${*:6}" >>"$HOME/calls" ;;
  "-m uv python find --managed-python 3.12")
    cp "$0" "$HOME/python3.12"
    echo "$HOME/python3.12"
    ;;
  "-m uv"*) echo "${*:2}" >>"$HOME/calls" ;;
  "-m linformer_jax.main"*)
    trap 'echo "SIGTERM: saved at update 7"; exit 143' TERM
    echo "$JAX_COMPILATION_CACHE_DIR" >"$HOME/cache"
    printf '%s\0' "$@" >"$HOME/words"
    echo "update 7"
    while [ ! -e "$FLEET/end" ]; do sleep 0.05; done
    ;;
  *) exit 9 ;;
esac
"""


def launch(*words, root=ROOT, stdin="", environment=None):
  """Runs launch.sh tpu: (status, stdout, stderr)."""
  done = subprocess.run(
    ["bash", str(root / "launch.sh"), "tpu", *words],
    capture_output=True,
    text=True,
    input=stdin,
    timeout=60,
    env=environment,
  )
  return done.returncode, done.stdout, done.stderr


def until(holds):
  """Returns once holds() is true."""
  end = time.monotonic() + 30
  while not holds():
    assert time.monotonic() < end
    time.sleep(0.02)


class Fleet:
  """A checkout, and two workers.

  Attributes:
    root: folder of all, where files switch the stubs: zone (gcloud's), absent
      (kinds that are not listed), broken (gcloud lists nothing), old (python3),
      offline (no uv), end (of training).
    checkout: a small git repository with launch.sh.
    workers: their home folders.
    environment: of commands.
  """

  def __init__(self, root: pathlib.Path):
    self.root = root
    self.workers = [root / "w-0", root / "w-1"]
    for worker in self.workers:
      worker.mkdir()
    programs = root / "bin"
    programs.mkdir()
    hostname = '#!/bin/sh\nbasename "$HOME"\n'
    stubs = {"gcloud": GCLOUD, "python3": PYTHON, "hostname": hostname}
    for name, text in stubs.items():
      (programs / name).write_text(text)
      (programs / name).chmod(0o755)
    unset = ("CLOUDSDK_COMPUTE_ZONE", "PYTHON", "JAX_COMPILATION_CACHE_DIR")
    kept = {k: v for k, v in os.environ.items() if k not in unset}
    path = f"{programs}:{os.environ['PATH']}"
    self.environment = kept | {"PATH": path, "FLEET": str(root), "RECORD": ""}
    self._make_checkout()

  def _make_checkout(self):
    self.checkout = self.root / "checkout"
    self.checkout.mkdir()
    for name in ("launch.sh", "requirements.txt", "pyproject.toml"):
      shutil.copy(ROOT / name, self.checkout)
    shutil.copytree(ROOT / "launch", self.checkout / "launch")
    (self.checkout / "configs").mkdir()
    (self.checkout / ".gitignore").write_text("build/\nignored.py\n")
    for name in ("deleted.py", "ignored.py"):
      (self.checkout / "configs" / name).touch()
    for words in ("init --quiet", "add ."):
      git = ["git", "-C", str(self.checkout), *words.split()]
      subprocess.run(git, check=True, capture_output=True)
    (self.checkout / "configs" / "not committed.py").touch()
    (self.checkout / "configs" / "deleted.py").unlink()

  def tpu(self, *words, stdin="", **environment):
    """Runs launch.sh tpu in the checkout: (status, stdout, stderr)."""
    environment = self.environment | environment
    return launch(
      *words, root=self.checkout, stdin=stdin, environment=environment
    )

  def only_record(self):
    """From here on ssh and scp do nothing."""
    self.environment["RECORD"] = "1"

  def gcloud(self) -> list[list[str]]:
    """The words of each call of gcloud."""
    file = self.root / "gcloud"
    words = file.read_text().split("\0")[:-1] if file.exists() else []
    calls = []
    while words:
      number = int(words[0])
      calls.append(words[1 : number + 1])
      words = words[number + 1 :]
    return calls

  def calls(self, worker) -> list[str]:
    """What Python was told on a worker."""
    return (worker / "calls").read_text().splitlines()


@contextlib.contextmanager
def make(root):
  """A fleet whose runs end with the test."""
  fleet = Fleet(root)
  yield fleet
  (root / "end").touch()
  for lock in root.glob("w-*/linformer_jax/run.lock"):
    subprocess.run(["flock", "--timeout=10", lock, "true"], check=True)
