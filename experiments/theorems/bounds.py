"""What the lemma and the theorems promise, as numbers (arXiv 2006.04768)."""

import math

EPSILONS = (0.25, 0.5, 0.75)


def exponent(epsilon: float) -> float:
  """eps^2 - eps^3, largest at eps = 2/3."""
  return epsilon**2 - epsilon**3


def tail(epsilon: float, k: int) -> float:
  """The lemma: Pr(|x R^T R y^T - x y^T| > eps |x| |y|) is at most this.

  R is [k, n] with entries N(0, 1/k); x and y do not depend on it.

  The factor 2 is right, though the usual way through |x + y|^2 and |x - y|^2
  gives 4. With unit x, y and c = x y^T, x R^T R y^T is a mean of k independent
  ((1 + c) g^2 - (1 - c) h^2) / 2, g and h standard normal. Centred, its
  cumulants are those of c = 1 times ((1 + c)^m + (-1)^m (1 - c)^m) / 2^m, which
  is at most 1. So Chernoff's bound is that of chi-squared at worst, on either
  side: exp(-(eps - log(1 + eps)) k / 2) <= exp(-(eps^2 - eps^3) k / 4).
  """
  return 2 * math.exp(-exponent(epsilon) * k / 4)


def union(epsilon: float, k: int, pairs: int) -> float:
  """Chance that one of several pairs fails, by the sum of their tails."""
  return min(1.0, pairs * tail(epsilon, k))


def theorem_k(n: int, epsilon: float) -> int:
  """k = 5 log n / (eps^2 - eps^3) of theorem 1, rounded up."""
  return math.ceil(5 * math.log(n) / exponent(epsilon))


def theorem2_terms(n: int, d: int, epsilon: float) -> tuple[float, float]:
  """9 d log d / eps^2 and 5 log n / eps^2, constants of Theta taken as 1."""
  return 9 * d * math.log(d) / epsilon**2, 5 * math.log(n) / epsilon**2


def printed_rms(ratio, k: int):
  """Root mean square of |P R^T R w - P w| / |P w|, exactly.

  E |x R^T R w - x w|^2 = (|x|^2 |w|^2 + (x w)^2) / k for each row x of P.

  Args:
    ratio: |P w| / (|P|_F |w|), at most 1.
    k: rows of R.
  """
  return ((ratio**-2 + 1) / k) ** 0.5


def supported_rms(ratio, k: int):
  """Root mean square of |P R^T R w - P w| / (|P|_F |w|), exactly."""
  return ((1 + ratio**2) / k) ** 0.5
