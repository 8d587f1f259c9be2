"""Fine-tunes a pretrained model on one task (the paper's Table 2).

The recipe is RoBERTa's for GLUE (arXiv 1907.11692, Table 10): ten epochs of
batches of 32, peak learning rate 2e-5 (it chose from 1e-5, 2e-5 and 3e-5),
linear warmup over 6% of the updates and decay to 0, weight decay 0.1, dropout
0.1. Encoder, tokenizer, sizes and attention are those of --init_from.

Argument: task=sst2 (imdb, qnli, qqp, mrpc, rte, mnli, cola, stsb; own for your
own files). The metric is GLUE's. imdb has no validation split and takes the
test split; it and `own` are scored by accuracy. Texts are cut to n tokens;
short ones train faster with --config.data.sequence_length=128, and without
cutting any with --config.data.length_buckets=6. Each epoch is evaluated, and
the best checkpoint is kept beside the newest ones: export and predict take it,
or the last with --step=last.

Command:
  ./launch.sh train --config=configs/finetune.py:task=sst2 \\
    --init_from=runs/linformer --workdir=runs/sst2
or, with your own files,
  ./launch.sh train --config=configs/finetune.py:task=own \\
    --config.data.files=train.csv --config.data.validation_files=valid.csv \\
    --config.task.num_classes=3 --config.train.num_steps=2000 \\
    --init_from=runs/smoke --workdir=runs/own
--seeds=5 trains five runs and compares them.
Hardware: one GPU or TPU chip for a model of RoBERTa's size; minutes on two CPU
  cores for that of configs/smoke.py.
Wall-clock and result: not yet run at the paper's scale, where Linformer with
  k=128 and n=512 has accuracies of 92.4 on SST-2, 94.0 on IMDB, 90.4 on QNLI
  and 90.2 on QQP, and RoBERTa 93.1, 94.1, 90.9 and 90.9 (Table 2).
"""

from configs import base

BATCH, EPOCHS = 32, 10
WARMUP = 0.06  # of the updates
# dataset of TFDS, its texts' features, validation split, rows of its training
# split, classes, metric
TASKS = {
  "sst2": ("glue/sst2", "sentence", "", "validation", 67_349, 2, "accuracy"),
  "imdb": ("imdb_reviews", "text", "", "test", 25_000, 2, "accuracy"),
  "qnli": ("glue/qnli", "question", "sentence", "validation", 104_743, 2,
           "accuracy"),
  "qqp": ("glue/qqp", "question1", "question2", "validation", 363_846, 2,
          "f1"),
  "mrpc": ("glue/mrpc", "sentence1", "sentence2", "validation", 3_668, 2,
           "f1"),
  "rte": ("glue/rte", "sentence1", "sentence2", "validation", 2_490, 2,
          "accuracy"),
  "mnli": ("glue/mnli", "premise", "hypothesis", "validation_matched",
           392_702, 3, "accuracy"),
  "cola": ("glue/cola", "sentence", "", "validation", 8_551, 2, "matthews"),
  "stsb": ("glue/stsb", "sentence1", "sentence2", "validation", 5_749, 1,
           "pearson"),
  "own": ("", "text", "", "", 3_200, 2, "accuracy"),
}  # fmt: skip


def get_config(argument: str = ""):
  """See the module's docstring."""
  name = base.parse_argument(argument, task="sst2")["task"]
  if name not in TASKS:
    raise ValueError(
      f"config argument task={name!r} is not one of {', '.join(TASKS)}"
    )
  dataset, text, pair, validation, rows, classes, metric = TASKS[name]
  config = base.get_config()
  with config.unlocked():
    if classes == 1:
      config.task = {"name": "regression"}
    else:
      config.task = {
        "name": "classification",
        "num_classes": classes,
        "metric": metric,
      }
  data = config.data
  data.source = "labeled"
  data.tfds_name, data.tfds_validation_split = dataset, validation
  data.text_feature, data.pair_feature = text, pair
  config.train.init_model = True
  config.train.batch_size = BATCH
  config.train.num_steps = steps = EPOCHS * rows // BATCH
  config.optimizer.learning_rate = 2e-5
  config.optimizer.warmup_steps = round(WARMUP * steps)
  config.optimizer.weight_decay = 0.1
  config.run.eval_every_steps = max(1, rows // BATCH)
  config.run.checkpoint_every_steps = config.run.eval_every_steps
  config.run.keep_best = True
  config.run.log_every_steps = 50
  return config
