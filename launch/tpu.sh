#!/usr/bin/env bash
# ./launch.sh tpu: Cloud TPU VMs through gcloud. What then runs on the VMs is
# launch/worker.sh, which `setup` copies there with the rest of the code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
Usage: ./launch.sh tpu VERB NAME [FLAGS]

One host or a pod, the commands are the same: setup, train, status and stop act
on all workers of the TPU slice NAME, at the same time.

  create NAME --type=TYPE    ask Cloud for a slice, for example
                               ./launch.sh tpu create a --type=v5litepod-16 \
                                 --zone=us-west4-a --spot --queued
    --type=TYPE              accelerator type: v4-8, v5litepod-16 (that is v5e),
                             v5p-8, v6e-8, ...
    --version=VERSION        runtime version, where the type's own is not wanted
    --spot                   cheaper, and can be taken away at any moment
    --preemptible            its older form, which ends after 24 hours
    --queued                 wait in line as a queued resource; it returns at
                             once, and `status` tells when it is ACTIVE
    -- FLAGS                 the rest goes to gcloud, such as --network=lab
  setup NAME                 copy this checkout as it is, uncommitted changes
                             included, and install; again after a change, as in
                               ./launch.sh tpu setup a --zone=us-west4-a
  train NAME FLAGS           start ./launch.sh train --distributed FLAGS, which
                             goes on when ssh ends; a second one is refused
                               ./launch.sh tpu train a --zone=us-west4-a \
                                 --config=configs/linformer.py:n=512,k=128 \
                                 --workdir=gs://bucket/runs/x
    --compile-cache=DIR      where compiled programs are kept: by default
                             jax-cache beside a gs:// workdir, or on the VM
  logs NAME                  follow what worker 0 prints; Ctrl-C leaves the run
                               ./launch.sh tpu logs a --zone=us-west4-a
    --worker=N               of worker N
  status NAME                the queued resource, the VM, and whether a run is
                             alive on each worker
                               ./launch.sh tpu status a --zone=us-west4-a
  stop NAME                  SIGTERM: the run saves a checkpoint and exits 143
                               ./launch.sh tpu stop a --zone=us-west4-a
  delete NAME                the VM and the queued resource, after a question
                               ./launch.sh tpu delete a --zone=us-west4-a --yes
    --yes                    without the question

Flags of every verb:
  --zone=ZONE                or $CLOUDSDK_COMPUTE_ZONE, or gcloud's compute/zone
  --project=PROJECT          or gcloud's
  --dry-run                  print every command, one a line, and run none

After a preemption: delete, create, setup and the same train command, which
resumes from the newest checkpoint in the workdir. launch/README.md has more on
buckets, quota, ssh and Python versions.
TEXT
}

fail() {
  echo "launch.sh tpu: $*" >&2
  exit 2
}

# quoted WORDS...: one line that a shell reads back as the same words.
quoted() {
  local word line=""
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      line+=" $word"
    else
      # Quotes only where they are needed, for lines that can be read.
      line+=" ${word@Q}"
    fi
  done
  echo "${line:1}"
}

# run COMMAND...: runs it, or only prints it under --dry-run.
run() {
  if [ -n "$dry" ]; then
    quoted "$@"
  else
    echo "+ $(quoted "$@")" >&2
    "$@"
  fi
}

# pipeline LINE: the same for a line of shell.
pipeline() {
  if [ -n "$dry" ]; then
    echo "$1"
  else
    echo "+ $1" >&2
    eval "$1"
  fi
}

# remote WORKER COMMAND: a line of shell on one worker, or on all at once.
remote() {
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$1" \
    --command="$2"
}

runtime_version() {
  # https://cloud.google.com/tpu/docs/runtimes, for JAX.
  case "$type" in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5e-*) fail "create: Cloud calls it --type=v5litepod-${type#v5e-}" ;;
    *) fail "create: no runtime version is known for --type=$type:" \
      "add --version=VERSION" ;;
  esac
}

create() {
  [ -n "$type" ] || fail "create: --type=TYPE is missing, such as v5litepod-16"
  [ -n "$version" ] || version="$(runtime_version)"
  if [ -n "$queued" ]; then
    [ "$tier" != --preemptible ] ||
      fail "create: queued resources know --spot and not --preemptible"
    run gcloud compute tpus queued-resources create "$name" "${place[@]}" \
      --node-id="$name" --accelerator-type="$type" \
      --runtime-version="$version" ${tier:+"$tier"} "${rest[@]}"
  else
    run gcloud compute tpus tpu-vm create "$name" "${place[@]}" \
      --accelerator-type="$type" --version="$version" ${tier:+"$tier"} \
      "${rest[@]}"
  fi
}

setup() {
  # What git lists is the code, committed or not, without environments and runs.
  # A file that is deleted and still listed is a warning of tar's.
  pipeline "mkdir -p build && git ls-files -z --cached --others\
 --exclude-standard | tar -czf build/linformer_jax.tgz --null\
 --ignore-failed-read --files-from=-"
  run gcloud compute tpus tpu-vm scp build/linformer_jax.tgz "$name:" \
    "${place[@]}" --worker=all
  # The old code goes first, for files that are gone; not under a live run.
  remote all "mkdir -p linformer_jax && cd linformer_jax &&\
 { flock --nonblock run.lock true ||\
 { echo 'a run is alive here: stop it first' >&2; exit 2; }; } &&\
 rm -rf linformer_jax configs experiments launch tests &&\
 tar -xzf ../linformer_jax.tgz && bash launch/worker.sh setup"
}

