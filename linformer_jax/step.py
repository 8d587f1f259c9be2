"""The training state and the jitted train and evaluation steps."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from linformer_jax import attention, models, optimizer, tasks
from linformer_jax.data import buckets
from linformer_jax.parallel import sharding
from linformer_jax.tasks import auxiliary


@flax.struct.dataclass
class TrainState:
  """Everything an update changes, and the constants it reads.

  Attributes:
    step: int32 scalar, updates completed.
    params: float32 parameters.
    constants: fixed random projections; empty for other projection kinds.
    opt_state: optimizer state of optax.
  """

  step: jax.Array
  params: Any
  constants: Any
  opt_state: Any


@dataclasses.dataclass(frozen=True)
class Steps:
  """Jitted functions of one config on one mesh.

  Attributes:
    init: () -> TrainState.
    train: (state, batch) -> (state, metrics); the state is donated.
    evaluate: (state, batch) -> the task's sums.
    abstract_state: TrainState of shapes with shardings.
    abstract_batch: training batch of shapes with shardings.
    mesh: the devices.
    task: the task.
    model: the ModelConfig.
    flops: FLOPs of an update over all devices, forward and backward pass.
  """

  init: Callable
  train: Callable
  evaluate: Callable
  abstract_state: TrainState
  abstract_batch: dict[str, jax.ShapeDtypeStruct]
  mesh: jax.sharding.Mesh
  task: tasks.Task
  model: models.ModelConfig
  flops: int

  @property
  def batch_size(self) -> int:
    """Rows per update."""
    return jax.tree.leaves(self.abstract_batch)[0].shape[0]

  def place(self, batch) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch on the mesh."""
    fields = self.task.spec(masked=True)
    axes = {name: fields[name].axes for name in batch}
    return sharding.to_global(batch, axes, self.mesh)

  def work(self, batch) -> tuple[int, int]:
    """Returns the tokens and the FLOPs of an update on a batch."""
    rows = self.batch_size
    for name, field in self.task.spec(masked=self.task.short).items():
      shape = batch[name].shape[1:]
      if shape != field.shape:  # a short batch, of `data.length_buckets`
        length = shape[field.axes.index("sequence")]
        short = dataclasses.replace(self.task, length=length)
        return rows * length, 3 * rows * short.flops()
    return rows * self.task.length, self.flops


class Updates:
  """`Steps.train`, compiled once for each shape of its batches."""

  def __init__(self, steps: Steps):
    self._steps, self._compiled = steps, {}

  def knows(self, batch) -> bool:
    """Returns whether a batch has a shape that is compiled."""
    return _shapes(batch) in self._compiled

  def compile(self, batch):
    """Compiles the update of batches like this one, arrays or shapes."""
    like = {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
      for name, x in batch.items()
    }
    lowered = self._steps.train.lower(self._steps.abstract_state, like)
    self._compiled[_shapes(batch)] = lowered.compile()

  def __call__(self, state, batch):
    """Returns (state, metrics); see `Steps.train`."""
    return self._compiled[_shapes(batch)](state, batch)


def _shapes(batch) -> tuple:
  return tuple(sorted((name, x.shape) for name, x in batch.items()))


def model_config(config) -> models.ModelConfig:
  """Returns the `model` and `attention` groups as a validated ModelConfig."""
  layers = attention.from_fields(
    config.attention.to_dict(), config.model.num_layers
  )
  return models.ModelConfig(attention=layers, **config.model.to_dict())


def task_of(config) -> tasks.Task:
  """Returns the task of a config."""
  return tasks.create(config, model_config(config))


def _abstract_batch(config, task, mesh):
  """Returns the shapes of a global training batch, with shardings."""
  return {
    name: jax.ShapeDtypeStruct(
      (config.train.batch_size, *field.shape),
      field.dtype,
      sharding=sharding.of_batch(field.axes, mesh),
    )
    for name, field in task.spec(masked=task.short).items()
  }


