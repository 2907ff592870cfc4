"""Studies: the runs of one name, one per seed, brought together without averaging unlike things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ReportError
from .configured import objective_of
from .points import Curve, Spread, gather_curves, group, known, same, spread

if TYPE_CHECKING:
    from .schema import LabelSamples, MapSamples, Results, Run
    from .swept import Sweep

Counts = list[list[list[list[int]]]]  # [K][score reaches threshold][right here][right at the last]


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
    samples: LabelSamples | MapSamples
    exits: dict[str, dict[float, list[int]]]  # policy -> budget key -> [n]
    rules: dict[str, list[int]]  # policy at its rule -> [n]


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
    full_macs: float | None  # of the full network, where all seeds have one figure
    examined: dict[str, dict[str, Counts]]  # policy -> operating point -> inputs of all seeds
    sweeps: dict[int, Sweep]  # by seed

    @property
    def measure(self) -> str:
        """What exits are compared by."""
        return "mIoU" if self.task == "map" else "accuracy"

    @property
    def policies(self) -> list[Curve]:
        """Curves that are no controls."""
        return [curve for curve in self.curves if not curve.control]

    @property
    def told_errors(self) -> bool:
        """Whether the results say how far costs may be off."""
        shown = [point for curve in self.policies for point in curve.all_points]
        return any(point.rate_errors is not None for point in shown)


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
    groups = group(
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
        curves=gather_curves(all_results),
        calibration=_calibration(all_results),
        timings=_timings(all_results),
        gallery=_gallery(all_results),
        made=[results.made for results in all_results],
        config=next((run.config for run in runs if run.config), None),
        scores=[[_score(results, k) for k in range(first.num_exits)] for results in all_results],
        full_macs=_full_macs(all_results),
        examined=_examined(all_results),
        sweeps={run.results.seed: run.sweep for run in runs if run.sweep},
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
        top5=known(exit.top5 for exit in exits),
        nll=known(exit.nll for exit in exits),
        ece=known(exit.ece for exit in exits),
        macs=known(r.costs.macs[k] if r.costs.macs else None for r in runs),
        params=known(r.costs.params[k] if r.costs.params else None for r in runs),
        miou=known(exit.miou for exit in exits),
    )


def _static(runs: Sequence[Results]) -> list[Static]:
    groups = group((s for results in runs for s in results.static), lambda s: s.name)
    return [
        Static(name, spread(s.cost for s in group), spread(s.accuracy for s in group))
        for name, group in groups.items()
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
    groups = group(clocked, lambda c: (c.policy, same(c.budget), c.batch_size))
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
                    same(point.budget): left
                    for point, left in zip(results.curves[policy], budgets, strict=True)
                }
                for policy, budgets in results.samples.exits.items()
                if budgets
            }
            return Gallery(results.seed, results.samples, exits, results.samples.rules)
    return None


def _full_macs(runs: Sequence[Results]) -> float | None:
    found = {results.costs.full.get("macs") for results in runs}
    return found.pop() if len(found) == 1 else None


def _examined(runs: Sequence[Results]) -> dict[str, dict[str, Counts]]:
    """Counts of all seeds together: each input counts the same."""
    found: dict[str, dict[str, Counts]] = {}
    for results in runs:
        for policy, points in results.examine.items():
            own = found.setdefault(policy, {})
            for name, counts in points.items():
                own[name] = _added(own[name], counts) if name in own else counts
    return found


def _added(first: Any, second: Any) -> Any:
    if isinstance(first, int):
        return first + second
    return [_added(a, b) for a, b in zip(first, second, strict=True)]
