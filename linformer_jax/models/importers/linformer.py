"""Weights of the package linformer of PyPI (lucidrains, 0.2.3).

Its layers are exactly the pre-norm `Block` here. Two things are in the way of
a whole model: a pre-norm encoder here ends in a layer norm and theirs does not,
and their logits come from a dense map that is not tied to the embeddings. So
`convert` returns an encoder whose rows before the last layer norm are theirs.
That layer norm has scale 1 and bias 0, and `to_logits` is left out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from linformer_jax import attention
from linformer_jax.attention import heads, projection
from linformer_jax.models import config as model_config
from linformer_jax.models.importers import reader, sharing

_REFUSED = {
  "net.blocks.": "reversible layers carry two streams of rows, and the layers "
  "here one: only reversible=False is supported"
}


def _attention(tensors, at, num_heads):
  """Returns the config and the parameters of the attention named `at`."""
  query = tensors.dense(f"{at}to_q", "IM", bias=False)
  inner, width = tensors.sizes["I"], tensors.sizes["M"]
  if inner != width:
    raise ValueError(
      f"{at}to_q.weight has {inner} rows, not the {width} of a row here: only "
      "a dim_head of dim / heads is supported"
    )
  tensors.sizes["D"] = head_dim = heads.split_width(width, num_heads)

  def memory(name):
    """A map of keys or values, which one_kv_head has for all heads at once."""
    shape = tensors.get(f"{at}{name}.weight").shape
    one = shape[:1] == (head_dim,)
    layer = tensors.dense(f"{at}{name}", "DM" if one else "MM", bias=False)
    times = num_heads if one else 1
    return {name: np.tile(x, times) for name, x in layer.items()}

  key = value = memory("to_k")
  e = f = tensors.take(f"{at}proj_k", "NK").T
  if f"{at}to_v.weight" in tensors or f"{at}proj_v" in tensors:
    value = memory("to_v")
    f = tensors.take(f"{at}proj_v", "NK").T
  mode, projections = sharing.share_heads(e[None], f[None])
  kind = attention.LinformerConfig(
    projected_length=tensors.sizes["K"], sharing=mode
  )
  out = tensors.dense(f"{at}to_out")
  params = {"query": query, "key": key, "value": value, "out": out}
  return kind, params | projections


def convert_attention(
  tensors: Mapping[str, np.ndarray], num_heads: int
) -> tuple[attention.LinformerSelfAttention, dict[str, Any]]:
  """Converts a linformer.LinformerSelfAttention, exactly.

  Its `share_kv` has W_K = W_V beside E = F, and `one_kv_head` has keys and
  values of one head: here these maps are repeated, and then trained apart.

  Args:
    tensors: by name: to_q.weight [M, M], to_k.weight and to_v.weight [M, M] or
      [D, M], proj_k and proj_v [N, K], to_out.weight [M, M], to_out.bias [M];
      without to_v and proj_v for `share_kv`.
    num_heads: H.

  Returns:
    The module, whose `memory` is their `context`, and {'params': ...}.

  Raises:
    ValueError: for a missing or unknown tensor, another shape, a dim_head that
      is not M / H, or K > N.
  """
  tensors = reader.Reader(tensors)
  kind, params = _attention(tensors, "", num_heads)
  tensors.finish()
  n, k = tensors.sizes["N"], kind.projected_length
  projection.weights_shape("linear", n, k, tensors.sizes["D"])
  module = attention.LinformerSelfAttention(num_heads, n, k, kind.sharing)
  return module, {"params": params}


def convert(
  tensors: Mapping[str, np.ndarray], num_heads: int
) -> tuple[model_config.ModelConfig, dict[str, Any]]:
  """Converts a linformer.LinformerLM or a linformer.Linformer.

  The blocks return what their layers return, and the encoder the layer norm of
  that; see above. Inputs may have any length up to N.

  Args:
    tensors: by name, as for `convert_attention` but below
      'linformer.net.layers.{i}.0.fn.' of a LinformerLM, which also has
      token_emb.weight [V, M] and pos_emb.weight [N, M], or below
      'net.layers.{i}.0.fn.' of a Linformer.
    num_heads: H.

  Returns:
    The config, and {'params': ...} without scanned layers of a `TokenEncoder`,
    or of an `Encoder` for a Linformer, whose vocab_size is 1 and not used.

  Raises:
    ValueError: as for `convert_attention`; for reversible layers.
  """
  tensors = reader.Reader(tensors)
  tensors.refuse(_REFUSED)
  prefix, params, kinds = "net.", {}, []
  if "token_emb.weight" in tensors:
    prefix = "linformer.net."
    tensors.drop(r"to_logits\.(weight|bias)")
    params["embed"] = {
      "tokens": {"embedding": tensors.take("token_emb.weight", "VM")},
      "positions": tensors.take("pos_emb.weight", "NM"),
    }
  depth = tensors.count(rf"{prefix}layers\.(\d+)\.")
  for i in range(depth):
    first, second = (f"{prefix}layers.{i}.{j}." for j in range(2))
    kind, layer = _attention(tensors, f"{first}fn.", num_heads)
    kinds.append(kind)
    block = {
      "attention": layer,
      "attention_norm": tensors.norm(f"{first}norm"),
      "mlp_in": tensors.dense(f"{second}fn.w1", "FM"),
      "mlp_out": tensors.dense(f"{second}fn.w2", "MF"),
      "mlp_norm": tensors.norm(f"{second}norm"),
    }
    params[f"layer_{i}"] = {"block": block}
  tensors.finish()
  sizes = tensors.sizes
  one = np.ones(sizes["M"], np.float32)
  params["norm"] = {"scale": one, "bias": 0 * one}
  config = model_config.ModelConfig(
    vocab_size=sizes.get("V", 1),
    max_length=sizes["N"],
    num_layers=depth,
    embed_dim=sizes["M"],
    num_heads=num_heads,
    mlp_dim=sizes["F"],
    attention=sharing.share_layers(kinds, params),
    norm_position="pre",
    norm_epsilon=1e-5,
    scan_layers=False,
  )
  return config, {"params": params}
