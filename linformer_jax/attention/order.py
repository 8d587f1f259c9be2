"""Whether E and F apply before or after W_K and W_V: the cheaper order."""

from linformer_jax.attention import projection

ORDERS = ("auto", "before", "after")


def flops(
  order: str,
  sharing: str,
  n: int,
  k: int,
  m: int,
  h: int,
  memory_m: int = 0,
) -> int:
  """FLOPs of the keys and values of one sequence with dense E and F.

  Args:
    order: 'before' applies E and F to X and then W_K and W_V; 'after' applies
      W_K and W_V first, as equation 7 of arXiv 2006.04768 is written.
    sharing: 'none', 'headwise', 'key_value' or 'layerwise'. The last two have
      E = F, so 'before' projects X once.
    n: length of the memory.
    k: projected length.
    m: width of the keys and values, all heads together.
    h: number of heads.
    memory_m: width of the memory; 0 for m.
  """
  memory_m = memory_m or m
  if order == "after":
    return 4 * n * memory_m * m + 4 * n * k * m
  once = sharing in ("key_value", "layerwise")
  matrices = (1 if once else 2) * (h if sharing == "none" else 1)
  return 2 * matrices * n * k * memory_m + 4 * k * memory_m * m


def cheaper(
  sharing: str, n: int, k: int, m: int, h: int, memory_m: int = 0
) -> str:
  """Returns the contraction order with fewer FLOPs: 'before' or 'after'."""
  sizes = (sharing, n, k, m, h, memory_m)
  before = flops("before", *sizes)
  return "before" if before <= flops("after", *sizes) else "after"


def choose(
  order: str, kind: str, sharing: str, n: int, k: int, m: int, h: int, **widths
) -> str:
  """Returns whether E and F apply 'before' or 'after' W_K and W_V.

  Args:
    order: 'before' or 'after', or 'auto' for the one with fewer FLOPs.
    kind: one of `projection.KINDS`.
    sharing, n, k, m, h, **widths: as for `flops`.

  Raises:
    ValueError: for an order that the kind does not have.
  """
  commutes = kind in projection.COMMUTING
  choices = ORDERS if commutes else ("auto", "after")
  if order not in choices:
    raise ValueError(
      f"order {order!r} is not one of {', '.join(choices)}, those of "
      f"projection {kind!r}"
    )
  if order != "auto":
    return order
  if not commutes:
    return "after"
  if kind in projection.POOLING:  # no products, and fewer rows after it
    return "before"
  return cheaper(sharing, n, k, m, h, **widths)
