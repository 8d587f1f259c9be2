"""Compiles quickly, in the tests and in programs with eight CPU devices."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# They make small programs compile in a fraction of the time.
FLAGS = (
  "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false"
  " --xla_backend_optimization_level=0"
)


def on_eight_devices(module: str, *words) -> str:
  """Returns what a program of these tests prints on eight CPU devices."""
  done = subprocess.run(
    [sys.executable, "-m", f"tests.{module}", *words],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=os.environ
    | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "XLA_FLAGS": FLAGS},
  )
  assert not done.returncode, done.stderr
  return done.stdout
