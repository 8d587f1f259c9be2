"""The cells to measure: the grid of the paper's Table 3 and the baselines."""

import csv
import dataclasses
import pathlib

LENGTHS = [512 * 2**i for i in range(8)]  # n, 512 ... 65,536 tokens
PROJECTED = [128, 256, 512, 1024, 2048]  # k
TOKENS = 8192  # per batch, unless one sequence is longer
LINEAR_LENGTHS = [4096 * 2**i for i in range(9)]  # 4,096 ... 1,048,576

# RoBERTa-base.
WIDTH, HEADS, MLP = 768, 12, 3072

OURS = ("linformer_layerwise", "linformer_headwise")
SOFTMAX = ("softmax", "softmax_flash")
PYPI = ("pypi_linformer", "pypi_linformer_pytorch")
TORCH = "torch_sdpa"
PASSES = ("forward", "forward_backward")


@dataclasses.dataclass(frozen=True)
class Cell:
  """One measurement.

  Attributes:
    scope: 'layer', one attention layer; 'stack', encoder layers; 'length', one
      attention layer on one sequence; 'compile', the train step.
    implementation: one of the names above.
    n: sequence length in tokens.
    k: projected length, 0 for softmax attention.
    what: one of `PASSES`, or 'compile'.
    depth: the number of layers.
  """

  scope: str
  implementation: str
  n: int
  k: int
  what: str = "forward"
  depth: int = 1

  @property
  def batch(self) -> int:
    """The number of sequences."""
    return 1 if self.scope == "length" else max(1, TOKENS // self.n)

  def flops(self, of_layer) -> int:
    """Returns the FLOPs of a pass, given those of attention's forward pass."""
    layer = of_layer
    if self.scope == "stack":
      layer += 4 * self.n * WIDTH * MLP
    passes = 3 if self.what == "forward_backward" else 1
    return passes * self.batch * self.depth * layer


def grid() -> list[tuple[int, int]]:
  """Returns the (n, k) of Table 3: k below n."""
  return [(n, k) for n in LENGTHS for k in PROJECTED if k < n]


def depth(n: int) -> int:
  """Returns the layers of a stack: two if time allows; times are per layer."""
  return 2 if n <= 16_384 else 1


def every_cell() -> list[Cell]:
  """Returns all cells: those of Table 3 first, and short before long."""
  cells = []
  for what in PASSES:
    for scope in ("stack", "layer"):
      names = (*OURS, *SOFTMAX)
      if scope == "layer":
        names += (*PYPI, TORCH)
      for n in LENGTHS:
        layers = depth(n) if scope == "stack" else 1
        for name in names:
          of_k = [0]
          if name in OURS + PYPI:
            of_k = [k for at, k in grid() if at == n]
          cells += [Cell(scope, name, n, k, what, layers) for k in of_k]
    if what == "forward":
      cells += [
        Cell("length", "linformer_layerwise", n, 128) for n in LINEAR_LENGTHS
      ]
      cells += [
        Cell("compile", name, 512, k, "compile", layers)
        for layers in (2, 24)
        for name, k in (("linformer_headwise", 128), ("softmax", 0))
      ]
  return cells


def paper_table(name: str) -> dict[tuple[int, int], float]:
  """Returns 'table3_time' or 'table3_memory' of the paper: {(n, k): ratio}."""
  path = pathlib.Path(__file__).parent / f"paper_{name}.csv"
  with path.open() as file:
    rows = list(csv.reader(line for line in file if line[0] != "#"))
  names = [int(column[1:]) for column in rows[0][1:]]
  return {
    (int(n), k): float(text)
    for n, *row in rows[1:]
    for k, text in zip(names, row, strict=True)
    if text
  }
