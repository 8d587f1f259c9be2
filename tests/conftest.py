"""Caches of one test session: nothing outside of temporary folders."""

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory):
  """Tokenised text and compiled programs, shared by tests and subprocesses."""
  folder = tmp_path_factory.mktemp("caches")
  compiled = str(folder / "compiled")
  jax.config.update("jax_compilation_cache_dir", compiled)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("LINFORMER_CACHE", str(folder / "text"))
    patch.setenv("JAX_COMPILATION_CACHE_DIR", compiled)
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    yield folder
