"""Studies: the runs of one name, one per seed, brought together without averaging unlike things."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import ReportError
from .configured import objective_of

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
    miou: Spread | None = None  # of maps

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
    miou: Spread | None = None  # of maps


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
    """All runs of one name and objective, or of one label."""

    name: str
    recipe: str  # name that its runs give themselves
    unit: str
    task: str  # "label" or "map"
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
    scores: list[list[float]]  # [seeds][K], what `measure` names

    @property
    def measure(self) -> str:
        """What exits are compared by."""
        return "mIoU" if self.task == "map" else "accuracy"

    @property
    def policies(self) -> list[Curve]:
        """Curves that are no controls."""
        return [curve for curve in self.curves if not curve.control]


def gather(runs: Sequence[Run]) -> list[Study]:
    """Bring runs together by label, else by name and objective, in the order in which they come.

    Where several studies of one name have different objectives, they are named by these.

    Raises:
        ReportError: if runs of one study are not alike, a seed comes twice, studies are not of one
            task on the same data with the same number of exits, or two have one name.
    """
    for run in runs:
        if run.results.unit != runs[0].results.unit:
            raise ReportError(
                f"{run.source}: unit: wanted {runs[0].results.unit!r}, as {runs[0].source} has "
                f"it, got {run.results.unit!r}: costs in two units do not go on one axis"
            )
    objectives = {run.source: objective_of(run.config) for run in runs}
    groups = _group(
        runs, lambda run: (run.label,) if run.label else (run.results.name, objectives[run.source])
    )
    names = _names(list(groups))
    studies = [
        _study(name, sorted(group, key=lambda run: run.results.seed))
        for name, group in zip(names, groups.values(), strict=True)
    ]
    for study in studies[1:]:
        _check_comparable(studies[0], study)
    return studies


def spread(values: Iterable[float]) -> Spread:
    """Mean, lowest and highest of figures, one per run."""
    known = list(values)
    return Spread(sum(known) / len(known), min(known), max(known), len(known))


def _names(keys: Sequence[tuple[str | None, ...]]) -> list[str]:
    """Names of studies that are told apart: by their objectives where those differ."""
    own = [key for key in keys if len(key) > 1]
    differ = len({objective for _, objective in own}) > 1
    one = len({name for name, _ in own}) == 1
    names = []
    for key in keys:
        name, objective = str(key[0]), key[1] if len(key) > 1 else None
        told = objective if one else f"{name}: {objective}"
        names.append(told if differ and told and objective else name)
    taken = next((name for n, name in enumerate(names) if name in names[:n]), None)
    if taken is not None:
        raise ReportError(f"wanted names that differ, got two studies named {taken!r}: label them")
    return names


def _study(name: str, runs: list[Run]) -> Study:
    _check_alike(runs)
    all_results = [run.results for run in runs]
    first = all_results[0]
    return Study(
        name=name,
        recipe=first.name,
        unit=first.unit,
        task=first.task,
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
        scores=[[_score(results, k) for k in range(first.num_exits)] for results in all_results],
    )


def _check_alike(runs: Sequence[Run]) -> None:
    first, seen = runs[0], {}
    for run in runs:
        name, seed = run.results.name, run.results.seed
        if seed in seen:
            raise ReportError(
                f"{run.source}: seed: wanted every seed of {name!r} once, got {seed} again, "
                f"which {seen[seed]} has; runs that differ in more than the seed need two names "
                "or labels"
            )
        seen[seed] = run.source
        for key in ("task", "num_exits", "class_names"):
            wanted, came = getattr(first.results, key), getattr(run.results, key)
            if wanted != came:
                raise ReportError(
                    f"{run.source}: {key}: wanted {wanted!r:.60}, as {first.source} has it, got "
                    f"{came!r:.60}: runs that are not alike need two names, not both {name!r}"
                )


def _check_comparable(first: Study, other: Study) -> None:
    """Studies on one page answer one question: same task, test part and number of exits."""
    for key, what in (
        ("task", "task"),
        ("num_exits", "exits"),
        ("data", "data"),
        ("class_names", "classes"),
        ("test_sizes", "test inputs"),
    ):
        wanted, came = (_comparable(study).get(key) for study in (first, other))
        if wanted != came and None not in (wanted, came):
            raise ReportError(
                f"{other.sources[0]}: {what}: wanted {wanted!r:.60}, as {first.sources[0]} has it, "
                f"got {came!r:.60}: studies of different {what} do not go side by side"
            )


def _comparable(study: Study) -> dict[str, Any]:
    return {
        **{key: getattr(study, key) for key in ("task", "num_exits", "class_names")},
        "data": next((made["data"] for made in study.made if "data" in made), None),
        "test_sizes": sorted(set(study.num_test)),
    }


def _score(results: Results, k: int) -> float:
    exit = results.exits[k]
    return exit.top1 if exit.miou is None or results.task != "map" else exit.miou


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
        miou=_known(exit.miou for exit in exits),
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
            miou=_known(point.miou for _, point in group),
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
