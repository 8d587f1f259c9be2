"""A model of configs/pretrain_small.py, fine-tuned on labeled files.

The argument is that of configs/pretrain_small.py. RoBERTa's recipe for GLUE
(configs/finetune.py), but for the flags that experiments/finetune/measure.py
sets: learning rate, updates and length.
"""

from configs import finetune, pretrain_small

DROPOUT = 0.1


def get_config(argument: str = ""):
  """See the module's docstring."""
  pretrained = pretrain_small.get_config(argument)
  config = finetune.get_config("task=own")
  with config.unlocked():
    config.model = pretrained.model
    config.attention = pretrained.attention
    config.data.vocab_size = config.model.get_oneway_ref("vocab_size")
  config.train.init_model = False
  config.model.dropout_rate = DROPOUT
  for group in (config.attention, *config.attention.values()):
    if hasattr(group, "dropout_rate"):
      group.dropout_rate = DROPOUT
  config.optimizer.projection_rate = pretrained.optimizer.projection_rate
  config.optimizer.clip_norm = pretrained.optimizer.clip_norm
  return config
