"""The points of each panel, as data: models, flags and seeds.

Every point is a run of configs/pretrain_small.py, with the same text, tokens
per update and schedule. A point in two panels is one run.
"""

import dataclasses

from configs import pretrain_small
from linformer_jax.attention import linformer

CONFIG = "configs/pretrain_small.py"
N, K = 128, 32  # unless a panel varies them
UPDATES = pretrain_small.UPDATES
LONG = 3 * UPDATES  # in the panels of the paper's figure, except sharing


@dataclasses.dataclass(frozen=True)
class Point:
  """One model.

  Attributes:
    name: the folder's name, before the seed; it means the same model in all
      panels.
    label: the label in tables and figures.
    argument: the argument of the config file.
    flags: further fields of the config, (field, value as text).
    config: the config file.
  """

  name: str
  label: str
  argument: str
  flags: tuple[tuple[str, str], ...] = ()
  config: str = CONFIG

  def words(self, seed: int) -> list[str]:
    """Returns the point's part of the command line."""
    return [
      f"--config={self.config}:{self.argument}",
      f"--config.seed={seed}",
      *(f"--config.{field}={value}" for field, value in self.flags),
    ]


@dataclasses.dataclass(frozen=True)
class Panel:
  """The content of one figure.

  Attributes:
    title: the figure's title.
    points: the models; the first is the baseline of the others.
    seeds: the seeds of each point.
    controls: softmax attention in the size of each point, or () if the first
      point is that of all.
  """

  title: str
  points: tuple[Point, ...]
  seeds: tuple[int, ...] = (0,)
  controls: tuple[Point, ...] = ()


def _point(
  name: str, label: str, argument: str, updates: int, flags=()
) -> Point:
  """Returns a point of the recipe with this number of updates."""
  if updates != UPDATES:
    name, argument = f"{name}-u{updates}", f"{argument},updates={updates}"
  return Point(name, label, argument, flags)


def softmax(n: int = N, updates: int = UPDATES) -> Point:
  """Returns the Transformer with sequence length n."""
  argument = f"n={n},k={K},attention=softmax"
  return _point(f"n{n}-softmax", "softmax", argument, updates)


def linear(
  n: int = N,
  k: int = K,
  sharing: str = "none",
  label: str = "",
  updates: int = UPDATES,
) -> Point:
  """Returns a Linformer with the recipe's initialization of E and F."""
  name, argument = f"n{n}-k{k}", f"n={n},k={k}"
  if sharing != "none":
    name, argument = f"{name}-{sharing}", f"{argument},sharing={sharing}"
  return _point(name, label or f"k = {k}", argument, updates)


def started(
  name: str,
  label: str,
  init: str,
  std: float,
  rate: float = 1.0,
  k: int = K,
  sharing: str = "none",
) -> Point:
  """Returns a Linformer with another initialization and rate of E and F.

  At k = n, 'strided' is the identity.
  """
  flags = (
    ("attention.projection_init", init),
    ("attention.projection_std", f"{std:.4g}"),
    ("optimizer.projection_rate", str(rate)),
  )
  argument = f"n={N},k={k}"
  if sharing != "none":
    argument += f",sharing={sharing}"
  return Point(f"n{N}-k{k}-{name}", label, argument, flags)


AUTHORS = "normal", 0.02  # initialization of E and F
# Labels of ways to share E and F.
SHARED = {"none": "an E and F for each head", "key_value": "key-value"}


def _projected(kind):
  """Returns another kind of projection, with the default n, k and init."""
  label = kind.replace("_", " ")
  return Point(f"n{N}-k{K}-{kind}", label, f"n={N},k={K},projection={kind}")


def _drawn_convolution():
  """Returns a convolution with the init and rate of other layers."""
  return Point(
    f"n{N}-k{K}-convolution-drawn",
    "convolution, random kernels",
    f"n={N},k={K},projection=convolution",
    (
      ("attention.projection_init", "normal"),
      ("optimizer.projection_rate", "1.0"),
    ),
  )


# Smaller k in higher layers (section 4 of the paper), 32 on average.
NON_UNIFORM = (64, 32, 16, 16)


def _suggested():
  """Returns the variants that the paper suggests without results."""
  tapered = Point(
    f"n{N}-tapered",
    f"k = {', '.join(map(str, NON_UNIFORM))}",
    f"n={N},k={K}",
    (("attention.projected_lengths", f"({', '.join(map(str, NON_UNIFORM))})"),),
  )
  kinds = map(_projected, ("random", "convolution", "mean_pool", "max_pool"))
  return (softmax(), linear(), tapered, *kinds, _drawn_convolution())


def _plateau():
  """Returns causes of the plateau: E's init, scale, rate and sharing."""

  def start(name, label, init, std, rate=1.0, sharing="headwise"):
    return started(name, label, init, std, rate, N, sharing)

  return (
    softmax(),
    Point(
      f"n{N}-softmax-sinusoidal",
      "softmax, sinusoidal positions",
      softmax().argument,
      (("model.position_init", "sinusoidal"),),
    ),
    start("identity-frozen", "E = I, frozen", "strided", 0, 0.0),
    start("identity-slow", "E = I, rate × 0.1", "strided", 0, 0.1),
    start("identity", "E = I", "strided", 0),
    start("noisy-frozen", "I + N(0, 0.02²), frozen", "strided", 0.02, 0.0),
    start("noisy", "I + N(0, 0.02²)", "strided", 0.02),
    start("authors-frozen", "N(0, 0.02²), frozen", *AUTHORS, 0.0),
    start("authors-slow", "N(0, 0.02²), rate × 0.1", *AUTHORS, 0.1),
    start("authors", "N(0, 0.02²), the authors'", *AUTHORS),
    start("authors-fast", "N(0, 0.02²), rate × 10", *AUTHORS, 10.0),
    start("wide", "N(0, 1/k)", "normal", N**-0.5),
    start(
      "authors-heads",
      "N(0, 0.02²), an E for each head",
      *AUTHORS,
      sharing="none",
    ),
  )


