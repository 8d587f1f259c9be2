#!/usr/bin/env bash
# The project's commands; ./launch.sh --help lists them.
set -euo pipefail
stand="$PWD" # the base of the user's relative paths
script="${BASH_SOURCE[0]}"
if [ -L "$script" ]; then script="$(readlink -f "$script")"; fi
cd "$(dirname "$script")"
root="$PWD"

usage() {
  cat <<'TEXT'
Usage: ./launch.sh [COMMAND] [ARGUMENTS]

  (none) [FLAGS]          pretrain a small Linformer on the packaged speeches,
                          ten minutes on two cores, into runs/smoke; run again,
                          it resumes or says what is done. --new starts another
                          run in runs/smoke-2, and so on
  train FLAGS             pretrain what a config says, for example
                            ./launch.sh train --workdir=runs/x \
                              --config=configs/linformer.py:n=512,k=128 \
                              --config.optimizer.learning_rate=3e-4
                          ./launch.sh train --help lists the flags
  evaluate --workdir=DIR  exact validation metrics of a run's newest checkpoint
  plan FLAGS              what an update would take on a TPU slice or on an H100:
                          memory, FLOPs, communication, the largest batch; it
                          is compiled here and not run, for example
                            ./launch.sh plan --topology=v5e:4x4 \
                              --config=configs/linformer.py:n=512,k=128
  export --workdir=DIR --to=FOLDER
                          the best or newest weights as safetensors, with the
                          tokenizer; --dtype=bfloat16 halves the file
  predict --workdir=DIR --input=TEXTS.jsonl --to=LABELS.jsonl
                          labels of a classifier with probabilities; it resumes
  fill [--workdir=DIR] TEXT
                          the likeliest tokens at each <mask> of a text, for
                          example ./launch.sh fill 'The senate <mask> the bill.';
                          by a small model of the repository without --workdir
  generate --workdir=DIR --prompt='The people' [--number=100 --temperature=0.8]
                          continues a text by a causal model (configs/causal.py);
                          --input=PROMPTS.jsonl --to=FILE.jsonl many; --top_k,
                          --top_p, --seed, --stop
  convert --from=DIR --to=FOLDER --k=K [--texts=FILES --updates=N] [--length=N]
                          a model with softmax attention gets K slots, a model
                          gets longer; distilled on texts; --help lists flags
  tensorboard [FLAGS]     serve the curves of all runs under runs/
  speed [--list] [FLAGS]  measure the speed grid against softmax attention, torch
                          and other Linformers, hours on two cores, resumable;
                          --help lists the flags
  test [--slow|--hour] [--tpu] [PYTEST]
                          check the style and run the tests; --slow adds those
                          that take minutes, --hour runs those that take an hour
                          alone; --tpu fetches the TPU compiler and runs those
                          that need it; the rest goes to pytest
  tpu VERB NAME [FLAGS]   create, set up, train on, watch, stop and delete a
                          Cloud TPU VM or a pod of them; ./launch.sh tpu --help
                          tells how
  setup [tpu|cuda12|cuda13]
                          only make .venv and install the requirements, for a
                          TPU VM or an NVIDIA GPU with JAX's plugin for it

Relative paths count from where you stand; a --config that is not there is taken
from the checkout. Every command makes .venv and installs requirements.txt
first, where that has not been done. PYTHON=/path/to/python3.12 chooses the
interpreter (3.11 or newer).
TEXT
}

fail() {
  echo "launch.sh: $*" >&2
  exit 2
}

find_python() {
  local candidate
  case "${PYTHON:-}" in
    /*) ;;
    */*) PYTHON="$stand/$PYTHON" ;;
  esac
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed and was not found; name one with" \
    "PYTHON=/path/to/python ./launch.sh"
}

