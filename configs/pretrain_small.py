"""Pretraining curves at a size that two CPU cores do in minutes (Figure 3).

One recipe for all panels of experiments/perplexity; only what a panel compares
differs between its runs. It is not the paper's size, and these are the choices:

* Four layers of width 128, four heads of 32, MLP 512.
* n = 128 where a panel does not vary it, k a fraction of n as in the paper.
* An update has `TOKENS` tokens at every n, and a run `UPDATES` updates where a
  panel does not take it further.
* Tokens are bytes. With 1,024 subwords no Linformer at k = n/4 left the plateau
  of token frequencies in such a run (results of commit 8a6cc28).
* Post-norm as RoBERTa, kernels and embeddings from N(0, 0.05^2).
* All heads, with softmax attention too, start out looking at neighbours
  (`position_init=neighbours`, see linformer_jax/models/initializers.py). Not
  the paper's.
* An E and an F for each head, the paper's plain form, where a panel does not
  compare how they are shared.
* E and F start as means of n/k neighbours, shifted from head to head, and learn
  at a tenth of the rate of the rest, where a panel says nothing else; kernels
  of a convolution likewise, unshifted. The authors' N(0, 0.02^2) at the full
  rate is in panels f and p.
* Learning rate 2e-3, linear decay to 0; RoBERTa's Adam, gradients clipped at 1.
* No dropout: a run reads less than an epoch.
* 0.1% of the documents held out, all of it evaluated each time.
* Layers one by one (`scan_layers=False`): a loop costs a CPU a fifth.

Argument, any of: n=128, k=32, attention=linformer (softmax), sharing=none
(headwise, key_value, layerwise), projection=linear (convolution, mean_pool,
max_pool, random), updates=1200.

Command: a panel at a time,
  .venv/bin/python -m experiments.perplexity.sweep --panel=a --text='GLOB'
or one run,
  ./launch.sh train --config=configs/pretrain_small.py:n=128,k=32 \
    --config.data.source=files --config.data.files='GLOB' --workdir=runs/small
Hardware: two CPU cores.
Wall-clock and result: experiments/perplexity/README.md.
"""

from configs import base

BYTES = 261  # and special tokens
TOKENS = 1_024  # an update
UPDATES = 1_200
EVERY = 100  # updates to an evaluation, and of warmup


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
  model.attention = given["attention"]
  model.projected_length = given["k"]
  model.sharing = given["sharing"]
  model.projection = given["projection"]
  model.position_offset = 0
  model.position_init = "neighbours"
  model.position_dims = 32
  model.initializer_std = 0.05
  model.projection_init = "mean_pool"
  model.projection_std = 0.0
  model.dropout_rate = model.attention_dropout_rate = 0.0
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
