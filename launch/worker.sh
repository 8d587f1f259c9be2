#!/usr/bin/env bash
# On a TPU VM: launch/tpu.sh calls this over ssh, on every worker.
#
#   worker.sh setup         a Python that is new enough, .venv, JAX for TPUs
#   worker.sh train FLAGS   starts a run that outlives ssh, unless one is alive
#   worker.sh status        one line
#   worker.sh stop          SIGTERM, and waits until all is saved
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lock=run.lock # locked by a run until the last of its processes ends; its id
log=train.log

say() {
  echo "$(hostname): $*"
}

fail() {
  say "$*" >&2
  exit 2
}

alive() {
  ! flock --nonblock "$lock" true
}

setup() {
  # ensurepip, because Ubuntu's python3 makes no environment without it.
  local enough='import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'
  if ! python3 -c "$enough" 2>/dev/null; then
    say "Python 3.11 or newer is needed, here is $(python3 --version 2>&1):" \
      "fetching 3.12"
    # uv brings a Python of its own into the home folder: no root, no question,
    # and no waiting for apt, which is busy on a VM that has just started. Newer
    # Ubuntus ask pip for the variable even in the user's own folder.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv &&
      python3 -m uv python install 3.12 &&
      PYTHON="$(cd / && python3 -m uv python find --managed-python 3.12)" ||
      fail "no Python 3.12 from uv (see above): install one, and then" \
        "PYTHON=/path/to/python linformer_jax/launch.sh setup tpu"
    export PYTHON
  fi
  ./launch.sh setup tpu
  say "ready: $(.venv/bin/python --version)"
}

train() {
  [ -x .venv/bin/python ] || fail "there is no environment: tpu setup first"
  exec 8>>"$lock" # stays open in all that is started from here
  flock --nonblock 8 || fail "a run is alive (process $(cat "$lock")): tpu stop"
  : >"$lock"
  # In a session of its own, so that the end of ssh does not reach it, nor before
  # setsid has made that session.
  trap '' HUP
  setsid bash launch/worker.sh run "$@" </dev/null >>"$log" 2>&1 &
  say "started; tpu logs follows it"
}

# The part of train that stays: its process id, its status, a copy of its log.
run() {
  local word process result=0
  say "$(date -u +%FT%TZ) train $*"
  ./launch.sh train --distributed "$@" &
  process=$!
  echo "$process" >"$lock"
  wait "$process" || result=$?
  say "$(date -u +%FT%TZ) exit status $result"
  for word; do
    case "$word" in
      # Beside the run's folder, which is refused where it holds other files.
      --workdir=gs://*)
        word="${word#*=}"
        gcloud storage cp "$log" "${word%/}-logs/$(hostname).log" ||
          say "the log could not be copied to ${word%/}-logs"
        ;;
    esac
  done
}

status() {
  local what="no run"
  if alive; then what="alive, process $(cat "$lock")"; fi
  say "$what; $(tail -n 1 "$log" 2>/dev/null || echo nothing was started yet)"
}

stop() {
  if ! alive; then
    say "no run"
    return
  fi
  local process
  process="$(cat "$lock")"
  [ -n "$process" ] || fail "a run is just being started: try again"
  kill -TERM "$process" 2>/dev/null || true
  flock --timeout "${STOP_SECONDS:-600}" "$lock" true ||
    fail "process $process is still alive; ps, and kill -9 loses what came" \
      "after its last checkpoint"
  say "stopped; $(tail -n 1 "$log")"
}

"$@"
