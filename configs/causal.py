"""Causal language modeling: text that `./launch.sh generate` continues.

The model and the recipe of pretrain_small.py, each token predicted from those
before it. Heads initially attend to the rows just before them.

Argument, any of: n=512 (a multiple of 32), attention=causal_linformer (softmax,
local, linear, performer, cosformer; local+causal_linformer for layers in turn),
block=32 (rows in a block of causal_linformer), k=4 (its slots), levels=0 (all
slots are kept; 3 for a cache that does not grow), window=64 (rows before a
row that local sees), updates=1200. With --config.task.document_mask=True tokens
see their own document alone (softmax, local, causal_linformer).

Command: ./launch.sh train --config=configs/causal.py --workdir=runs/causal
Hardware: two CPU cores.
Wall-clock and result: experiments/causal/README.md, on other texts.
"""

from configs import base, pretrain_small

VOCABULARY = 1_024  # subwords


def get_config(argument: str = ""):
  """See the module's docstring."""
  given = base.parse_argument(
    argument,
    n=512,
    attention="causal_linformer",
    block=32,
    k=4,
    levels=0,
    window=64,
    updates=pretrain_small.UPDATES,
  )
  config = pretrain_small.get_config(
    f"n={given['n']},updates={given['updates']}"
  )
  config.model.vocab_size = VOCABULARY
  config.data.holdout_fraction = base.get_config().data.holdout_fraction
  with config.unlocked():
    config.task = {"name": "causal_lm", "document_mask": False}
  base.set_attention(config, given["attention"])
  fields = {
    "causal_linformer": {
      "block_length": given["block"],
      "projected_length": given["k"],
      "levels": given["levels"],
    },
    "local": {"window": given["window"]},
  }
  names = given["attention"].split("+")
  for name in set(names) & fields.keys():
    group = config.attention if len(set(names)) == 1 else config.attention[name]
    group.update(fields[name])
  return config
