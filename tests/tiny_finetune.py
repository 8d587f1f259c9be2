"""The classifier of tests/tiny.py, which takes the model of --init_from."""

from tests import tiny


def get_config():
  """Three classes of labeled texts."""
  config = tiny.get_config()
  with config.unlocked():
    config.task = {
      "name": "classification",
      "num_classes": 3,
      "metric": "accuracy",
    }
  config.model.dropout_rate = config.attention.dropout_rate = 0.2
  config.data.source = "labeled"
  config.train.init_model = True
  return config
