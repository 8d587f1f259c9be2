"""Weights of the authors' code, a RoBERTa of fairseq (examples/linformer).

It is the architecture here: post-norm layers after a layer norm of the
embeddings (or, since 2021, pre-norm layers without one), GELU, and E and F
before W_K and W_V, whose biases come last. Its heads share E and F. The bias
of a projection that layers share is in a checkpoint but is never added, and is
dropped here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from linformer_jax import attention
from linformer_jax.models import bert_names as names
from linformer_jax.models import config as model_config
from linformer_jax.models.importers import reader, sharing

_WORDS = "sentence_encoder.embed_tokens.weight"
_OFFSET = 2  # unused rows of the position table: fairseq's padding id is 1
_EXPECTED = {"activation_fn": "gelu", "no_scale_embedding": True}
_REFUSED = {
  "quant_noise.": "quantization noise of embeddings is not supported",
  ".bias_k": "an extra key (add_bias_kv) is not supported",
}


def _prefix(tensors):
  """Returns the prefix of the encoder and its heads, such as 'encoder.'."""
  ends = [name for name in tensors if name.endswith(_WORDS)]
  if len(ends) != 1:
    found = ", ".join(sorted(ends or tensors)[:3])
    raise ValueError(
      f"there is {'more than one' if ends else 'no'} tensor {_WORDS}: this is "
      f"not one encoder of fairseq, but has {found}"
    )
  return ends[0].removesuffix(_WORDS)


def _block(tensors, at):
  """Returns the attention config and the parameters of the layer named `at`."""
  inner = f"{at}self_attn."
  e = f = tensors.take(f"{inner}compress_k.weight", "KN")
  if f"{inner}compress_v.weight" in tensors:
    f = tensors.take(f"{inner}compress_v.weight", "KN")
  mode, projections = sharing.share_heads(e[None], f[None])
  kind = attention.LinformerConfig(
    projected_length=tensors.sizes["K"], sharing=mode
  )
  layer = {
    "query": tensors.dense(f"{inner}q_proj"),
    "key": tensors.dense(f"{inner}k_proj"),
    "value": tensors.dense(f"{inner}v_proj"),
    "out": tensors.dense(f"{inner}out_proj"),
    **projections,
  }
  return kind, {
    "attention": layer,
    "attention_norm": tensors.norm(f"{at}self_attn_layer_norm"),
    "mlp_in": tensors.dense(f"{at}fc1", "FM"),
    "mlp_out": tensors.dense(f"{at}fc2", "MF"),
    "mlp_norm": tensors.norm(f"{at}final_layer_norm"),
  }


def _norm(tensors, prefix):
  """Returns 'post' or 'pre', and the layer norm beside the layers."""
  first, last = f"{prefix}layernorm_embedding", f"{prefix}layer_norm"
  if f"{prefix}emb_layer_norm.weight" in tensors:
    first = f"{prefix}emb_layer_norm"  # its name before 2021
  if f"{last}.weight" not in tensors:
    return "post", tensors.norm(first)
  if f"{first}.weight" in tensors:
    raise ValueError(
      f"{last}.weight: a pre-norm model here has no layer norm of embeddings, "
      f"and this one has {first}"
    )
  return "pre", tensors.norm(last)


def _head(tensors, prefix, root, head):
  """Returns the parameters of a head, and drops the others' tensors."""
  at, params = f"{prefix}lm_head.", {}
  if head == names.LM:
    params = {
      "head_dense": tensors.dense(f"{at}dense"),
      "head_norm": tensors.norm(f"{at}layer_norm"),
      "head_bias": tensors.take(f"{at}bias", "V"),
    }
    words, copy = f"{prefix}{_WORDS}", f"{at}weight"
    if copy in tensors and not np.array_equal(
      tensors.get(copy), tensors.get(words)
    ):
      raise ValueError(
        f"{copy} is not {words}, which is both in the model here: convert the "
        "encoder alone, without a head"
      )
  elif head == names.CLASSIFIER:
    at = f"{root}classification_heads."
    found = tensors.values(rf"{at}(\w+)\.")
    if len(found) != 1:
      raise ValueError(
        f"there must be one classification head below {at}, not "
        f"{', '.join(found) or 'none'}: leave out the others' tensors"
      )
    params = {
      "head_dense": tensors.dense(f"{at}{found[0]}.dense"),
      "head_out": tensors.dense(f"{at}{found[0]}.out_proj", "CM"),
    }
  tensors.drop(rf"{prefix}lm_head\..*|{root}classification_heads\..*")
  return params


