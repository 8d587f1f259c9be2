"""The default job: a small Linformer on the packaged speeches."""

from configs import base


def get_config(argument: str = ""):
  """See the module's docstring."""
  base.parse_argument(argument)
  config = base.get_config()
  model = config.model
  model.vocab_size = 1024
  model.max_length = 64
  model.num_layers = 2
  model.embed_dim = 256
  model.num_heads = 8
  model.mlp_dim = 1024
  model.projected_length = 32
  model.sharing = "none"
  model.position_offset = 0
  model.position_init = "neighbours"
  model.position_dims = 32
  model.initializer_std = 0.05
  model.projection_init = "strided"
  model.dropout_rate = model.attention_dropout_rate = 0.0
  model.scan_layers = False
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 16
  config.train.num_steps = 2_500
  config.run.log_every_steps = 100
  config.run.eval_every_steps = 500
  config.run.eval_batch_size = 64
  config.run.checkpoint_every_steps = 500
  return config
