"""Student's t without a library: against the printed tables, and against its own definition."""

from __future__ import annotations

import math
from statistics import mean, stdev

import pytest

from offramp.report.interval import t_interval, t_quantile


@pytest.mark.parametrize(
    ("degrees", "level", "quantile"),
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.3027),
        (3, 0.95, 3.1824),
        (4, 0.95, 2.7764),
        (7, 0.95, 2.3646),
        (30, 0.95, 2.0423),
        (2, 0.99, 9.9248),
        (5, 0.8, 1.4759),
    ],
)
def test_quantiles_are_those_of_the_tables(degrees: int, level: float, quantile: float) -> None:
    assert t_quantile(degrees, level) == pytest.approx(quantile, abs=5e-5)


@pytest.mark.parametrize("degrees", [1, 2, 5, 8])
def test_quantile_holds_the_level_of_the_density(degrees: int) -> None:
    """The density summed up literally, in fine steps."""
    quantile, steps = t_quantile(degrees, 0.9), 20_000
    factor = math.gamma((degrees + 1) / 2) / (
        math.sqrt(degrees * math.pi) * math.gamma(degrees / 2)
    )
    width = 2 * quantile / steps
    middles = (-quantile + (n + 0.5) * width for n in range(steps))
    inside = sum(factor * (1 + t * t / degrees) ** (-(degrees + 1) / 2) * width for t in middles)
    assert inside == pytest.approx(0.9, abs=1e-6)


def test_interval_lies_around_the_mean_and_needs_two() -> None:
    values = [0.01, 0.03, 0.02]
    reach = 4.3027 * stdev(values) / math.sqrt(3)
    assert t_interval(values) == pytest.approx((mean(values) - reach, mean(values) + reach), 1e-4)
    assert t_interval([0.01]) is None and t_interval([]) is None
    assert t_interval([0.5, 0.5]) == (0.5, 0.5)
