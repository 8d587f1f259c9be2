"""Pretraining curves (Figure 3) at a size that trains in minutes on two cores.

All panels of experiments/perplexity use one recipe; runs of a panel differ only
in what the panel compares. The model is smaller than the paper's:

* Four layers of width 128, four heads of 32, MLP 512.
* n = 128 unless a panel varies it; k is a fraction of n as in the paper.
* An update has `TOKENS` tokens at every n, and a run has `UPDATES` updates
  unless a panel extends it.
* Tokens are bytes. With 1,024 subwords no Linformer at k = n/4 left the plateau
  of token frequencies in such a run (results of commit 8a6cc28).
* Post-norm as in RoBERTa; kernels and embeddings from N(0, 0.05^2).
* All heads, with softmax attention too, initially attend to neighbors
  (`position_init=neighbours`, see linformer_jax/models/initializers.py), unlike
  in the paper.
* An E and an F for each head, the paper's plain form, unless a panel compares
  sharing.
* Unless a panel says otherwise, E and F are initialized to means of n/k
  neighbors, shifted from head to head, and train at a tenth of the learning
  rate; so do convolution kernels, unshifted. Panels f and p use the authors'
  N(0, 0.02^2) at the full rate.
* Learning rate 2e-3, linear decay to 0; RoBERTa's Adam, gradients clipped at 1.
* No dropout: a run reads less than an epoch.
* 0.1% of the documents held out; every evaluation uses all of them.
* Unrolled layers (`scan_layers=False`): a scan is a fifth slower on a CPU.

Argument, any of: n=128, k=32, attention=linformer (softmax, local,
linear, performer, cosformer, nystrom; local+linformer for layers in turn),
sharing=none (headwise, key_value, layerwise), projection=linear (convolution,
mean_pool, max_pool, adaptive_pool, random), updates=1200.

Command: one panel,
  .venv/bin/python -m experiments.perplexity.sweep --panel=a --text='GLOB'
or one run,
  ./launch.sh train --config=configs/pretrain_small.py:n=128,k=32 \
    --config.data.source=files --config.data.files='GLOB' --workdir=runs/small
Hardware: two CPU cores.
Wall-clock and result: experiments/perplexity/README.md.
"""

from configs import base

BYTES = 261  # bytes and special tokens
TOKENS = 1_024  # per update
UPDATES = 1_200
EVERY = 100  # updates between evaluations, and of warmup


def get_config(argument: str = ""):
  """See the module's docstring."""
  given = base.parse_argument(
    argument,
    n=128,
    k=32,
    attention="linformer",
    sharing="none",
    projection="linear",
    updates=UPDATES,
  )
  config = base.get_config()
  model = config.model
  model.vocab_size = BYTES
  model.max_length = n = given["n"]
  model.num_layers = 4
  model.embed_dim = 128
  model.num_heads = 4
  model.mlp_dim = 512
  model.position_offset = 0
  model.position_init = "neighbours"
  model.position_dims = 32
  model.initializer_std = 0.05
  attention = config.attention
  attention.projected_length = given["k"]
  attention.sharing = given["sharing"]
  attention.projection = given["projection"]
  attention.projection_init = "mean_pool"
  attention.projection_std = 0.0
  model.dropout_rate = attention.dropout_rate = 0.0
  base.set_attention(config, given["attention"])
  model.scan_layers = False
  config.data.holdout_fraction = 0.001
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = EVERY
  config.optimizer.projection_rate = 0.1
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = max(1, TOKENS // n)
  config.train.num_steps = given["updates"]
  config.run.log_every_steps = 50
  config.run.eval_every_steps = EVERY
  config.run.eval_batch_size = max(1, 8 * TOKENS // n)
  config.run.checkpoint_every_steps = EVERY
  return config