def _accumulated(sums_of, params, batch, key, parts):
  """Returns gradients and sums accumulated over `parts` microbatches."""

  def differentiate(rows, indices):
    def loss(params):
      # Row i of a microbatch is row i * parts + part of the batch.
      sums = sums_of(params, rows, jax.random.fold_in(key, indices[0]))
      terms = [sums[name] for name in ("loss", "auxiliary") if name in sums]
      return sum(terms[1:], terms[0]), sums

    return jax.grad(loss, has_aux=True)(params)

  size = jax.tree.leaves(batch)[0].shape[0]
  if parts > 1:
    differentiate = optax.microbatching.microbatch(
      differentiate, argnums=(0, 1), microbatch_size=size // parts
    )
  return differentiate(batch, jnp.arange(size))


def _initializer(config, task):
  """Returns () -> TrainState at step 0."""
  tx = _optimizer(config)

  def init():
    variables = task.module().init(
      jax.random.key(config.seed), *task.init_arguments()
    )
    params = variables["params"]
    return TrainState(
      jnp.int32(0), params, variables.get("constants", {}), tx.init(params)
    )

  return init


def _optimizer(config):
  train = config.train
  return optimizer.create(config.optimizer, train.num_steps, train.restarts)


def abstract_shapes(config, task: tasks.Task | None = None) -> TrainState:
  """Returns the shapes of the state of a config, or of a task of its own."""
  return jax.eval_shape(_initializer(config, task or task_of(config)))


def abstract_state(
  config, mesh: jax.sharding.Mesh, task: tasks.Task | None = None
) -> TrainState:
  """Returns the same shapes with shardings."""
  shapes = abstract_shapes(config, task)
  return jax.tree.map(
    lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
    shapes,
    sharding.of_state(shapes, mesh),
  )


def build_steps(
  config,
  mesh: jax.sharding.Mesh,
  model: models.ModelConfig | None = None,
) -> Steps:
  """Builds the steps of a config on a mesh without computing anything.

  Args:
    config: a full experiment config, as in configs/base.py.
    mesh: as returned by `sharding.make_mesh`.
    model: None for the model of the config.

  Raises:
    ValueError: if config values are inconsistent or do not fit the mesh.
  """
  model_cfg = model or model_config(config)
  model_cfg.check_data(config.data.sequence_length, config.data.vocab_size)
  task = tasks.create(config, model_cfg)
  tx = _optimizer(config)
  rate = optimizer.learning_rate(
    config.optimizer, config.train.num_steps, config.train.restarts
  )
  parts = config.train.accumulation_steps
  sharding.check_batch("train.batch_size", config.train.batch_size, mesh, parts)
  sharding.check_batch("run.eval_batch_size", config.run.eval_batch_size, mesh)
  data = config.data
  for length in buckets.lengths(data.sequence_length, data.length_buckets):
    sharding.check_model(model_cfg, length, mesh)

  def train(state, batch):
    def sums_of(params, rows, key):
      variables = {"params": params, "constants": state.constants}
      key = key if model_cfg.has_dropout else None
      return auxiliary.sums_of(task, variables, rows, key)

    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    with sharding.on_mesh(mesh, config.mesh.float32_gradients):
      grads, sums = _accumulated(sums_of, state.params, batch, key, parts)
    weight = jnp.maximum(sums["weight"], 1)
    grads = jax.tree.map(lambda g: g / weight, grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = sums | {
      "gradient_norm": optax.tree.norm(grads),
      # Finite norms imply a finite new state, so checkpoints stay finite.
      "parameter_norm": optax.tree.norm(params),
      "learning_rate": rate(state.step),
    }
    return state.replace(
      step=state.step + 1, params=params, opt_state=opt_state
    ), metrics

  def evaluate(state, batch):
    variables = {"params": state.params, "constants": state.constants}
    with sharding.on_mesh(mesh):
      return task.sums(variables, batch)

  abstract = abstract_state(config, mesh, task)
  placed = jax.tree.map(lambda x: x.sharding, abstract)
  whole = NamedSharding(mesh, PartitionSpec())
  return Steps(
    init=jax.jit(_initializer(config, task), out_shardings=placed),
    train=jax.jit(
      train,
      in_shardings=(placed, None),
      out_shardings=(placed, whole),
      donate_argnums=0,
    ),
    evaluate=jax.jit(
      evaluate, in_shardings=(placed, None), out_shardings=whole
    ),
    abstract_state=abstract,
    abstract_batch=_abstract_batch(config, task, mesh),
    mesh=mesh,
    task=task,
    model=model_cfg,
    flops=3 * config.train.batch_size * task.flops(),
  )
