"""A regression on texts that learns in seconds."""

from tests import tiny


def get_config():
  """The model of tests/tiny.py on labeled texts."""
  config = tiny.get_config()
  with config.unlocked():
    config.task = {"name": "regression"}
  config.model.dropout_rate = config.attention.dropout_rate = 0.0
  config.data.source = "labeled"
  config.data.holdout_fraction = 0.2
  config.train.batch_size = 32
  config.train.num_steps = 200
  config.run.log_every_steps = config.run.checkpoint_every_steps = 100
  return config
