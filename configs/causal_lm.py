"""Causal language modeling on the packaged speeches.

Predicts each token from those before it, at the size of configs/smoke.py.

Argument: attention=softmax (local, linear, performer, cosformer; softmax+local
for layers in turn).

Command: ./launch.sh train --config=configs/causal_lm.py --workdir=runs/causal
Hardware: two CPU cores.
Wall-clock and result: not recorded.
"""

from configs import base, smoke


def get_config(argument: str = ""):
  """See the module's docstring."""
  given = base.parse_argument(argument, attention="softmax")
  config = smoke.get_config()
  with config.unlocked():
    config.task = {"name": "causal_lm"}
  base.set_attention(config, given["attention"])
  return config
