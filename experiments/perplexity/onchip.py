"""Pretrains eight layers of width 512 on one GPU, everything on the chip.

  python -m experiments.perplexity.onchip tokens --text='GLOB' TOKENS.npz
  python -m experiments.perplexity.onchip train TOKENS.npz --updates=1500

The first command tokenizes text as training does. The second draws the masked
batches of a run once, in all processes of the host, places them on the chip,
and trains every model of `MODELS` at every rate of `RATES` on the same ones:
so the input costs nothing, and a run of a minute sees a hundred million tokens.
n = 512, bfloat16, 8,192 subwords, headwise E and F from N(0, 0.02^2) at the
full learning rate as in the authors' code, no dropout.
"""

import argparse
import concurrent.futures
import multiprocessing
import pathlib
import sys
import time

import jax
import numpy as np

from configs import base, linformer
from experiments import grid
from experiments import page as page_lib
from linformer_jax import hardware, step
from linformer_jax.data.text import masking
from linformer_jax.parallel import sharding

RESULTS = page_lib.ROOT / "experiments/perplexity/results/onchip/runs.jsonl"
N, VOCAB, ROWS = 512, 8_192, 64
EVALUATIONS = 12  # in a run
LOWER = "local+local+local+local+linformer+linformer+linformer+linformer"
# name: attention of the layers, k, rows of the window on either side
MODELS = {
  "softmax": ("softmax", 0, 0),
  "k=64": ("linformer", 64, 0),
  "k=128": ("linformer", 128, 0),
  "k=256": ("linformer", 256, 0),
  "mixed": (LOWER, 64, 16),
}
RATES = (7e-4,)


def configuration(model: str, rate: float, updates: int, seed: int = 0):
  """Returns the config of a run."""
  names, k, window = MODELS[model]
  config = linformer.get_config(f"n={N}")
  fields = config.model
  fields.vocab_size = VOCAB
  fields.num_layers, fields.embed_dim = 8, 512
  fields.num_heads, fields.mlp_dim = 8, 2048
  fields.dtype = "bfloat16"
  fields.dropout_rate = config.attention.dropout_rate = 0.0
  fields.scan_layers = False
  base.set_attention(config, names)
  parts = dict.fromkeys(names.split("+"))
  whole = config.attention
  groups = [whole] if len(parts) == 1 else [whole[part] for part in parts]
  for group in groups:
    if "projected_length" in group:
      group.projected_length = k
    if "window" in group:
      group.window = window
  if names == "softmax" and jax.default_backend() == "gpu":
    whole.implementation = "cudnn"
  config.optimizer.learning_rate = rate
  config.optimizer.warmup_steps = updates // 10
  config.optimizer.clip_norm = 1.0
  config.train.num_steps = updates
  config.train.batch_size = config.run.eval_batch_size = ROWS
  config.seed = seed
  return config


def tokenize(text: str, path: pathlib.Path):
  """Writes the token blocks of training and validation, and the vocabulary."""
  from linformer_jax.data import pipeline

  config = configuration("softmax", RATES[0], 100)
  config.data.source, config.data.files = "files", text
  config.data.holdout_fraction = 0.01
  corpus = pipeline.prepare(pipeline.DataConfig(**config.data.to_dict()))
  blocks = {
    name: np.stack([record["tokens"] for record in records]).astype(np.uint16)
    for name, records in (("train", corpus.train), ("valid", corpus.validation))
    if len(records)
  }
  vocabulary = corpus.vocabulary
  np.savez(
    path,
    **blocks,
    counts=corpus.token_counts,
    special=vocabulary.special,
    mask_id=vocabulary.mask_id,
  )
  print({name: block.shape for name, block in blocks.items()}, path)


def _draw(job):
  """Returns a stacked batch of rows: the work of one process."""
  rows, seed, vocabulary, predictions = job
  real = np.ones(rows.shape[1], bool)
  made = [
    masking.mask_tokens(
      row.astype(np.int32),
      real,
      np.random.default_rng((seed, i)),
      vocabulary,
      predictions,
    )
    for i, row in enumerate(rows)
  ]
  return {
    name: np.stack([row[name] for row in made])
    for name in ("tokens", "positions", "targets", "weights")
  }


