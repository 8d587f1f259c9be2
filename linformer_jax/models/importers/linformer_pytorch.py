"""Weights of the package linformer-pytorch of PyPI (tatp22, 0.19.3).

The layers of its Linformer are exactly the post-norm `Block` here. One thing
is in the way of a whole model: a post-norm encoder here begins with a layer
norm, and theirs does not. `convert` gives it scale 1 and bias 0, so that the
encoder here is theirs on rows that are normalized first. A LinformerLM does not
normalize its embeddings, so it is refused; its layers can be converted.

A learnable E or F of theirs adds a bias to each slot. The paper's do not, and
a module here can represent it only if it is the same for all slots. That of a
convolution has a value for each channel, and becomes the bias of W_K or W_V.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from linformer_jax import attention
from linformer_jax.attention import projection
from linformer_jax.models import config as model_config
from linformer_jax.models.importers import reader, sharing

_ALONE = (
  "a LinformerLM has no layer norm of its embeddings, and a post-norm model "
  "here has one: give the tensors below 'linformer.', by the rest of their "
  "names"
)
_REFUSED = {
  "to_token_emb.": _ALONE,
  "project_in.": _ALONE,
  "resample.": "layers of several widths (ff_intermediate) are not supported",
}
_GIVE_N = (
  "the length N is not in these tensors: give settings={'input_size': N}"
)


def _head_projection(tensors, name):
  """Returns the weights of one E or F of a head, and its bias by channel."""
  missing = ": a state_dict does not hold those of method='no_params'"
  of_slots = tensors.get(f"{name}.weight", missing).ndim == 2
  weights = tensors.take(f"{name}.weight", "KN" if of_slots else "DDW")
  bias = tensors.take(f"{name}.bias", "K" if of_slots else "D")
  if not of_slots:
    return weights.T, bias  # [out, in, W] to [W, in, out]
  if (bias != bias[0]).any():
    raise ValueError(
      f"{name}.bias differs between slots, and projections here have no bias: "
      "only one that is the same for all slots is supported"
    )
  return weights, np.full(tensors.sizes["D"], bias[0])


def _projections(tensors, at, num_heads):
  """Returns the config, the biases of keys and values, and E and F."""
  sides = []
  for side in "EF":
    each = [
      _head_projection(tensors, f"{at}heads.{i}.{side}")
      for i in range(num_heads)
    ]
    sides.append([np.stack(x) for x in zip(*each, strict=True)])
  (e, key_bias), (f, value_bias) = sides
  kind, leaf = "linear", "kernel"
  if window := tensors.sizes.get("W"):
    kind, leaf = "convolution", "window_kernel"
    if "N" not in tensors.sizes:
      raise ValueError(_GIVE_N)
    tensors.sizes["K"], rest = divmod(tensors.sizes["N"], window)
    if rest:
      raise ValueError(
        f"input_size {tensors.sizes['N']} is not divisible by the {window} "
        f"rows of the windows of {at}heads.0.E, whose last rows are lost"
      )
  mode, projections = sharing.share_heads(e, f, leaf)
  config = attention.LinformerConfig(
    projected_length=tensors.sizes["K"], sharing=mode, projection=kind
  )
  return config, key_bias.ravel(), value_bias.ravel(), projections


def _out(tensors, at):
  """Returns the output map; two in a row are one."""
  if f"{at}w_o_1.weight" not in tensors:
    return tensors.dense(f"{at}w_o")
  first = tensors.dense(f"{at}w_o_1", "IM")
  second = tensors.dense(f"{at}w_o_2", "MI")
  kernel = second["kernel"].astype(np.float64)
  return {
    "kernel": (first["kernel"] @ kernel).astype(np.float32),
    "bias": (first["bias"] @ kernel + second["bias"]).astype(np.float32),
  }


def _attention(tensors, at, settings):
  """Returns the config and the parameters of the attention named `at`."""
  num_heads = tensors.count(rf"{at}to_q\.(\d+)\.")
  for letter in "KW":  # of this layer
    tensors.sizes.pop(letter, None)

  def joined(name):
    each = [
      tensors.take(f"{at}{name}.{i}.weight", "DM").T for i in range(num_heads)
    ]
    kernel = np.concatenate(each, axis=1)
    return {"kernel": kernel, "bias": np.zeros(kernel.shape[1], np.float32)}

  params = {
    "query": joined("to_q"),
    "key": joined("to_k"),
    "value": joined("to_v"),
  }
  tensors.sizes["H"] = num_heads
  width, head_dim = tensors.sizes["M"], tensors.sizes["D"]
  if num_heads * head_dim != width:
    raise ValueError(
      f"{at}to_q has {num_heads} heads of {head_dim} columns, not the {width} "
      "of a row here: only a dim_d of channels / nhead is supported"
    )
  params["out"] = _out(tensors, at)
  if settings.get("full_attention"):
    e = f"{at}heads.0.E.weight"
    if e in tensors and tensors.get(e).ndim == 2:
      tensors.take(e, "KN")
    tensors.drop(rf"{at}heads\.\d+\.[EF]\.(weight|bias)")
    return attention.SoftmaxConfig(), params
  found = _projections(tensors, at, num_heads)
  kind, params["key"]["bias"], params["value"]["bias"], projections = found
  return kind, params | projections


def _reader(tensors, settings):
  """Returns the tensors, and the settings, after checks."""
  settings = dict(settings or {})
  if not settings.get("full_attention"):  # slots hold later rows too
    reader.expect(settings, {"causal": False})
  given = {"N": settings["input_size"]} if "input_size" in settings else {}
  tensors = reader.Reader(tensors, **given)
  tensors.refuse(_REFUSED)
  return tensors, settings


def convert_attention(
  tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any] | None = None
) -> tuple[attention.MultiHeadAttention, dict[str, Any]]:
  """Converts a linformer_pytorch.MHAttention, exactly.

  Args:
    tensors: by name: to_q.{i}.weight, to_k.{i}.weight and to_v.{i}.weight
      [D, M] of each head, heads.{i}.E and heads.{i}.F, each with a weight
      [K, N] and a bias [K], or [D, D, W] and [D] of a convolution, and w_o, or
      w_o_1 and w_o_2. Their equality tells what is shared.
    settings: arguments of their model, for what the tensors do not tell:
      `input_size` N, needed for a convolution, and `full_attention` and
      `causal`, if set. Others are ignored.

  Returns:
    The module, a `LinformerSelfAttention`, or a `SoftmaxSelfAttention` for
    `full_attention`, and {'params': ...}. Its `memory` is their `embeddings`.

  Raises:
    ValueError: for a missing or unknown tensor, or another shape; for
      method='no_params', a dim_d that is not M / H, a bias that differs between
      slots, or `causal` without `full_attention`.
  """
  tensors, settings = _reader(tensors, settings)
  kind, params = _attention(tensors, "", settings)
  tensors.finish()
  sizes = tensors.sizes
  if isinstance(kind, attention.SoftmaxConfig):
    causal = bool(settings.get("causal"))
    module = attention.SoftmaxSelfAttention(sizes["H"], causal=causal)
    return module, {"params": params}
  n, k = sizes["N"], kind.projected_length
  projection.weights_shape(kind.projection, n, k, sizes["D"])
  module = attention.LinformerSelfAttention(
    sizes["H"], n, k, kind.sharing, kind.projection
  )
  return module, {"params": params}


def convert(
  tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any] | None = None
) -> tuple[model_config.ModelConfig, dict[str, Any]]:
  """Converts a linformer_pytorch.Linformer.

  The blocks return what their layers return, and the encoder the same of rows
  that a layer norm has normalized; see above. Theirs takes N rows only.

  Args:
    tensors: by name, as for `convert_attention` but below 'seq.{2 i}.fn.'.
    settings: as for `convert_attention`, and `activation` and `decoder_mode`,
      if set: the tensors of a decoder look like those of twice the layers.
      Layers with `full_attention` have softmax attention here, and if they are
      `causal` too, the model is `Encoder(config, causal=True)`.

  Returns:
    The config, whose vocab_size is 1 and not used, and {'params': ...} without
    scanned layers of an `Encoder`. Two maps in place of W_O
    (w_o_intermediate_dim) become their product.

  Raises:
    ValueError: as for `convert_attention`; for a LinformerLM, an activation
      other than 'gelu', ff_intermediate, include_ff=False or `decoder_mode`.
  """
  reader.expect(settings or {}, {"activation": "gelu", "decoder_mode": False})
  tensors, settings = _reader(tensors, settings)
  depth = (tensors.count(r"seq\.(\d+)\.") + 1) // 2
  params, kinds = {}, []
  for i in range(depth):
    first, second = f"seq.{2 * i}.", f"seq.{2 * i + 1}."
    kind, layer = _attention(tensors, f"{first}fn.", settings)
    kinds.append(kind)
    block = {
      "attention": layer,
      "attention_norm": tensors.norm(f"{first}norm"),
      "mlp_in": tensors.dense(f"{second}fn.w_1", "FM"),
      "mlp_out": tensors.dense(f"{second}fn.w_2", "MF"),
      "mlp_norm": tensors.norm(f"{second}norm"),
    }
    params[f"layer_{i}"] = {"block": block}
  tensors.finish()
  sizes = tensors.sizes
  if "N" not in sizes:
    raise ValueError(_GIVE_N)
  one = np.ones(sizes["M"], np.float32)
  params["norm"] = {"scale": one, "bias": 0 * one}
  config = model_config.ModelConfig(
    vocab_size=1,
    max_length=sizes["N"],
    num_layers=depth,
    embed_dim=sizes["M"],
    num_heads=sizes["H"],
    mlp_dim=sizes["F"],
    attention=sharing.share_layers(kinds, params),
    norm_position="post",
    norm_epsilon=1e-5,
    scan_layers=False,
  )
  return config, {"params": params}
