"""Attention layers in torch: two Linformers from PyPI and fused attention."""

import functools

import torch
from linformer.linformer import LinformerSelfAttention
from linformer_pytorch import linformer_pytorch

from experiments.speed import cells


class FusedAttention(torch.nn.Module):
  """Multi-head self-attention with torch's scaled_dot_product_attention."""

  def __init__(self):
    super().__init__()
    self.query_key_value = torch.nn.Linear(cells.WIDTH, 3 * cells.WIDTH)
    self.out = torch.nn.Linear(cells.WIDTH, cells.WIDTH)

  def forward(self, x):
    b, n, _ = x.shape
    q, k, v = (
      y.view(b, n, cells.HEADS, -1).transpose(1, 2)
      for y in self.query_key_value(x).chunk(3, dim=-1)
    )
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return self.out(y.transpose(1, 2).reshape(b, n, -1))


def layer(cell: cells.Cell) -> torch.nn.Module:
  """Returns the module of a cell with its package's defaults, float32."""
  torch.manual_seed(0)
  if cell.implementation == cells.TORCH:
    return FusedAttention()
  if cell.implementation == "pypi_linformer":
    return LinformerSelfAttention(
      cells.WIDTH, cell.n, k=cell.k, heads=cells.HEADS
    )
  head_dim = cells.WIDTH // cells.HEADS
  shared = linformer_pytorch.get_EF(cell.n, cell.k, "learnable", head_dim)
  return linformer_pytorch.MHAttention(
    cell.n,
    head_dim,
    cells.WIDTH,
    cell.k,
    cells.HEADS,
    dropout=0.0,
    checkpoint_level="C0",
    parameter_sharing="layerwise",
    E_proj=shared,
    F_proj=shared,
    full_attention=False,
    causal_mask=None,
  )


def calls(cell: cells.Cell):
  """Returns a function that runs the cell's pass, and the thread count."""
  module = layer(cell)
  x, toward = torch.randn(2, cell.batch, cell.n, cells.WIDTH)
  if cell.what == "forward":
    call = torch.no_grad()(functools.partial(module, x))
  else:
    x.requires_grad_()

    def call():
      for tensor in (x, *module.parameters()):
        tensor.grad = None
      module(x).backward(toward)

  return call, torch.get_num_threads()
