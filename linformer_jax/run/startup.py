"""Checks the environment before JAX is loaded: one line and exit status 2.

Runs first in python -m linformer_jax.main, as some of these errors end the
process, even without a traceback, once JAX is imported or finds a device.
"""

import importlib.util
import os
import re
import subprocess
import sys

from linformer_jax.run import console

# The packages in requirements.txt, by their import names.
_PACKAGES = ("absl", "clu", "etils", "flax", "grain", "jax", "jaxlib")
_PACKAGES += ("matplotlib", "ml_collections", "numpy", "optax", "orbax")
_PACKAGES += ("safetensors", "tensorflow", "tokenizers")

# Most tests set this flag alone; it is not worth a child process.
_DEVICE_COUNT = re.compile(r"--xla_force_host_platform_device_count=[1-9]\d*")


def _refused_flags() -> str | None:
  """Returns XLA's message about unknown XLA_FLAGS, on which it aborts."""
  flags = os.environ.get("XLA_FLAGS", "").split()
  if all(_DEVICE_COUNT.fullmatch(flag) for flag in flags):
    return None
  done = subprocess.run(
    [sys.executable, "-c", "import jax; jax.devices()"],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    errors="replace",
  )
  if not done.returncode:
    return None
  told = re.search(r"(?:flags|_env)\S*\.cc:\d+\] (.*)", done.stderr)
  return told[1] if told else (done.stderr.strip().splitlines() or [""])[0]


def _debugging_mode(jax) -> str | None:
  """Returns the name of an unsupported JAX debugging mode, if one is set."""
  for name, needed in (
    ("jax_disable_jit", (False,)),
    ("jax_numpy_dtype_promotion", ("standard",)),
    ("jax_numpy_rank_promotion", ("allow", "warn")),
    ("jax_transfer_guard_host_to_device", (None, "allow", "log")),
    ("jax_transfer_guard_device_to_device", (None, "allow", "log")),
    ("jax_transfer_guard_device_to_host", (None, "allow", "log")),
  ):
    if getattr(jax.config, name) not in needed:
      return name.upper()
  return None


def _problem() -> str | None:
  for name in _PACKAGES:
    if importlib.util.find_spec(name) is None:
      return missing(f"there is no package {name}")
  try:
    import jax
  except ImportError as error:
    return missing(str(error))
  except (ValueError, RuntimeError) as error:
    return f"JAX refuses an environment variable: {error}"
  if mode := _debugging_mode(jax):
    return f"{mode} is not supported: unset it, or the variable that sets it"
  share = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION")
  if share and not re.fullmatch(r"0*\.\d+|1(\.0*)?", share):
    return f"XLA_PYTHON_CLIENT_MEM_FRACTION={share} must be between 0 and 1"
  if problem := _refused_flags():
    return f"XLA refuses XLA_FLAGS={os.environ['XLA_FLAGS']}: {problem}"
  return None


def missing(problem: str) -> str:
  """Adds the remedy to a message about a package that cannot be imported."""
  return (
    f"{problem}: run pip install -r requirements.txt, or start with "
    "./launch.sh, which does"
  )


def check():
  """Exits with status 2 and a line on stderr if there is a problem."""
  console.open_streams()
  problem = _problem()
  if problem:
    sys.exit(console.fail(problem, 2))
