"""Runs the command line in several processes of one machine."""

import os
import pathlib
import random
import re
import subprocess
import sys

from tests import compiling

ROOT = pathlib.Path(__file__).parent.parent
CPU = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": compiling.FLAGS}


def launch(workdir, *words, count=2, devices=2):
  """Starts the tiny config in processes of some devices, as Slurm would."""
  job = str(random.SystemRandom().randrange(4096))  # picks the port
  command = [sys.executable, "-m", "linformer_jax.main"]
  command += ["--config=tests/tiny.py", f"--workdir={workdir}", *words]
  if count > 1:
    command.append("--distributed")
  processes = []
  for rank in range(count):
    environment = {
      "JAX_NUM_CPU_DEVICES": str(devices),
      "SLURM_JOB_ID": job,
      "SLURM_STEP_NODELIST": "localhost",
      "SLURM_NTASKS": str(count),
      "SLURM_PROCID": str(rank),
      "SLURM_LOCALID": "0",
    }
    processes.append(
      subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | CPU | (environment if count > 1 else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  return processes


def wait_for_update(process, update):
  """Reads the output of a process until it tells of an update."""
  for line in process.stdout:
    told = re.match(r"update +([\d,]+)", line)
    if told and int(told[1].replace(",", "")) >= update:
      return
  raise AssertionError(process.stderr.read())


def finish(processes, timeout=300):
  """Waits for the end of all: [(status, stdout, stderr)]."""
  streams = [process.communicate(timeout=timeout) for process in processes]
  # A race in jaxlib's gRPC server, which may abort as it is destroyed at the
  # very end of a process, once all is saved.
  return [
    (0 if "Server::~Server()" in texts[1] else process.returncode, *texts)
    for process, texts in zip(processes, streams, strict=True)
  ]
