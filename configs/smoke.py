"""The default job: a small Linformer on the packaged speeches."""

from configs import base


def get_config(argument: str = ""):
  """See the module's docstring."""
  base.parse_argument(argument)
  config = base.get_config()
  model = config.model
  model.vocab_size = 1024
  model.max_length = 64
  model.num_layers = 4
  model.embed_dim = 128
  model.num_heads = 4
  model.mlp_dim = 512
  model.projected_length = 32
  model.sharing = "none"
  model.norm_position = "pre"
  model.position_offset = 0
  model.position_init = "neighbours"
  model.initializer_std = 0.0
  model.projection_init = "strided"
  model.dropout_rate = model.attention_dropout_rate = 0.0
  model.scan_layers = False
  config.data.holdout_fraction = 0.05
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 16
  config.train.num_steps = 6_000
  config.run.log_every_steps = 100
  config.run.eval_every_steps = 500
  config.run.eval_batch_size = 64
  config.run.checkpoint_every_steps = 1000
  return config
