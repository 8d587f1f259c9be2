"""An attention, a data set and a task in one file, as a --config file.

Rows of numbers of any length up to N; the task is to tell whether the first
one occurs again.
"""

import dataclasses
import types
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from configs import base
from linformer_jax import attention, flops, models, tasks
from linformer_jax.data import pipeline

NUMBERS, MOST = 20, 16


class MeanAttention(attention.MultiHeadAttention):
  num_heads: int
  scale: float = 1.0

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    v = self.value(memory, memory.shape[-1] // self.num_heads)
    if mask is None:
      return v.mean(1)
    return v.mean(1, where=mask[..., None, None])

  def mix(self, q, summary, start, dropout):
    return jnp.broadcast_to(self.scale * summary[:, None], q.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanConfig(attention.AttentionConfig):
  name: ClassVar[str] = "mean"
  Module: ClassVar[type] = MeanAttention
  scale: float = 1.0


attention.ATTENTIONS[MeanConfig.name] = MeanConfig


class Rows:
  def __init__(self, seed, count, sequence_length):
    self._seed, self._count = seed, count
    self.sequence_length = sequence_length

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    rng = np.random.default_rng((self._seed, index))
    row = rng.integers(0, NUMBERS, rng.integers(4, self.sequence_length))
    return {"row": row, "again": row[0] in row[1:]}


def open_rows(config, known):
  del known
  length = config.sequence_length
  return types.SimpleNamespace(
    train=Rows(0, 256, length),
    validation=Rows(1, 40, length),
    directory="nowhere",
    record=None,
    tokenizer_json=None,
  )


class Module(nn.Module):
  config: models.ModelConfig

  @nn.compact
  def __call__(self, numbers, mask=None, deterministic=True):
    width = self.config.embed_dim
    place = self.param("place", nn.initializers.normal(), (MOST, width))
    x = nn.Embed(NUMBERS, width)(numbers) + place[: numbers.shape[1]]
    x = models.Encoder(self.config)(x, mask, deterministic)
    return nn.Dense(1)(x[:, 0])[:, 0]


@dataclasses.dataclass(frozen=True)
class Task:
  model: models.ModelConfig
  length: int

  headline: ClassVar[str] = "hits"
  number: ClassVar[str] = ".1%"
  scale: ClassVar[str] = "linear"
  unit: ClassVar[str] = "rows"
  floor_name: ClassVar[str] = "guess"
  short: ClassVar[bool] = True
  outputs: ClassVar[int] = 1

  def module(self):
    return Module(self.model)

  def spec(self, masked):
    del masked
    row = (self.length,), ("sequence",)
    return {
      "numbers": tasks.Field(row[0], np.int32, row[1]),
      "real": tasks.Field(row[0], np.bool_, row[1]),
      "answer": tasks.Field((), np.float32, ()),
      "counts": tasks.Field((), np.float32, ()),
    }

  def example(self, record, rng, data):
    del rng, data
    row = record["row"]
    return {
      "numbers": np.pad(row, (0, self.length - len(row))).astype(np.int32),
      "real": np.arange(self.length) < len(row),
      "answer": np.float32(record["again"]),
      "counts": np.float32(1),
    }

  def filler(self):
    row = self.example({"row": np.zeros(1, int), "again": 0}, None, None)
    return row | {"counts": np.float32(0)}

  def init_arguments(self):
    return (jnp.zeros((1, self.model.max_length), jnp.int32),)

  def sums(self, variables, batch, key=None):
    logits = self.module().apply(
      variables,
      batch["numbers"],
      batch["real"],
      deterministic=key is None,
      rngs={} if key is None else {"dropout": key},
    )
    losses = optax.sigmoid_binary_cross_entropy(logits, batch["answer"])
    hits = (logits > 0) == (batch["answer"] > 0)
    return {
      "loss": jnp.sum(losses * batch["counts"]),
      "hits": jnp.sum(hits * batch["counts"]),
      "weight": jnp.sum(batch["counts"]),
    }

  def metrics(self, sums):
    return {name: sums[name] / sums["weight"] for name in ("loss", "hits")}

  def floor(self, data, batches):
    del data
    answers = [batch["answer"][batch["counts"] > 0] for batch in batches]
    share = float(np.concatenate(answers).mean())
    return max(share, 1 - share)

  def flops(self):
    return flops.encoder(self.model, self.length)


@dataclasses.dataclass(frozen=True)
class Config:
  def build(self, model, length):
    return Task(model, length)


tasks.TASKS["again"] = Config
pipeline.DATASETS["rows"] = open_rows


def get_config():
  config = base.get_config()
  with config.unlocked():
    config.task = {"name": "again"}
  base.set_attention(config, "linformer+mean")
  config.data.source = "rows"
  config.update_from_flattened_dict(
    {
      "model.vocab_size": 264,
      "model.max_length": MOST,
      "model.num_layers": 2,
      "model.scan_layers": False,
      "model.embed_dim": 32,
      "model.num_heads": 4,
      "model.mlp_dim": 32,
      "model.query_block": 6,
      "attention.linformer.projected_length": 8,
      "model.dropout_rate": 0.0,  # blocks on a mesh draw other numbers
      "attention.linformer.dropout_rate": 0.0,
      "optimizer.warmup_steps": 2,
      "train.batch_size": 16,
      "train.num_steps": 6,
      "run.log_every_steps": 2,
      "run.eval_batch_size": 16,
      "run.checkpoint_every_steps": 3,
    }
  )
  return config
