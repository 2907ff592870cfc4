"""Student's t: how far a mean of few runs may lie from the mean of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of the mean of independent, about normal figures; None for fewer than 2.

    Example:
        >>> t_interval([1.0, 2.0, 3.0])
        (-0.484..., 4.484...)
    """
    num = len(values)
    if num < 2:
        return None
    middle, reach = mean(values), t_quantile(num - 1, level) * stdev(values) / math.sqrt(num)
    return middle - reach, middle + reach


def t_quantile(degrees: int, level: float = 0.95) -> float:
    """The number that the size of a t-distributed figure exceeds with probability 1 - level."""
    low, high = 0.0, 1.0
    while _within(high, degrees) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < level else (low, middle)
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    """Probability that |T| < t, in closed form (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