def _sizes(attention: str = "linformer"):
  """Returns the recipe with other k, widths and tokens per update.

  With softmax attention, returns the control of each of these points.
  """
  recipe = softmax()
  by_k = (recipe, recipe)
  if attention == "linformer":
    recipe = linear(label=f"k = {K}, width 128, 1,024 tokens an update")
    by_k = tuple(linear(k=N // part) for part in (8, 2))
  prefix = f"n{N}-k{K}" if attention == "linformer" else f"n{N}-softmax"

  def sized(name, label, *flags):
    return Point(f"{prefix}-{name}", label, recipe.argument, flags)

  def wide(width):
    return sized(
      f"width{width}",
      f"width {width}",
      ("model.embed_dim", str(width)),
      ("model.mlp_dim", str(4 * width)),
    )

  def batch(sequences):
    return sized(
      f"batch{sequences}",
      f"{N * sequences:,} tokens an update",
      ("train.batch_size", str(sequences)),
    )

  return recipe, *by_k, batch(4), batch(16), wide(64), wide(256)


WINDOW = 4  # rows on each side
NEAR = 2 * WINDOW + 1


def _windowed(updates=UPDATES):
  """Replaces some slots by a local window; k = 1 is the control."""
  labels = {
    K - NEAR: f"k = {K - NEAR}, and {NEAR} rows around each query",
    1: f"k = 1, and {NEAR} rows around each query",
  }
  flags = (("attention.local_window", str(WINDOW)),)
  return tuple(
    _point(f"n{N}-k{k}-near", label, f"n={N},k={k}", updates, flags)
    for k, label in labels.items()
  )


def _variants():
  """Returns variants that may close the gap to softmax attention at one k."""
  return (
    softmax(),
    started("authors", "N(0, 0.02²), the authors'", *AUTHORS),
    started("authors-slow", "N(0, 0.02²), rate × 0.1", *AUTHORS, 0.1),
    started("windows", "means of neighbors", "mean_pool", 0),
    linear(label="means of neighbors, rate × 0.1, the recipe"),
    started("strided", "every 4th row, rate × 0.1", "strided", 0, 0.1),
    *_windowed(),
  )


def _by_k(n):
  """Returns softmax attention, and k from n/8 to n/2."""
  lengths = (n // part for part in (8, 4, 2))
  return (softmax(n, LONG), *(linear(n, k, updates=LONG) for k in lengths))


FREE = (
  ("model.position_gain", "0.0"),
  ("model.norm_position", "pre"),
  ("model.initializer_std", "0.0"),
)


def _free(n: int, updates: int = UPDATES) -> Point:
  """Returns softmax attention without neighbor heads."""
  label = f"softmax, n = {n}"
  if updates != UPDATES:
    label += f", {updates:,} updates"
  name, argument = f"n{n}-softmax-free", softmax(n).argument
  return _point(name, label, argument, updates, FREE)


def _free_windows(n: int, name: str = "", label: str = "", flags=FREE) -> Point:
  """Returns windows of 17 rows in all layers without neighbor heads."""
  return Point(
    f"n{n}-local-free{name}",
    f"17 rows around each query, n = {n}{label}",
    f"n={n},k={K},attention=local",
    (("attention.window", "8"), *flags),
  )


LONGER = (N // 2, N, 2 * N, 4 * N)
PANELS = {
  "a": Panel(f"(a) n = {N}", _by_k(N), seeds=(0, 1)),
  "b": Panel(f"(b) n = {2 * N}", _by_k(2 * N)),
  "c": Panel(
    f"(c) sharing, n = {N}, k = {K}",
    (
      softmax(),
      *(
        linear(sharing=sharing, label=SHARED.get(sharing, sharing))
        for sharing in linformer.SHARING
      ),
    ),
    seeds=(0, 1),
  ),
  "d": Panel(
    f"(d) k = {K}, longer and longer sequences",
    tuple(linear(n, K, label=f"n = {n}", updates=LONG) for n in LONGER),
    controls=tuple(softmax(n, LONG) for n in LONGER),
  ),
  "e": Panel(
    f"(e) suggested in the paper without results, n = {N}", _suggested(), (0, 1)
  ),
  "f": Panel(f"(f) closer to softmax, k = {K}, n = {N}", _variants(), (0, 1)),
  "l": Panel(
    f"(l) a window for longer, n = {N}",
    (softmax(updates=LONG), linear(updates=LONG), *_windowed(LONG)),
  ),
  "p": Panel(f"(p) leaving the plateau, k = n = {N}", _plateau(), (0, 1)),
  "q": Panel(
    "(q) leaving the plateau without neighbor heads",
    (
      _free(16),
      _free(32),
      _free(64, LONG),
      _free(N, LONG),
      _free_windows(N),
      _free_windows(4 * N),
      _free_windows(N, "-post", ", post-norm, N(0, 0.05²)", FREE[:1]),
    ),
  ),
  "g": Panel(
    f"(g) leaving the plateau: k, width and tokens, n = {N}",
    _sizes(),
    (0, 1),
    controls=_sizes("softmax"),
  ),
}

OF_PLATEAUS = (
  "p",
  "q",
  "g",
)  # panels that show the updates to leave the plateau
