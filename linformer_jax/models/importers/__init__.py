"""Importers: weights of other Linformer implementations, as models here.

One file each: `fairseq` (the authors' code), `linformer` and
`linformer_pytorch` (packages of PyPI). They are pure functions of tensors by
name: {name: x.numpy() for name, x in model.state_dict().items()} of a torch
model, or `weights.tensors_in` of a safetensors file. Each file says what it
reads and what no model here can represent.
"""

from linformer_jax.models.importers import (
  fairseq,
  linformer,
  linformer_pytorch,
)

__all__ = ["fairseq", "linformer", "linformer_pytorch"]
