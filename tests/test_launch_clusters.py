"""launch/slurm.sh and launch/jobset.yaml, the examples for clusters."""

import os
import pathlib
import random
import shutil
import subprocess
import sys

import pytest
import yaml

from linformer_jax.run import command_line
from tests import runs

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = "--config=configs/linformer.py:n=512,k=128"


def test_the_jobset_fits_its_slice_and_its_flags_are_known(monkeypatch):
  monkeypatch.chdir(ROOT)
  jobset = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
  (job,) = jobset["spec"]["replicatedJobs"]
  job = job["template"]["spec"]
  pod = job["template"]["spec"]
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  rows, columns = map(int, topology.split("x"))
  (container,) = pod["containers"]
  (chips,) = container["resources"]["limits"].values()
  assert container["resources"]["requests"] == {"google.com/tpu": chips}
  assert job["parallelism"] == job["completions"] == rows * columns // chips
  script, command, *words = container["command"]
  assert (script, command) == ("./launch.sh", "train")
  # config_flags looks into sys.argv.
  monkeypatch.setattr(sys, "argv", ["main", *words])
  flags = command_line.make_flags()
  assert command_line.parse(flags, sys.argv) == []
  assert flags.distributed and flags.workdir.startswith("gs://")


def test_the_slurm_script_gives_a_process_all_gpus_of_its_node(tmp_path):
  (tmp_path / "srun").write_text(
    "#!/bin/bash\n"
    'echo "$JAX_LOCAL_DEVICE_IDS $JAX_COMPILATION_CACHE_DIR $PWD"\n'
    "printf '%s\\n' \"$@\"\n"
  )
  (tmp_path / "srun").chmod(0o755)
  script = tmp_path / "slurm_script"  # as Slurm copies it
  shutil.copy(ROOT / "launch" / "slurm.sh", script)
  environment = {
    "PATH": f"{tmp_path}:{os.environ['PATH']}",
    "SLURM_SUBMIT_DIR": str(ROOT),
    "SLURM_GPUS_ON_NODE": "4",
  }
  words = [CONFIG, "--workdir=runs/x y"]
  done = subprocess.run(
    ["bash", str(script), *words],
    env=environment,
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=True,
  )
  first, *rest = done.stdout.splitlines()
  assert first == f"0,1,2,3 {ROOT}/runs/jax-cache {ROOT}"
  launched = ["--kill-on-bad-exit=1", "./launch.sh", "train", "--distributed"]
  assert rest == launched + words
  del environment["SLURM_GPUS_ON_NODE"]
  done = subprocess.run(
    ["bash", str(script)], env=environment, capture_output=True, text=True
  )
  assert done.returncode and "--gpus-per-node" in done.stderr


@pytest.mark.slow
def test_distributed_changes_nothing_for_one_process(tmp_path):
  """As on a TPU VM of one host: found by its cluster, a process alone."""
  slurm = {
    "SLURM_JOB_ID": str(random.SystemRandom().randrange(4096)),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
  }
  words = [sys.executable, "-m", "linformer_jax.main"]
  words.append("--config=tests/tiny.py")
  rows = []
  for flags in ([], ["--distributed"]):
    workdir = tmp_path / str(len(rows))
    subprocess.run(
      [*words, f"--workdir={workdir}", *flags],
      cwd=ROOT,
      env=os.environ | {"JAX_PLATFORMS": "cpu"} | slurm,
      check=True,
    )
    rows.append(runs.rows(workdir))
  assert rows[0] == rows[1] and len(rows[0]) == 5
