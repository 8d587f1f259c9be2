"""The default job: a small Linformer on the packaged speeches, in ten minutes.

Two layers of width 256, eight heads with an E and an F each, n = 64, k = 32,
1,024 subwords, batches of 1,024 tokens. It learns quickly because heads
initially attend to neighbors and E picks every second row; see
linformer_jax/models/initializers.py.

Argument: attention=linformer (softmax, local, linear, performer, cosformer,
nystrom; local+linformer for layers in turn).

Command: ./launch.sh
Hardware: two CPU cores.
Wall-clock and result: experiments/smoke/results/result.json; a validation
  perplexity of 6% of the unigram perplexity.
"""

from configs import base


def get_config(argument: str = ""):
  """See the module's docstring."""
  given = base.parse_argument(argument, attention="linformer")
  config = base.get_config()
  model = config.model
  model.vocab_size = 1024
  model.max_length = 64
  model.num_layers = 2
  model.embed_dim = 256
  model.num_heads = 8
  model.mlp_dim = 1024
  model.position_offset = 0
  model.position_init = "neighbours"
  model.position_dims = 32
  model.initializer_std = 0.05
  model.dropout_rate = config.attention.dropout_rate = 0.0
  model.scan_layers = False
  config.attention.projected_length = 32
  config.attention.sharing = "none"
  config.attention.projection_init = "strided"
  base.set_attention(config, given["attention"])
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 16
  config.train.num_steps = 2_400
  config.run.log_every_steps = 100
  config.run.eval_every_steps = 400
  config.run.eval_batch_size = 64
  config.run.checkpoint_every_steps = 400
  return config
