"""A config that trains in seconds, as a module and as a --config file."""

from configs import base


def get_config(attention: str = "linformer"):
  """Two layers of width 32 on synthetic text; nothing is downloaded."""
  config = base.get_config()
  model = config.model
  model.vocab_size = 300
  model.max_length = 32
  model.num_layers = 2
  model.embed_dim = 32
  model.num_heads = 2
  model.mlp_dim = 64
  config.attention.projected_length = 8
  model.dropout_rate = config.attention.dropout_rate = 0.1
  base.set_attention(config, attention)
  config.data.source = "synthetic"
  config.optimizer.learning_rate = 3e-3
  config.optimizer.warmup_steps = 2
  config.train.batch_size = 8
  config.train.num_steps = 4
  config.run.log_every_steps = 1
  config.run.eval_every_steps = 0
  config.run.eval_batch_size = 256
  config.run.checkpoint_every_steps = 2
  return config
