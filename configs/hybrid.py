"""Pretrains a stack of linear cost: windows in the lower half, slots above.

The layers of linformer.py, of which the lower half attend to the rows near a
query, exactly (`local`), and the upper half to k projected slots (`linformer`).
Small models on bytes are not behind softmax attention with windows of 8 rows
and 8 slots at n = 128 to 1,024 (experiments/hybrid); the defaults leave room,
as this size has not been run.

Argument, any of: n=512 (to 4096), window=64 (rows on either side), k=64,
size=base (large).

Command:
  ./launch.sh train --config=configs/hybrid.py:n=512 \
    --config.data.source=tfds --config.data.tfds_name=wiki40b/en \
    --config.data.tfds_data_dir=gs://tfds-data/datasets \
    --config.data.tfds_validation_split=validation --workdir=runs/hybrid
Hardware: a TPU v5e-16 slice or larger.
Wall-clock and result: not yet run at this scale; see experiments/hybrid for
  models of four layers on a CPU.
"""

from configs import base, linformer


def get_config(argument: str = ""):
  """See the module's docstring."""
  given = base.parse_argument(argument, n=512, window=64, k=64, size="base")
  config = linformer.get_config(
    f"n={given['n']},k={given['k']},size={given['size']}"
  )
  half = config.model.num_layers // 2
  base.set_attention(config, "+".join(["local"] * half + ["linformer"] * half))
  config.attention.local.window = given["window"]
  return config