def batches(path: pathlib.Path, updates: int, predictions: int, seed: int = 0):
  """Returns training and validation batches [batches, ROWS, ...], on the host.

  Every epoch has a new order and new masks. Validation always has the same.
  """
  with np.load(path) as file:
    train, valid = file["train"], file["valid"]
    special = file["special"]
    vocabulary = masking.Vocabulary(
      int(file["mask_id"]), np.flatnonzero(~special).astype(np.int32), special
    )
  rng = np.random.default_rng(seed)
  epochs = -(-updates * ROWS // len(train))
  order = np.concatenate([rng.permutation(len(train)) for _ in range(epochs)])
  order = order[: updates * ROWS].reshape(updates, ROWS)
  valid = valid[: len(valid) // ROWS * ROWS].reshape(-1, ROWS, N)
  jobs = [
    (train[rows], seed + 1 + i, vocabulary, predictions)
    for i, rows in enumerate(order)
  ]
  jobs += [(rows, i, vocabulary, predictions) for i, rows in enumerate(valid)]
  context = multiprocessing.get_context("spawn")
  with context.Pool() as pool:
    made = pool.map(_draw, jobs, chunksize=8)
  stacked = {
    name: np.stack([batch[name] for batch in made]) for name in made[0]
  }
  return tuple(
    {name: x[part] for name, x in stacked.items()}
    for part in (slice(None, updates), slice(updates, None))
  )


def unigram(path: pathlib.Path, valid) -> float:
  """Returns the nats per masked token of the unigram model of training."""
  with np.load(path) as file:
    counts = file["counts"] + 1.0
  return float(-np.log(counts / counts.sum())[valid["targets"]].mean())


def compiled(config):
  """Returns the steps of a config, its compiled update and evaluation."""
  steps = step.build_steps(config, sharding.make_mesh(config.mesh))

  def evaluate(state, batches):
    sums = jax.lax.map(lambda batch: steps.evaluate(state, batch), batches)
    return jax.tree.map(lambda x: x.sum(0), sums)

  update = steps.train.lower(
    steps.abstract_state, steps.abstract_batch
  ).compile()
  return steps, update, jax.jit(evaluate)


def train(steps, update, evaluate, training, valid, updates: int) -> dict:
  """Trains a model; returns its curve in nats per masked token."""
  take = jax.jit(lambda batches, i: jax.tree.map(lambda x: x[i], batches))
  state, curve, spent = steps.init(), [], 0.0
  jax.block_until_ready(evaluate(state, valid))
  every = max(1, updates // EVALUATIONS)
  start = time.perf_counter()
  for i in range(updates):
    state, _ = update(state, take(training, i))
    if (i + 1) % every == 0 or i + 1 == updates:
      jax.block_until_ready(state)
      spent += time.perf_counter() - start
      sums = jax.device_get(evaluate(state, valid))
      nats = float(sums["loss"] / sums["weight"])
      curve.append([i + 1, round(nats, 5), round(spent, 3)])
      start = time.perf_counter()
  return {
    "curve": curve,
    "flops": steps.flops * updates,
    "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
  }


def table(path: pathlib.Path = RESULTS) -> str:
  """Returns the runs as a table, with the hardware."""
  lines = grid.lines(path)
  rows = [
    "| model | parameters | updates | tokens | nats per masked token | unigram "
    "| seconds |",
    "|---|" + "---:|" * 6,
  ]
  for line in lines:
    updates, nats, seconds = line["curve"][-1]
    tokens = updates * line["rows"] * line["n"] / 1e6
    rows.append(
      f"| {line['model']} | {line['parameters']:,} | {updates:,} "
      f"| {tokens:.0f} million | {nats:.3f} | {line['unigram_nats']:.3f} "
      f"| {seconds:.0f} |"
    )
  last = "{device}, {cpu}, jax {jax}, commit {commit}".format(**lines[-1])
  return "\n".join([*rows, "", last + "; one seed."])


def main():
  """See the module's docstring."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("command", choices=("tokens", "train"))
  parser.add_argument("path", type=pathlib.Path, metavar="TOKENS.npz")
  parser.add_argument("--text", help="globs of text, of the first command")
  parser.add_argument("--updates", type=int, default=1500, help="of each run")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", default="", help="a model, such as k=128")
  parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
  given = parser.parse_args()
  if given.command == "tokens":
    if not given.text:
      parser.error("tokens needs --text")
    tokenize(given.text, given.path)
    return
  names = [name for name in MODELS if given.only in ("", name)]
  runs = [(name, rate) for rate in RATES for name in names]
  began = time.perf_counter()
  with concurrent.futures.ThreadPoolExecutor(10) as pool:
    configs = [configuration(*run, given.updates, given.seed) for run in runs]
    programs = [pool.submit(compiled, config) for config in configs]
    predictions = step.task_of(configs[0]).predictions
    made = batches(given.path, given.updates, predictions, given.seed)
    floor = unigram(given.path, made[1])
    training, valid = jax.device_put(made)
    programs = [program.result() for program in programs]
  print(f"prepared in {time.perf_counter() - began:.0f} s", flush=True)
  environment = hardware.environment()
  for (name, rate), program in zip(runs, programs, strict=True):
    found = train(*program, training, valid, given.updates)
    line = {"model": name, "learning_rate": rate, "seed": given.seed}
    line |= {"rows": ROWS, "n": N, "unigram_nats": floor} | found | environment
    grid.append(given.results, line)
    steps, nats, seconds = found["curve"][-1]
    print(
      f"{name} at {rate}: {nats:.3f} nats after {steps} updates, {seconds:.1f} "
      f"s, {found['flops'] / seconds / 1e12:.0f} TFLOP/s",
      flush=True,
    )


if __name__ == "__main__":
  sys.exit(main())
