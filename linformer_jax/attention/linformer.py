"""Linformer attention (Wang et al. 2020, arXiv 2006.04768, section 4)."""

from typing import Any

import jax.numpy as jnp

from linformer_jax.attention import base, heads, ops
from linformer_jax.attention import order as order_lib
from linformer_jax.attention import projection as projection_lib
from linformer_jax.attention.ops import window
from linformer_jax.parallel import layout

SHARING = ("none", "headwise", "key_value", "layerwise")


def projections(module, length: int, name: str):
  """Returns modules that hold E and F, or one module twice if E = F.

  Args:
    module: the attention, in its `setup`: its `sharing`, `projection`,
      `projected_length`, `num_heads` and `projection_init` are used.
    length: the longest input of E and F.
    name: of the module, or of what follows 'key_' and 'value_'.
  """
  base.require_choice("sharing", module.sharing, SHARING)

  def make(name):
    return projection_lib.SequenceProjection(
      module.projection,
      length,
      module.projected_length,
      module.num_heads if module.sharing == "none" else 0,
      module.projection_init,
      name=name,
    )

  weightless = module.projection in projection_lib.POOLING
  if module.sharing in ("key_value", "layerwise") or weightless:
    one = make(name)
    return one, one
  return make(f"key_{name}"), make(f"value_{name}")


def matrices(module, head_dim: int, shared):
  """Returns E and F of a layer, or twice what layers share, if anything.

  Args:
    module: an attention whose `e` and `f` are made by `projections`.
    head_dim: D.
    shared: a `Projection`, or None.
  """
  if shared is not None:
    return shared, shared
  e = module.e(head_dim)
  return e, e if module.f is module.e else module.f(head_dim)


class LinformerSelfAttention(heads.MultiHeadAttention):
  """Multi-head attention over K projected keys and values, O(N K).

  head_i = softmax(Q_i (E_i K_i)^T / sqrt(D)) F_i V_i (equation 7).

  Attributes:
    num_heads: H; must divide the width M of the input.
    max_length: N, the longest memory; shorter ones use the first columns of E.
    projected_length: K <= N.
    sharing: 'none', an E and an F per head; 'headwise', one E and one F for all
      heads; 'key_value', E = F for all heads; 'layerwise', E = F for all heads
      and all layers, passed by the caller as `shared`.
    projection: 'linear', 'convolution' (kernel and stride N / K, in head
      channels), 'mean_pool', 'max_pool', 'adaptive_pool' (the first row, and
      means of K - 1 windows that divide the other real rows of each input
      evenly, so up to K rows are attended to exactly), or 'random' (fixed,
      never trained).
    order: 'auto' contracts E and F before W_K and W_V if that is cheaper;
      'before' and 'after' force the order. The result is the same.
    local_window: each query also attends to its own row and this many rows on
      either side, in one softmax with the slots; 0 is off. Not in the paper.
    dropout_rate: dropout on the attention weights.
    implementation: see `functional.projected_attention`.
    projection_init: initializer of E and F, or None; see `SequenceProjection`.
  """

  num_heads: int
  max_length: int
  projected_length: int
  sharing: str = "headwise"
  projection: str = "linear"
  order: str = "auto"
  local_window: int = 0
  dropout_rate: float = 0.0
  implementation: str = "xla"
  projection_init: Any = None

  def setup(self):
    super().setup()
    self.e, self.f = projections(self, self.max_length, "projection")

  def check(self, features, *, memory):
    super().check(features, memory=memory)
    ops.check(self.implementation, local_window=self.local_window)
    if self.local_window and memory:
      raise ValueError(
        f"local_window {self.local_window} is for attention to itself, not to "
        "a memory: its rows have no neighbors among the queries"
      )

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns K' = E K and V' = F V [B, H, K, D], a mask [B, K], and a halo.

    The mask is True at slots that saw a real row, or None if all did. The halo
    holds the unprojected rows near each query, for `local_window`, else None.
    """
    m, m_in = features or memory.shape[-1], memory.shape[-1]
    head_dim = heads.split_width(m, self.num_heads)
    x = jnp.asarray(memory, self.dtype)
    e, f = matrices(self, head_dim, shared)

    def project(x, by):  # E X: [B, N, ...] -> [B, K, ...]
      x = projection_lib.project_sequence(x, by, mask)[0]
      axes = ("heads",) if x.ndim == 4 else ()
      return layout.constrain(x, "batch", None, *axes)

    order = order_lib.choose(
      "after" if self.local_window else self.order,
      e.kind,
      self.sharing if shared is None else "layerwise",
      memory.shape[1],
      e.projected_length,
      m,
      self.num_heads,
      memory_m=m_in,
    )
    halo = None
    if order == "before":  # E X W_K: fewer rows go through W_K
      rows = self._project(x, e, f)
      if rows is None:
        rows = project(x, e)
        rows = rows, rows if f is e else project(x, f)
      k, v = self.key(rows[0], head_dim), self.value(rows[1], head_dim)
    else:  # E (X W_K)
      k, rows_k = self.key(x, head_dim, lambda rows: project(rows, e))
      v, rows_v = self.value(x, head_dim, lambda rows: project(rows, f))
      if self.local_window:
        halo = window.halo(rows_k, rows_v, mask, self.local_window)
    return *heads.by_head(k, v), projection_lib.slot_mask(e, mask), halo

  def _project(self, x, e, f):
    """Returns E X and F X by an implementation that reads X once, or None."""
    if e.kind not in projection_lib.DENSE or jnp.ndim(e.weights) != 2:
      return None
    weights = [e.weights] if f is e else [e.weights, f.weights]
    found = ops.project(self.implementation, weights, x)
    return found and (found[0], found[-1])

  def attend(self, x, summary, start=0, *, deterministic=True):
    """See `MultiHeadAttention.attend`; some implementations fuse all of it."""
    k, v, slots, halo = summary
    fuses = ops.IMPLEMENTATIONS[self.implementation].sublayer is not None
    if fuses and halo is None and not self.is_initializing():
      dense = self.query, self.out
      weights = ops.pallas_tpu.Weights(
        *(
          layer.get_variable("params", name)
          for layer in dense
          for name in ("kernel", "bias")
        )
      )
      rows = jnp.asarray(x, self.dtype)
      found = ops.sublayer(self.implementation, rows, weights, k, v, slots)
      if found is not None:
        return found
    return super().attend(x, summary, start, deterministic=deterministic)

  def mix(self, q, summary, start, dropout):
    """Returns softmax(q K'^T / sqrt(D)) V'."""
    k, v, slots, halo = summary
    if halo is None:
      return ops.attend(
        q,
        k,
        v,
        slots,
        dropout=dropout,
        recompute=bool(self.query_block),
        implementation=self.implementation,
      )
    near = halo.around(start, q.shape[1])
    q = q * (q.shape[-1] ** -0.5)
    return window.attend(q, near, (k, v, slots), dropout=dropout)
