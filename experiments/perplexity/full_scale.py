"""The runs of Figure 3 at the paper's own scale, as data.

RoBERTa-base layers, 2^17 tokens per update for every n.
"""

TOKENS = 2**17
DATA = {
  "wiki": (
    "--config.data.source=tfds",
    "--config.data.tfds_name=wiki40b/en",
    "--config.data.tfds_data_dir=gs://tfds-data/datasets",
    "--config.data.tfds_validation_split=validation",
  ),
  "books": (
    "--config.data.source=tfds",
    "--config.data.tfds_name=pg19",
    "--config.data.text_feature=book_text",
    "--config.data.tfds_validation_split=validation",
  ),
}
COMMON = ("--config.model.dtype=bfloat16",)
# (n, k or 0 for softmax, sharing) of Figure 3's models. Panel c's headwise
# model is taken to be panel a's k = 128, and d repeats two from a and b.
_MODELS = [
  *((512, k, "headwise") for k in (0, 64, 128, 256)),
  *((1024, k, "headwise") for k in (0, 128, 256)),
  *((512, 128, sharing) for sharing in ("key_value", "layerwise")),
  *((n, 256, "headwise") for n in (2048, 4096)),
]


def runs() -> dict[str, list[str]]:
  """Returns the flags of each run of Figure 3, by name, without `COMMON`."""
  lines = {}
  for n, k, sharing in _MODELS:
    name = f"n{n}-" + (f"k{k}" if k else "softmax")
    words = [f"--config=configs/transformer.py:n={n}"]
    if k:
      words = [f"--config=configs/linformer.py:n={n},k={k}"]
    if sharing != "headwise":
      name, words = f"{name}-{sharing}", [f"{words[0]},sharing={sharing}"]
    for field in ("train.batch_size", "run.eval_batch_size"):
      words.append(f"--config.{field}={TOKENS // n}")
    lines[name] = words
  return lines
