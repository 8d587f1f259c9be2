"""Near rows and slots in one softmax, so that the slots are not crowded out.

`experiments.hybrid.config` makes it known to the trainer.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from linformer_jax import attention
from linformer_jax.attention import linformer, linformer_config
from linformer_jax.attention.ops import window


class NearFarSelfAttention(linformer.LinformerSelfAttention):
  """Linformer attention with a local window, and two changes for training it.

  Attributes:
    dual_norm: normalize the keys and values of near rows, and those of slots,
      each by a layer norm of its own over D: the dual normalization of
      Transformer-LS (Zhu et al. 2021, arXiv 2107.02192, section 3.3).
    dropout_rate: the share of sequences that do without their near rows, in
      this layer and this update, and have slots alone.
  """

  dual_norm: bool = False

  def setup(self):
    super().setup()
    if self.dual_norm:
      self.near_norm, self.far_norm = nn.LayerNorm(), nn.LayerNorm()

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    k, v, slots, halo = super().summarise(
      memory, mask, features=features, shared=shared
    )
    if self.dual_norm:
      k, v = self.far_norm(k), self.far_norm(v)
      rows_k, rows_v, real = halo.rows
      normalized = self.near_norm(rows_k), self.near_norm(rows_v)
      halo = dataclasses.replace(halo, rows=(*normalized, real))
    return k, v, slots, halo

  def mix(self, q, summary, start, dropout):
    k, v, slots, halo = summary
    rows_k, rows_v, real = halo.around(start, q.shape[1])
    if dropout:
      rate, key = dropout
      kept = jax.random.bernoulli(key, 1 - rate, (len(real), 1))
      real = real & kept
    q = q * (q.shape[-1] ** -0.5)
    return window.attend(q, (rows_k, rows_v, real), (k, v, slots))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearFarConfig(linformer_config.LinformerConfig):
  """Attributes as of `NearFarSelfAttention`."""

  dual_norm: bool = False

  name: ClassVar[str] = "near_far"

  def module(self, sizes):
    made = super().module(sizes)
    fields = {
      field.name: getattr(made, field.name)
      for field in dataclasses.fields(made)
      if field.init and field.name not in ("parent", "name")
    }
    return NearFarSelfAttention(**fields, dual_norm=self.dual_norm)


def register():
  """Adds the attention to the trainer's table."""
  attention.ATTENTIONS[NearFarConfig.name] = NearFarConfig
