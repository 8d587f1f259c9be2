"""The Long Range Arena (arXiv 2011.04006), from scratch, at its sizes.

Lists of digits to evaluate, reviews as bytes, pairs of papers as bytes, images
as gray levels, and paths in images. Sizes, batches, updates and warmup are
those of the authors' released configs, and so is the peak of the learning rate,
which then falls linearly to 0. Theirs falls with the inverse square root of the
update, or as a cosine for images, and their queries, keys and values for
pathfinder are half as wide. Padding is masked, unlike in their Linformer.

Argument, any of: task=listops (text, retrieval, image, pathfinder),
attention=softmax (any other, or several as in local+linformer), k=256,
folder=runs/lra/TASK, objective=label (masked_lm pretrains on the same texts; a
run of objective=label then starts from it by --init_from).

The folder has train.jsonl and valid.jsonl, and tokenizer.json where a word is a
token: `python -m experiments.lra.listops`, `.pixels` and `.retrieval` write it.
text reads imdb_reviews by TensorFlow Datasets unless a folder is given; it has
no validation split, so a tenth of the training texts validates. No run reads
the test split. When all is chosen, train once more with
--config.data.validation_files=FOLDER/test.jsonl to score it.

Command:
  .venv/bin/python -m experiments.lra.listops --to=runs/lra/listops
  ./launch.sh train --config=configs/lra.py:task=listops,attention=linformer \\
    --workdir=runs/lra-listops
Hardware: one GPU or TPU chip; experiments/lra has runs of two CPU cores.
Wall-clock and result: not yet run at these sizes.
"""

from configs import base

FOLDER = "runs/lra/{}"
# words beside 5 special tokens (0: bytes), tokens, layers, width, heads, MLP,
# classes, batch, updates, peak rate, warmup, weight decay, dropout
TASKS = {
  "listops": (15, 2_000, 4, 512, 8, 1_024, 10, 32, 5_000, 1.58e-3, 1_000, 0.1,
              0.1),
  "text": (0, 4_000, 4, 256, 4, 1_024, 2, 32, 20_000, 5.6e-4, 8_000, 0.1, 0.1),
  "retrieval": (0, 4_000, 4, 128, 4, 512, 2, 32, 5_000, 3.5e-4, 4_999, 0.1,
                0.1),
  "image": (256, 1_024, 1, 32, 1, 64, 10, 256, 35_000, 5e-4, 175, 0.0, 0.3),
  "pathfinder": (256, 1_024, 1, 32, 2, 32, 2, 512, 62_400, 1e-3, 312, 0.0, 0.1),
}  # fmt: skip
BYTES = 256
SPECIAL = 5
OBJECTIVES = ("label", "masked_lm")


def get_config(argument: str = ""):
  """See the module's docstring."""
  given = base.parse_argument(
    argument,
    task="listops",
    attention="softmax",
    k=256,
    folder="",
    objective="label",
  )
  name = given["task"]
  for field, known in (("task", TASKS), ("objective", OBJECTIVES)):
    if given[field] not in known:
      raise ValueError(
        f"config argument {field}={given[field]!r} is not one of "
        f"{', '.join(known)}"
      )
  (words, n, layers, width, heads, mlp, classes, batch, updates, rate, warmup,
   decay, dropout) = TASKS[name]  # fmt: skip
  config = base.get_config()
  model, data = config.model, config.data
  model.vocab_size = SPECIAL + (words or BYTES)
  # Even, and with room for <s> and </s>.
  model.max_length = n + 2
  model.num_layers, model.embed_dim = layers, width
  model.num_heads, model.mlp_dim = heads, mlp
  model.position_offset = 0
  model.dropout_rate = config.attention.dropout_rate = dropout
  config.attention.projected_length = given["k"]
  base.set_attention(config, given["attention"])
  folder = given["folder"] or FOLDER.format(name)
  if name == "text" and not given["folder"]:
    data.tfds_name, data.tfds_train_split = "imdb_reviews", "train[:90%]"
    data.tfds_validation_split = "train[90%:]"
  else:
    data.files = f"{folder}/train.jsonl"
    data.validation_files = f"{folder}/valid.jsonl"
  data.tokenizer_path = f"{folder}/tokenizer.json" if words else ""
  if given["objective"] == "label":
    data.source = "labeled"
    with config.unlocked():
      config.task = {
        "name": "matching" if name == "retrieval" else "classification",
        "num_classes": classes,
        "metric": "accuracy",
      }
    data.separate_pairs = name == "retrieval"
  else:
    data.source = "tfds" if data.tfds_name else "files"
  config.optimizer.learning_rate = rate
  config.optimizer.warmup_steps = warmup
  config.optimizer.weight_decay = decay
  config.train.batch_size = batch
  config.train.num_steps = updates
  config.run.eval_every_steps = config.run.checkpoint_every_steps = 1_000
  return config
