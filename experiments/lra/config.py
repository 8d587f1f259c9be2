"""The Arena's tasks at a size for two CPU cores, with or without masks.

Argument, any of: task=digits (listops, text), attention=softmax (any other, or
several), k=64, objective=label (masked_lm), folder=runs/lra/TASK.

Two layers of width 64. objective=unmasked is objective=label
in which padding counts as tokens, as for the Linformer of the Arena's code.
"""

import dataclasses

import numpy as np

from configs import base, lra
from linformer_jax import tasks
from linformer_jax.tasks import classification, texts

# words beside 5 special tokens (0: bytes), tokens with <s> and </s>, classes,
# batch, updates; digits have 66 tokens, and 80 suit every attention
TASKS = {
  "digits": (17, 80, 10, 64, 500),
  "listops": (15, 256, 10, 32, 1_000),
  "text": (0, 1_024, 2, 16, 500),
}
LAYERS, WIDTH, HEADS = 2, 64, 4
DROPOUT = 0.1
WARMUP = 0.1  # of the updates
OBJECTIVES = ("label", "unmasked", "masked_lm")


@dataclasses.dataclass(frozen=True)
class Unmasked(classification.Config):
  """A classification in which padding counts as tokens."""

  def build(self, model, length):
    """Makes the task for rows of N tokens."""
    texts.check(model, length)
    return _Unmasked(self, model, length)


@dataclasses.dataclass(frozen=True)
class _Unmasked(classification.Classification):
  def example(self, record, rng, data):
    row = super().example(record, rng, data)
    return row | {"mask": np.ones_like(row["mask"])}


def get_config(argument: str = ""):
  """See the module's docstring."""
  given = base.parse_argument(
    argument,
    task="digits",
    attention="softmax",
    k=64,
    objective="label",
    folder="",
  )
  words, n, classes, batch, updates = TASKS[given["task"]]
  config = base.get_config()
  model, data = config.model, config.data
  model.vocab_size = lra.SPECIAL + (words or lra.BYTES)
  model.max_length = n
  model.num_layers, model.num_heads = LAYERS, HEADS
  model.embed_dim, model.mlp_dim = WIDTH, 2 * WIDTH
  model.position_offset = 0
  model.scan_layers = False
  config.attention.projected_length = given["k"]
  base.set_attention(config, given["attention"])
  folder = given["folder"] or lra.FOLDER.format(given["task"])
  data.files = f"{folder}/train.jsonl"
  data.validation_files = f"{folder}/valid.jsonl"
  data.tokenizer_path = f"{folder}/tokenizer.json" if words else ""
  dropout = DROPOUT
  if given["objective"] == "masked_lm":
    data.source, dropout = "files", 0.0
  else:
    data.source = "labeled"
    name = given["objective"]
    if name == "unmasked":
      tasks.TASKS[name] = Unmasked
    with config.unlocked():
      config.task = {
        "name": "classification" if name == "label" else name,
        "num_classes": classes,
        "metric": "accuracy",
      }
  model.dropout_rate = dropout
  for group in (config.attention, *config.attention.values()):
    if hasattr(group, "dropout_rate"):
      group.dropout_rate = dropout
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = round(WARMUP * updates)
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = batch
  config.train.num_steps = updates
  config.run.log_every_steps = 50
  config.run.eval_every_steps = 0
  config.run.checkpoint_every_steps = updates
  return config