train() {
  local word workdir="" config=""
  for word in "${rest[@]}"; do
    case "$word" in
      --workdir=?*) workdir="${word#*=}" ;;
      --config=?*) config="${word#*=}" ;;
      --new | --new=*) fail "train: --new is for no slice; name a --workdir" ;;
    esac
  done
  [ -n "$config" ] || fail "train: --config=FILE.py is missing"
  [ -n "$workdir" ] || fail "train: --workdir=DIR is missing, best gs://..."
  workdir="${workdir%/}"
  case "$workdir" in
    gs://*/*) cache="${cache:-${workdir%/*}/jax-cache}" ;;
    gs:*) fail "train: --workdir=$workdir: name a folder in the bucket" ;;
    *://*) fail "train: --workdir=$workdir: a path on the VM, or gs://..." ;;
    *)
      cache="${cache:-/tmp/jax-cache}"
      echo "note: --workdir=$workdir is on the disk of each worker: it goes" \
        "with the VM, and several workers need one that all of them see" >&2
      ;;
  esac
  case "$cache" in
    gs://*) ;;
    *://*) fail "train: --compile-cache=$cache: a path on the VM, or gs://..." ;;
  esac
  remote all "$(quoted env "JAX_COMPILATION_CACHE_DIR=$cache" \
    bash linformer_jax/launch/worker.sh train "${rest[@]}")"
}

logs() {
  remote "$worker" "tail -n 100 -F linformer_jax/train.log"
}

# ask KIND FLAGS...: the command that lists NAME, if there is one of that kind.
ask() {
  listing=(gcloud compute tpus "$1" list "${place[@]}"
    --filter="name~/$name\$" "${@:2}")
}

status() {
  local kind
  for kind in queued-resources tpu-vm; do
    ask "$kind"
    run "${listing[@]}"
  done
  remote all "bash linformer_jax/launch/worker.sh status"
}

stop() {
  remote all "bash linformer_jax/launch/worker.sh stop"
}

# there KIND: whether there is a NAME of that kind.
there() {
  local found
  ask "$1" --format="value(name)"
  if [ -n "$dry" ]; then
    quoted "${listing[@]}"
  else
    found="$("${listing[@]}")" || fail "$verb: gcloud could not list $1"
    [ -n "$found" ]
  fi
}

delete() {
  local answer="" gone=""
  if [ -z "$dry$yes" ]; then
    read -r -p "Delete $name in $zone with its disks? [y/N] " answer || true
    [ "$answer" = y ] || fail "delete: nothing was deleted; --yes asks nothing"
  fi
  # With --force a queued resource takes its VM along.
  if there queued-resources; then
    run gcloud compute tpus queued-resources delete "$name" "${place[@]}" \
      --force --quiet
    gone=1
  fi
  if there tpu-vm; then
    run gcloud compute tpus tpu-vm delete "$name" "${place[@]}" --quiet
    gone=1
  fi
  [ -n "$gone" ] || echo "there is no $name in $zone" >&2
}

verb="${1:-}"
for word in "${@:-help}"; do
  case "$word" in
    --) break ;;
    -h | --help | help)
      usage
      exit
      ;;
  esac
done
case "$verb" in
  create | setup | train | logs | status | stop | delete) shift ;;
  *) fail "'$verb' is not one of create, setup, train, logs, status, stop," \
    "delete" ;;
esac
name="${1:-}"
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
  fail "$verb: '$name' is no NAME (small letters, digits, hyphens):" \
    "./launch.sh tpu $verb NAME ..."
shift

# own FLAG: a flag of one verb.
own() {
  case "$verb $1" in
    "create --type="?*) type="${1#*=}" ;;
    "create --version="?*) version="${1#*=}" ;;
    "create --spot" | "create --preemptible") tier="$1" ;;
    "create --queued") queued=1 ;;
    "train --compile-cache="?*) cache="${1#*=}" ;;
    "train "*) rest+=("$1") ;;
    "logs --worker="[0-9] | "logs --worker="[0-9][0-9]*) worker="${1#*=}" ;;
    "delete --yes") yes=1 ;;
    *) fail "$verb: unknown flag '$1'; ./launch.sh tpu --help lists them" ;;
  esac
}

dry="" yes="" queued="" tier="" type="" version="" worker=0 cache=""
zone="${CLOUDSDK_COMPUTE_ZONE:-}" project="" rest=()
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry=1 ;;
    --zone=?*) zone="${1#*=}" ;;
    --project=?*) project="${1#*=}" ;;
    --zone* | --project*) fail "$verb: write ${1%%=*}=VALUE" ;;
    --) break ;;
    *) own "$1" ;;
  esac
  shift
done
if [ "${1:-}" = -- ]; then
  [ "$verb" = create ] || fail "$verb: only create takes '--'"
  rest=("${@:2}")
fi

if [ -z "$dry" ]; then
  command -v gcloud >/dev/null ||
    fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
  if [ -z "$zone" ]; then
    zone="$(gcloud config get-value compute/zone 2>/dev/null)" || true
  fi
fi
[ -n "$zone" ] || fail "$verb: --zone=ZONE is missing; where it is not a" \
  "--dry-run, 'gcloud config set compute/zone ZONE' will do, too"
place=(--zone="$zone" ${project:+--project="$project"})

"$verb"