def convert(
  tensors: Mapping[str, np.ndarray],
  num_heads: int,
  head: str | None = None,
  settings: Mapping[str, Any] | None = None,
) -> tuple[model_config.ModelConfig, dict[str, Any]]:
  """Converts a linformer_roberta of fairseq, exactly, for texts without pads.

  Theirs does not mask pads in its layers, and a model here does. Inputs may
  have any length up to N. See facebookresearch/fairseq, examples/linformer,
  linformer_src/modules. Layers share E = F if they all have the same; those of
  2020 did not (shared_layer_kv_compressed was broken), and each keeps its own.

  Args:
    tensors: of checkpoint['model'], by name: below 'encoder.' or 'decoder.',
      sentence_encoder.embed_tokens.weight [V, M], embed_positions.weight
      [N + 2, M], layernorm_embedding, layers.{i}.self_attn.q_proj, k_proj,
      v_proj and out_proj, compress_k.weight and, if K and V do not share it,
      compress_v.weight [K, N], self_attn_layer_norm, fc1 [F, M], fc2 [M, F] and
      final_layer_norm.
    num_heads: H, encoder_attention_heads of the checkpoint's settings.
    head: 'MaskedLM' or 'Classifier' to convert lm_head or the classification
      head too. Other heads are dropped.
    settings: vars(checkpoint['args']) or checkpoint['cfg']['model'] as a dict,
      or None: the activations and the scale of embeddings, which the tensors do
      not tell, are checked there.

  Returns:
    The config, and {'params': ...} without scanned layers of a `TokenEncoder`,
    or of a `MaskedLM` or a `Classifier`.

  Raises:
    ValueError: for a missing or unknown tensor, another shape or a quantized
      dtype; for pre-norm layers with a layer norm of the embeddings, lm_head
      that is not tied to the embeddings, or an activation that is not 'gelu'.
  """
  if head is not None and head not in names.HEADS:
    raise ValueError(f"head {head!r} is not one of {', '.join(names.HEADS)}")
  reader.expect(settings or {}, _EXPECTED)
  if head == names.CLASSIFIER:
    reader.expect(settings or {}, {"pooler_activation_fn": "tanh"})
  prefix = _prefix(tensors)
  root = prefix.removesuffix("encoder.").removesuffix("decoder.")
  inner = f"{prefix}sentence_encoder."
  tensors = reader.Reader(tensors)
  tensors.refuse(_REFUSED)
  tensors.drop(r"(.*\.)?version|.*\.compress_[kv]\.bias")
  tensors.drop(r".*\.(shared_)?compress_layer\.(weight|bias)")  # of compress_k
  params = {
    "embed": {
      "tokens": {"embedding": tensors.take(f"{prefix}{_WORDS}", "VM")},
      "positions": tensors.take(f"{inner}embed_positions.weight", "PM"),
    }
  }
  position, params["norm"] = _norm(tensors, inner)
  depth, kinds = tensors.count(rf"{inner}layers\.(\d+)\."), []
  for i in range(depth):
    kind, block = _block(tensors, f"{inner}layers.{i}.")
    kinds.append(kind)
    params[f"layer_{i}"] = {"block": block}
  sizes = tensors.sizes
  if sizes["P"] != sizes["N"] + _OFFSET:
    raise ValueError(
      f"{inner}embed_positions.weight has {sizes['P']} rows, not "
      f"{sizes['N'] + _OFFSET}: {_OFFSET} more than compress_k has columns"
    )
  config = model_config.ModelConfig(
    vocab_size=sizes["V"],
    max_length=sizes["N"],
    num_layers=depth,
    embed_dim=sizes["M"],
    num_heads=num_heads,
    mlp_dim=sizes["F"],
    attention=sharing.share_layers(kinds, params),
    norm_position=position,
    position_offset=_OFFSET,
    norm_epsilon=1e-5,
    scan_layers=False,
  )
  extra = _head(tensors, prefix, root, head)
  tensors.finish()
  if head is not None:
    params = {"encoder": params, **extra}
  return config, {"params": params}
