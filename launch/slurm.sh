#!/usr/bin/env bash
# An example for NVIDIA GPUs under Slurm: one process a node, which takes all of
# its GPUs. From a checkout that all nodes see:
#
#   ./launch.sh setup cuda13
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh --workdir=runs/x \
#     --config=configs/linformer.py:n=512,k=128 --config.model.dtype=bfloat16
#
# jax.distributed.initialize() (jax 0.10, SlurmCluster) reads SLURM_JOB_ID,
# SLURM_STEP_NODELIST, SLURM_NTASKS, SLURM_PROCID and SLURM_LOCALID, which srun
# sets; the first node is the coordinator. The same line again resumes; several
# of them with --dependency=singleton run one after the other.
#SBATCH --job-name=linformer
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# SIGTERM 5 minutes before the time is up: the run saves and exits 143.
#SBATCH --signal=TERM@300
set -euo pipefail
cd "$SLURM_SUBMIT_DIR" # Slurm runs a copy of this file

# Without it JAX gives a process the one GPU whose number is SLURM_LOCALID.
# (--gpus-per-task hides GPUs from processes, and would contradict it.)
gpus="${SLURM_GPUS_ON_NODE:?ask for GPUs: --gpus-per-node=8}"
JAX_LOCAL_DEVICE_IDS="$(seq --separator=, 0 "$((gpus - 1))")"
export JAX_LOCAL_DEVICE_IDS
cache="${JAX_COMPILATION_CACHE_DIR:-$PWD/runs/jax-cache}"
export JAX_COMPILATION_CACHE_DIR="$cache"

exec srun --kill-on-bad-exit=1 ./launch.sh train --distributed "$@"
