"""Studies: the runs of one name, one per seed, brought together without averaging unlike things."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import ReportError

if TYPE_CHECKING:
    from .schema import Results, Run, Samples

T = TypeVar("T")


class Spread(NamedTuple):
    """A figure over runs."""

    mean: float
    low: float
    high: float
    num: int  # runs


class Point(NamedTuple):
    """A policy at one budget, over the seeds that have that budget."""

    budget: float
    seeds: tuple[int, ...]
    cost: Spread
    accuracy: Spread
    drop: Spread  # accuracy lost against the full network of the same seed
    left: Spread  # share that leaves before the last exit
    rates: list[float]  # [K], mean

    @property
    def key(self) -> float:
        """What makes two budgets the same one."""
        return _same(self.budget)


class Curve(NamedTuple):
    """A policy over budgets, the smallest first."""

    policy: str
    control: bool
    points: list[Point]


class Exit(NamedTuple):
    """One exit by itself, over seeds."""

    cost: Spread
    accuracy: Spread
    top5: Spread | None
    nll: Spread | None
    ece: Spread | None
    macs: Spread | None
    params: Spread | None


class Static(NamedTuple):
    """A network that always does the same work, over seeds."""

    name: str
    cost: Spread
    accuracy: Spread


class Slice(NamedTuple):
    """A bin of the reliability diagram, pooled over seeds."""

    num: int  # answers
    confidence: float | None
    accuracy: float | None


class Timing(NamedTuple):
    """Measured times, over seeds."""

    policy: str
    budget: float
    batch_size: int
    ms: Spread
    full_ms: Spread
    speed_up: Spread
    ideal: Spread


class Gallery(NamedTuple):
    """Pictures of one run, and where they leave at each budget."""

    seed: int
    samples: Samples
    exits: dict[str, dict[float, list[int]]]  # policy -> budget key -> [n]


@dataclass(frozen=True)
class Study:
    """All runs of one name."""

    name: str
    unit: str
    num_exits: int
    class_names: list[str]
    seeds: list[int]
    num_test: list[int]  # inputs of the test part, per seed
    sources: list[str]
    full: Spread  # accuracy of the full network
    exits: list[Exit]  # [K]
    static: list[Static]
    curves: list[Curve]
    calibration: list[list[Slice]] | None  # [K][bins]
    timings: list[Timing]
    gallery: Gallery | None
    made: list[Mapping[str, Any]]  # per seed
    config: str | None  # of the first seed

    @property
    def policies(self) -> list[Curve]:
        """Curves that are no controls."""
        return [curve for curve in self.curves if not curve.control]


def gather(runs: Sequence[Run]) -> list[Study]:
    """Bring runs together by name, in the order in which the names come first.

    Raises:
        ReportError: if runs of one name are not alike, a seed comes twice, or units differ.
    """
    for run in runs:
        if run.results.unit != runs[0].results.unit:
            raise ReportError(
                f"{run.source}: unit: wanted {runs[0].results.unit!r}, as {runs[0].source} has "
                f"it, got {run.results.unit!r}: costs in two units do not go on one axis"
            )
    groups = _group(runs, lambda run: run.results.name)
    return [_study(sorted(group, key=lambda run: run.results.seed)) for group in groups.values()]


def spread(values: Iterable[float]) -> Spread:
    """Mean, lowest and highest of figures, one per run."""
    known = list(values)
    return Spread(sum(known) / len(known), min(known), max(known), len(known))


def _study(runs: list[Run]) -> Study:
    _check_alike(runs)
    all_results = [run.results for run in runs]
    first = all_results[0]
    return Study(
        name=first.name,
        unit=first.unit,
        num_exits=first.num_exits,
        class_names=first.class_names,
        seeds=[results.seed for results in all_results],
        num_test=[results.num_test for results in all_results],
        sources=[run.source for run in runs],
        full=spread(results.full.accuracy for results in all_results),
        exits=[_exit(all_results, k) for k in range(first.num_exits)],
        static=_static(all_results),
        curves=_curves(all_results),
        calibration=_calibration(all_results),
        timings=_timings(all_results),
        gallery=_gallery(all_results),
        made=[results.made for results in all_results],
        config=next((run.config for run in runs if run.config), None),
    )


def _check_alike(runs: Sequence[Run]) -> None:
    first, seen = runs[0], {}
    for run in runs:
        name, seed = run.results.name, run.results.seed
        if seed in seen:
            raise ReportError(
                f"{run.source}: seed: wanted every seed of {name!r} once, got {seed} again, "
                f"which {seen[seed]} has; runs that differ in more than the seed need two names"
            )
        seen[seed] = run.source
        for key in ("num_exits", "class_names"):
            wanted, came = getattr(first.results, key), getattr(run.results, key)
            if wanted != came:
                raise ReportError(
                    f"{run.source}: {key}: wanted {wanted!r:.60}, as {first.source} has it, got "
                    f"{came!r:.60}: runs that are not alike need two names, not both {name!r}"
                )


def _exit(runs: Sequence[Results], k: int) -> Exit:
    exits = [results.exits[k] for results in runs]
    return Exit(
        cost=spread(exit.cost for exit in exits),
        accuracy=spread(exit.top1 for exit in exits),
        top5=_known(exit.top5 for exit in exits),
        nll=_known(exit.nll for exit in exits),
        ece=_known(exit.ece for exit in exits),
        macs=_known(r.costs.macs[k] if r.costs.macs else None for r in runs),
        params=_known(r.costs.params[k] if r.costs.params else None for r in runs),
    )


def _known(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return spread(known) if known else None


def _static(runs: Sequence[Results]) -> list[Static]:
    groups = _group((s for results in runs for s in results.static), lambda s: s.name)
    return [
        Static(name, spread(s.cost for s in group), spread(s.accuracy for s in group))
        for name, group in groups.items()
    ]


def _curves(runs: Sequence[Results]) -> list[Curve]:
    controls = {name for results in runs for name in results.controls}
    names = dict.fromkeys(name for results in runs for name in results.curves)
    curves = [Curve(name, name in controls, _points(runs, name)) for name in names]
    return [curve for curve in curves if curve.points]


def _points(runs: Sequence[Results], policy: str) -> list[Point]:
    """A point per budget, from the seeds that have just that budget."""
    pairs = [(results, point) for results in runs for point in results.curves.get(policy, ())]
    groups = _group(pairs, lambda pair: _same(pair[1].budget))
    return [
        Point(
            budget=group[0][1].budget,
            seeds=tuple(results.seed for results, _ in group),
            cost=spread(point.cost for _, point in group),
            accuracy=spread(point.accuracy for _, point in group),
            drop=spread(results.full.accuracy - point.accuracy for results, point in group),
            left=spread(1 - point.exit_rates[-1] for _, point in group),
            rates=[
                sum(column) / len(group)
                for column in zip(*(point.exit_rates for _, point in group), strict=True)
            ],
        )
        for _, group in sorted(groups.items())
    ]


def _calibration(runs: Sequence[Results]) -> list[list[Slice]] | None:
    tables = [results.calibration for results in runs if results.calibration]
    if not tables:
        return None
    sizes = {len(bins) for table in tables for bins in table}
    if len(sizes) > 1:
        raise ReportError(
            f"{runs[0].name!r}: calibration: wanted one number of bins over all exits and "
            f"seeds, got {sorted(sizes)}"
        )
    return [
        [_pool([table[k][b] for table in tables]) for b in range(max(sizes))]
        for k in range(runs[0].num_exits)
    ]


def _pool(bins: Sequence[Any]) -> Slice:
    """One bin from those of the seeds, each input counting the same."""
    full = [b for b in bins if b.count and b.confidence is not None and b.accuracy is not None]
    count = sum(b.count for b in full)
    if not count:
        return Slice(0, None, None)
    return Slice(
        count,
        sum(b.count * b.confidence for b in full) / count,
        sum(b.count * b.accuracy for b in full) / count,
    )


def _timings(runs: Sequence[Results]) -> list[Timing]:
    clocked = [clock for results in runs for clock in results.clock or ()]
    groups = _group(clocked, lambda c: (c.policy, _same(c.budget), c.batch_size))
    return [
        Timing(
            group[0].policy,
            group[0].budget,
            group[0].batch_size,
            ms=spread(c.ms for c in group),
            full_ms=spread(c.full_ms for c in group),
            speed_up=spread(c.speed_up for c in group),
            ideal=spread(c.ideal for c in group),
        )
        for _, group in groups.items()
    ]


def _gallery(runs: Sequence[Results]) -> Gallery | None:
    """The pictures of the first seed that has some; two seeds' would only weigh twice."""
    for results in runs:
        if results.samples is not None and results.samples.images:
            exits = {
                policy: {
                    _same(point.budget): left
                    for point, left in zip(results.curves[policy], budgets, strict=True)
                }
                for policy, budgets in results.samples.exits.items()
                if budgets
            }
            return Gallery(results.seed, results.samples, exits)
    return None


def _same(budget: float) -> float:
    return round(budget, 6)


def _group(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
