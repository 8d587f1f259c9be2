"""Names of the tensors of BERT, RoBERTa and DistilBERT, and ours for them."""

import dataclasses

# Tensor names. Their axes: V vocab, P positions, T token types, M embed, F mlp.
# Dense kernels are [out, in], as in torch.
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
NORM = "embeddings.LayerNorm"
# Parts of a `models.Block`, and the axes of their weights.
_PARTS = {
  ("attention", "query"): "MM",
  ("attention", "key"): "MM",
  ("attention", "value"): "MM",
  ("attention", "out"): "MM",
  ("attention_norm",): "M",
  ("mlp_in",): "FM",
  ("mlp_out",): "MF",
  ("mlp_norm",): "M",
}


@dataclasses.dataclass(frozen=True)
class Kind:
  """What differs between model types.

  Attributes:
    epsilon: epsilon of the layer norms.
    offset: unused rows at the start of the position table. RoBERTa counts
      positions from one past the id of <pad>, 1.
    types: whether there are token type embeddings.
    layers: name of the list of layers.
    parts: names of the `_PARTS` within a layer.
    lm_head: names of `head_dense`, `head_norm` and `head_bias` of a
      `models.MaskedLM`.
    tied: names of copies of the word embeddings in that head.
    classifier: names of `head_dense` and `head_out` of a `models.Classifier`;
      () if theirs is another one.
  """

  epsilon: float = 1e-12
  offset: int = 0
  types: bool = True
  layers: str = "encoder.layer"
  parts: tuple[str, ...] = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
  )
  lm_head: tuple[str, str, str] = (
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.bias",
  )
  tied: str = "cls.predictions.decoder.weight"
  # As in RoBERTa, the pooler is the tanh of a dense map of the first row.
  classifier: tuple[str, ...] = ("pooler.dense", "classifier")


ROBERTA = Kind(
  epsilon=1e-5,
  offset=2,
  lm_head=("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
  tied="lm_head.decoder.weight",
  classifier=("classifier.dense", "classifier.out_proj"),
)
DISTILBERT = Kind(
  types=False,
  layers="transformer.layer",
  parts=(
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
  ),
  lm_head=("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
  tied="vocab_projector.weight",
  classifier=(),  # Its head has a ReLU.
)
KINDS = {
  "bert": Kind(),
  "roberta": ROBERTA,
  "xlm-roberta": ROBERTA,
  "camembert": ROBERTA,
  "distilbert": DISTILBERT,
}
# Heads, by the class of the model.
LM, CLASSIFIER = HEADS = "MaskedLM", "Classifier"
# Output heads and buffers, which are not part of the encoder.
LEFT_OUT = (
  "pooler.",
  "cls.",
  "lm_head.",
  "classifier.",
  "pre_classifier.",
  "qa_outputs.",
  "vocab_transform.",
  "vocab_layer_norm.",
  "vocab_projector.",
  "embeddings.position_ids",
  "embeddings.token_type_ids",
)


def layers(kind, depth):
  """Yields (path here, their name, axes) of each tensor of the layers."""
  for i in range(depth):
    for (part, letters), name in zip(_PARTS.items(), kind.parts, strict=True):
      ours = (f"layer_{i}", "block", *part)
      yield from _pair(ours, f"{kind.layers}.{i}.{name}", letters)


def _pair(ours, theirs, letters):
  """Yields the weight and the bias of a dense map or a layer norm."""
  weight = "kernel" if len(letters) == 2 else "scale"
  yield (*ours, weight), f"{theirs}.weight", letters
  yield (*ours, "bias"), f"{theirs}.bias", letters[0]


def head(kind, name):
  """Yields (path here, their name, axes) of each tensor of a head."""
  if name == LM:
    dense, norm, bias = kind.lm_head
    yield from _pair(("head_dense",), dense, "MM")
    yield from _pair(("head_norm",), norm, "M")
    yield ("head_bias",), bias, "V"
  else:
    dense, out = kind.classifier
    yield from _pair(("head_dense",), dense, "MM")
    yield from _pair(("head_out",), out, "CM")


def encoder_axes(kind, depth):
  """Returns the axis letters of each tensor of an encoder, by name."""
  axes = {WORDS: "VM", POSITIONS: "PM"}
  if kind.types:
    axes[TYPES] = "TM"
  axes |= {f"{NORM}.weight": "M", f"{NORM}.bias": "M"}
  return axes | {name: letters for _, name, letters in layers(kind, depth)}
