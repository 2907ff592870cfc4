"""Policies at their operating points, over runs: figures, and how far each may be off."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import ReportError

if TYPE_CHECKING:
    from .schema import Results

T = TypeVar("T")


class Spread(NamedTuple):
    """A figure over runs."""

    mean: float
    low: float
    high: float
    num: int  # runs
    stderr: float | None = None  # of the figure of a single run: inputs as independent draws

    @property
    def bar(self) -> tuple[float, float] | None:
        """Ends of its error bar: lowest and highest run, or one standard error to either side."""
        if self.num > 1:
            return self.low, self.high
        return None if self.stderr is None else (self.mean - self.stderr, self.mean + self.stderr)


@dataclass(frozen=True)
class Figures:
    """A policy at one operating point, over the seeds that have it; by itself: at its own rule."""

    seeds: tuple[int, ...]
    cost: Spread
    accuracy: Spread
    drop: Spread  # accuracy lost against the full network of the same seed
    left: Spread  # share that leaves before the last exit
    rates: list[float]  # [K], mean
    rate_errors: list[float] | None = None  # [K], standard errors of the rates
    macs: Spread | None = None  # per input
    miou: Spread | None = None  # of maps


@dataclass(frozen=True, kw_only=True)
class Point(Figures):
    """A policy that was fitted to a budget."""

    budget: float

    @property
    def key(self) -> float:
        """What makes two budgets the same one."""
        return same(self.budget)


class Curve(NamedTuple):
    """A policy over budgets, the smallest first, and at the rule it was published with."""

    policy: str
    control: bool
    points: list[Point]
    rule: Figures | None = None

    @property
    def all_points(self) -> list[Figures]:
        """Every operating point, that of the rule last."""
        return [*self.points, *([self.rule] if self.rule else [])]


def gather_curves(runs: Sequence[Results]) -> list[Curve]:
    """Policies and controls in the order of the runs; those without any point are left out.

    Raises:
        ReportError: if a rule is of a policy that has no curve.
    """
    controls = {name for results in runs for name in results.controls}
    names = dict.fromkeys(name for results in runs for name in results.curves)
    curves = [
        Curve(name, name in controls, _points(runs, name), _rule(runs, name)) for name in names
    ]
    known = [curve for curve in curves if curve.points]
    lost = {name for results in runs for name in results.rules} - {c.policy for c in known}
    if lost:
        raise ReportError(
            f"{runs[0].name!r}: rules: wanted rules of the policies {[c.policy for c in known]}, "
            f"got one of {min(lost)!r:.60}"
        )
    return known


def spread(values: Iterable[float], stderr: float | None = None) -> Spread:
    """Mean, lowest and highest of figures, one per run; a standard error is of one run's figure."""
    known = list(values)
    one = stderr if len(known) == 1 else None
    return Spread(sum(known) / len(known), min(known), max(known), len(known), one)


def known(values: Iterable[float | None]) -> Spread | None:
    """The spread of the figures that there are, None where there are none."""
    given = [value for value in values if value is not None]
    return spread(given) if given else None


def same(budget: float) -> float:
    """What makes two budgets the same one."""
    return round(budget, 6)


def group(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Bring items together by a key, in the order in which they come."""
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


# ------------------------------------------------------------------------ helpers
def _points(runs: Sequence[Results], policy: str) -> list[Point]:
    """A point per budget, from the seeds that have just that budget."""
    pairs = [(results, point) for results in runs for point in results.curves.get(policy, ())]
    groups = group(pairs, lambda pair: same(pair[1].budget))
    return [
        Point(budget=found[0][1].budget, **_figures(found)) for _, found in sorted(groups.items())
    ]


def _rule(runs: Sequence[Results], policy: str) -> Figures | None:
    """The policy at its published thresholds, from the seeds that have them."""
    found = [(results, results.rules[policy]) for results in runs if policy in results.rules]
    return Figures(**_figures(found)) if found else None


def _figures(found: Sequence[tuple[Results, Any]]) -> dict[str, Any]:
    """Figures of one operating point, from one result per run."""
    points = [point for _, point in found]
    results, first = found[0]
    told = all(point.cost_stderr is not None for point in points)  # else it says nothing of errors
    rates = [list(column) for column in zip(*(point.exit_rates for point in points), strict=True)]
    return {
        "seeds": tuple(each.seed for each, _ in found),
        "cost": spread((point.cost for point in points), first.cost_stderr if told else None),
        "accuracy": spread((point.accuracy for point in points), first.stderr if told else None),
        "drop": spread(each.full.accuracy - point.accuracy for each, point in found),
        "left": spread(1 - point.exit_rates[-1] for point in points),
        "rates": [sum(column) / len(column) for column in rates],
        "rate_errors": [_error(column, results.num_test) for column in rates] if told else None,
        "macs": _macs(found),
        "miou": known(point.miou for point in points),
    }


def _error(rates: Sequence[float], num_test: int) -> float:
    """Standard error of a mean share: over seeds, of a single one over its inputs."""
    if len(rates) > 1:
        return stdev(rates) / math.sqrt(len(rates))
    return math.sqrt(max(rates[0] * (1 - rates[0]), 0) / num_test)


def _macs(found: Sequence[tuple[Results, Any]]) -> Spread | None:
    """Multiply-accumulates per input, where every run says what each exit takes."""
    counts = [
        sum(r * m for r, m in zip(point.exit_rates, results.costs.macs, strict=True))
        for results, point in found
        if results.costs.macs
    ]
    if len(counts) < len(found):
        return None
    results, point = found[0]
    full = results.costs.full.get("macs")
    scaled = full * point.cost_stderr if full and point.cost_stderr is not None else None
    return spread(counts, scaled if results.unit == "macs" else None)