# install NAME PIP_ARGUMENTS...: runs pip once, and again if the arguments,
# requirements.txt or pyproject.toml have changed.
install() {
  local stamp=".venv/installed-$1" key
  shift
  key="$* $(cat requirements.txt pyproject.toml | cksum)"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$key" ]; then
    echo "installing $* into .venv (a minute or two)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" ||
      fail "pip could not install $*; see its lines above"
    echo "$key" >"$stamp"
  fi
}

# setup [PLUGIN|test|plan|speed]: makes the virtual environment, one process at
# a time.
setup() {
  exec 9>.venv.lock
  if command -v flock >/dev/null; then flock 9; fi
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    local python
    python="$(find_python)"
    echo "making .venv with $("$python" --version)" >&2
    rm -rf .venv
    "$python" -m venv .venv ||
      fail "$python -m venv failed; on Debian or Ubuntu: apt install python3-venv"
  fi
  install requirements -r requirements.txt
  case "${1:-}" in
    "") ;;
    tpu | cuda12 | cuda13) install plugin -r requirements.txt "jax[$1]" ;;
    test) install test -e ".[test]" ;;
    speed) install parity -e ".[parity]" ;; # torch and two Linformers from PyPI
    # Into a separate folder: if JAX finds the TPU compiler, it looks for TPUs
    # at every start and warns that there are none.
    plan) install plan --no-deps --upgrade --target .venv/plan libtpu ;;
    *) fail "setup '$1' is not one of tpu, cuda12, cuda13" ;;
  esac
  exec 9>&-
}

# start PROGRAM WORDS...: runs a program of .venv/bin in the user's folder, with
# the code of the checkout and never with modules from the user's folder.
start() {
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
  cd "$stand"
  exec "$root/.venv/bin/$1" "${@:2}"
}

# Huge pages for large buffers (glibc 2.35 or newer): on a CPU, page faults for
# every 4 kB of a fresh buffer cost a few percent of a step.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

command="${1:-}"
case "$command" in
  -h | --help | help)
    usage
    ;;
  "" | --*)
    setup
    start python -m linformer_jax.main train \
      --config="$root/configs/smoke.py" --workdir="$root/runs/smoke" "$@"
    ;;
  train | evaluate | export | fill | predict | generate | convert)
    setup
    case "$*" in
      "fill "*--workdir* | "fill "*--help*) ;;
      fill | "fill "*)
        set -- "$@" --workdir="$root/experiments/checkpoints/mixed-small"
        ;;
    esac
    start python -m linformer_jax.main "$@"
    ;;
  plan)
    case "$*" in
      *--topology[=\ ]v*) setup plan ;;
      *) setup ;;
    esac
    export PYTHONPATH="$root/.venv/plan${PYTHONPATH:+:$PYTHONPATH}"
    start python -m linformer_jax.main "$@"
    ;;
  speed)
    setup speed
    shift
    exec .venv/bin/python -m experiments speed "$@"
    ;;
  tensorboard)
    setup
    shift
    start tensorboard --logdir="$root/runs" "$@"
    ;;
  test)
    shift
    setup test
    marks="not slow and not hour"
    case "${1:-}" in
      --slow) marks="not hour" && shift ;;
      --hour) marks="hour" && shift ;;
    esac
    if [ "${1:-}" = --tpu ]; then
      shift
      setup plan
      export PYTHONPATH="$PWD/.venv/plan${PYTHONPATH:+:$PYTHONPATH}"
      export JAX_PLATFORMS=cpu
      marks="tpu and ($marks)"
    fi
    .venv/bin/ruff check .
    .venv/bin/ruff format --check --quiet . ||
      fail "the code is not formatted: .venv/bin/ruff format ."
    # One process per core, up to four; the tests of a file share their setup.
    exec .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=4 \
      --dist=loadfile --no-loadscope-reorder -m "$marks" "$@"
    ;;
  setup)
    shift
    setup "$@"
    ;;
  tpu)
    shift
    exec bash launch/tpu.sh "$@"
    ;;
  *)
    fail "'$command' is not a command; ./launch.sh --help lists them"
    ;;
esac
