"""Classification of your own texts, from scratch.

Reads JSON lines with `text`, `label` and optionally `text_pair`. Has the size
of configs/smoke.py, at n = 128 and k = 32; rows are padded and masked.

Argument: attention=linformer, as for configs/smoke.py.

Command: ./launch.sh train --config=configs/classification.py \\
  --config.data.files=FILES.jsonl --config.task.num_classes=2 --workdir=runs/c
Hardware: two CPU cores.
Wall-clock and result: depend on the texts; a run prints its accuracy and that
  of the most frequent label.
"""

from configs import smoke


def get_config(argument: str = ""):
  """See the module's docstring."""
  config = smoke.get_config(argument)
  with config.unlocked():
    config.task = {
      "name": "classification",
      "num_classes": 2,
      "metric": "accuracy",
    }
  config.data.source = "labeled"
  config.model.vocab_size = 4096
  config.model.max_length = 128
  config.model.dropout_rate = 0.1
  return config
