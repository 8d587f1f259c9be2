"""Pretrains the baseline: linformer.py with softmax attention.

Argument, any of: n=512 (to 4096), size=base (large).

Command:
  ./launch.sh train --config=configs/transformer.py:n=512 \
    --config.data.source=tfds --config.data.tfds_name=wiki40b/en \
    --config.data.tfds_data_dir=gs://tfds-data/datasets \
    --config.data.tfds_validation_split=validation --workdir=runs/transformer
Hardware: a TPU v5e-16 slice or larger.
Wall-clock and result: not yet run at this scale. The paper's validation
  perplexity after 250k updates, read off its Figure 3: 3.26 at n=512.
"""

from configs import base, linformer


def get_config(argument: str = ""):
  """See the module's docstring."""
  given = base.parse_argument(argument, n=512, size="base")
  config = linformer.get_config(f"n={given['n']},size={given['size']}")
  base.set_attention(config, "softmax")
  return config
