"""The bounds of the lemma and the theorems, as numbers (arXiv 2006.04768)."""

import math

EPSILONS = (0.25, 0.5, 0.75)


def exponent(epsilon: float) -> float:
  """Returns eps^2 - eps^3, which is largest at eps = 2/3."""
  return epsilon**2 - epsilon**3


def tail(epsilon: float, k: int) -> float:
  """Returns the lemma's bound on Pr(|x R^T R y^T - x y^T| > eps |x| |y|).

  R is [k, n] with entries N(0, 1/k), independent of x and y.

  The factor 2 is correct, although the usual proof with |x + y|^2 and |x - y|^2
  gives 4. With unit x, y and c = x y^T, x R^T R y^T is a mean of k independent
  ((1 + c) g^2 - (1 - c) h^2) / 2, with g and h standard normal. The cumulants
  of the centered mean are those for c = 1 times
  ((1 + c)^m + (-1)^m (1 - c)^m) / 2^m, which is at most 1. So Chernoff's bound
  is at worst that of chi-squared, on either side:
  exp(-(eps - log(1 + eps)) k / 2) <= exp(-(eps^2 - eps^3) k / 4).
  """
  return 2 * math.exp(-exponent(epsilon) * k / 4)


def union(epsilon: float, k: int, pairs: int) -> float:
  """Returns the union bound on the probability that any of the pairs fails."""
  return min(1.0, pairs * tail(epsilon, k))


def theorem_k(n: int, epsilon: float) -> int:
  """Returns theorem 1's k = 5 log n / (eps^2 - eps^3), rounded up."""
  return math.ceil(5 * math.log(n) / exponent(epsilon))


def theorem2_terms(n: int, d: int, epsilon: float) -> tuple[float, float]:
  """Returns 9 d log d / eps^2 and 5 log n / eps^2, with Theta's constants 1."""
  return 9 * d * math.log(d) / epsilon**2, 5 * math.log(n) / epsilon**2


def printed_rms(ratio, k: int):
  """Returns the exact root mean square of |P R^T R w - P w| / |P w|.

  E |x R^T R w - x w|^2 = (|x|^2 |w|^2 + (x w)^2) / k for each row x of P.

  Args:
    ratio: |P w| / (|P|_F |w|), at most 1.
    k: the number of rows of R.
  """
  return ((ratio**-2 + 1) / k) ** 0.5


def supported_rms(ratio, k: int):
  """Returns the exact root mean square of |P R^T R w - P w| / (|P|_F |w|)."""
  return ((1 + ratio**2) / k) ** 0.5
