"""What `results.json` must hold, and how runs are read: the door of the report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)

from ..errors import ReportError
from .swept import SWEEP, Sweep, sweep_misfits

RESULTS = "results.json"
_SHOWN = 5  # complaints that one message lists


def _finite(value: Any) -> Any:
    """A figure that is not finite is one that is not known."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Share = Annotated[float, Field(ge=0, le=1 + 1e-6)]
Cost = Annotated[float, Field(gt=0, lt=1e6)]  # relative to the full network
Time = Annotated[float, Field(gt=0, lt=1e12)]
Figure = Annotated[float | None, BeforeValidator(_finite)]
Image = Annotated[str, Field(pattern=r"^data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+=*$")]
Png = Annotated[str, Field(pattern=r"^data:image/png;base64,[A-Za-z0-9+/]+=*$")]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Number = Annotated[int, Field(ge=0)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
Square = Annotated[list[Pair], Field(min_length=2, max_length=2)]
Cube = Annotated[list[Square], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    """Keys beyond those named here are left alone, so that the format can grow."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Exit(_Part):
    """One exit by itself; `evaluate.ExitResult`."""

    exit: Number
    top1: Share
    cost: Cost
    top5: Figure = None
    nll: Figure = None
    ece: Figure = None
    miou: Figure = None  # of maps


class Full(_Part):
    """The same weights without early heads: the accuracy of the last exit, at a cost of 1."""

    accuracy: Share
    cost: Cost = 1.0


class Static(_Part):
    """A network that always does the same work."""

    name: str
    cost: Cost
    accuracy: Share


class Rule(_Part):
    """A policy at its published thresholds; `evaluate.Result.to_dict`."""

    cost: Cost
    accuracy: Share
    exit_rates: list[Share]  # [K]
    stderr: Figure = None
    cost_stderr: Figure = None
    nll: Figure = None
    ece: Figure = None
    miou: Figure = None  # of maps


class Point(Rule):
    """A policy at one budget."""

    budget: Annotated[float, Field(gt=0, lt=1e6)]


class Bin(_Part):
    """Inputs whose top probability lies in one slice of 0..1."""

    count: Number
    confidence: Share | None = None
    accuracy: Share | None = None


class Left(_Part):
    """Where pictures of the test part leave."""

    exits: dict[str, list[list[Number]]]  # policy -> [budgets][n]
    rules: dict[str, list[Number]] = {}  # policy -> [n], at its published thresholds


class LabelSamples(Left):
    """Pictures of the test part, what they show, and where they leave."""

    kind: ClassVar[Literal["label"]] = "label"
    images: list[Image]  # [n]
    labels: list[int]  # [n]; negative ones do not count
    answers: list[list[Number]]  # [K][n]


class MapSamples(Left):
    """Pictures of the test part, maps as pictures in colours of classes, and where they leave."""

    kind: ClassVar[Literal["map"]] = "map"
    images: list[Png]  # [n]
    targets: list[Png]  # [n]; what does not count is see-through
    answers: list[list[Png]]  # [K][n]
    colours: Annotated[list[Colour], Field(min_length=1)]  # of class 0, 1, ...


def _kind(given: Any) -> str:
    """Which samples are meant, by a key that the other kind lacks."""
    maps = isinstance(given, Mapping) and not {"targets", "colours"}.isdisjoint(given)
    return MapSamples.kind if maps else LabelSamples.kind


_Labels = Annotated[LabelSamples, Tag(LabelSamples.kind)]
_Maps = Annotated[MapSamples, Tag(MapSamples.kind)]
Samples = Annotated[_Labels | _Maps, Discriminator(_kind)]


class Clock(_Part):
    """Measured times of one policy at one budget and batch size."""

    policy: str
    budget: float
    batch_size: Annotated[int, Field(ge=1)]
    ms: Time  # per input, median
    full_ms: Time
    speed_up: Time
    ideal: Time


class CostTable(_Part):
    """`types.Costs.to_dict`."""

    macs: list[float] | None = None
    params: list[float] | None = None
    latency_ms: list[float] | None = None
    full: dict[str, float] = {}


class Results(_Part):
    """Everything that is said about one run."""

    format: Literal["offramp-results"]
    version: Literal[1]
    name: Annotated[str, Field(min_length=1)]
    seed: int
    num_test: Annotated[int, Field(ge=1)]
    num_exits: Annotated[int, Field(ge=1, le=1000)]
    exits: list[Exit]
    full: Full
    curves: dict[str, list[Point]]
    rules: dict[str, Rule] = {}  # of policies that have published thresholds
    # policy -> budget or "rule" -> exits -> [score reaches the threshold][right here][right last]
    examine: dict[str, dict[str, list[Cube]]] = {}
    unit: Literal["macs", "params", "latency_ms"] = "macs"
    task: Literal["label", "map"] = "label"
    class_names: list[str] = []
    costs: CostTable = CostTable()
    static: list[Static] = []
    controls: list[str] = []
    calibration: list[list[Bin]] | None = None
    samples: Samples | None = None
    clock: list[Clock] | None = None
    made: dict[str, Any] = {}  # how the run came about: data set, parts, versions


class Run(NamedTuple):
    """Results, and where they are from."""

    source: str
    results: Results
    config: str | None = None  # text of the run's config.yaml
    label: str | None = None  # name that it is given in the page
    sweep: Sweep | None = None  # of the sweep.json beside the results


def read_runs(
    runs: Sequence[str | Path | Mapping[str, Any]], labels: Sequence[str | None] | None = None
) -> list[Run]:
    """Read and check the results of runs, of all runs where the folder of a study is given.

    Args:
        runs: folders of runs or studies, files of results, or what such a file holds.
        labels: a name for each, None where it names itself.

    Raises:
        ReportError: if one is missing or does not hold what it must; the message names file and
            key.
    """
    if isinstance(runs, str | Path | Mapping) or not isinstance(runs, Sequence):
        raise ReportError(
            "wanted a sequence of runs, each a folder, a results.json or a mapping; "
            f"got {type(runs).__name__}"
        )
    if not runs:
        raise ReportError("wanted at least one run to report, got none")
    names = [None] * len(runs) if labels is None else list(labels)
    if len(names) != len(runs):
        raise ReportError(f"wanted a label or None for each of {len(runs)} runs, got {labels!r}")
    wrong = next((n for n in names if n is not None and not (isinstance(n, str) and n.strip())), 0)
    if wrong != 0:
        raise ReportError(f"wanted labels as words, got {wrong!r}")
    return [
        run._replace(label=names[number])
        for number, given in enumerate(runs)
        for run in _read(number, given)
    ]


def _read(number: int, given: str | Path | Mapping[str, Any]) -> Iterator[Run]:
    if isinstance(given, Mapping):
        yield _check(f"run {number}", given)
        return
    if not isinstance(given, str | Path):
        raise ReportError(
            f"run {number}: wanted a folder, a results.json or a mapping, got {given!r:.60}"
        )
    for path in _files(Path(given)):
        config = path.with_name("config.yaml")
        text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None
        run = _check(str(path), _parse(path))
        yield run._replace(config=text, sweep=_sweep(path.with_name(SWEEP), run.results))


def _sweep(path: Path, results: Results) -> Sweep | None:
    """The sweep of a run, where there is one."""
    if not path.is_file():
        return None
    try:
        sweep = Sweep.model_validate(_parse(path))
    except ValidationError as error:
        wrong = [_complaint(part) for part in error.errors(include_url=False)]
        raise ReportError(_message(str(path), wrong)) from None
    if wrong := list(sweep_misfits(sweep, results.num_exits)):
        raise ReportError(_message(str(path), wrong))
    return sweep


def _files(path: Path) -> list[Path]:
    """The results of a run, or those of all seeds of a study."""
    if path.is_file():
        return [path]
    if (path / RESULTS).is_file():
        return [path / RESULTS]
    found = sorted(path.glob(f"seed-*/{RESULTS}"), key=lambda p: (len(p.parent.name), str(p)))
    if not found:
        what = "is not there" if not path.exists() else f"has no {RESULTS} and no seed-*/{RESULTS}"
        raise ReportError(f"wanted a run, the folder of a study or a {RESULTS}: {path} {what}")
    return found


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: wanted JSON, which this is not: {error}") from None
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror}") from None


def _check(source: str, given: Any) -> Run:
    if isinstance(given, Mapping) and _newer(given.get("version")):
        raise ReportError(
            f"{source}: version: wanted 1, got {given['version']}, which a newer offramp wrote"
        )
    try:
        results = Results.model_validate(given)
    except ValidationError as error:
        wrong = [_complaint(part) for part in error.errors(include_url=False)]
        raise ReportError(_message(source, wrong)) from None
    if wrong := list(_misfits(results)):
        raise ReportError(_message(source, wrong))
    return Run(source, results)


def _newer(version: Any) -> bool:
    return isinstance(version, int) and version > 1


def _complaint(part: Any) -> str:
    steps = list(part["loc"])
    if steps[0:1] == ["samples"]:
        del steps[1:2]  # which kind they are, which is no key
    where = ".".join(map(str, steps)) or "the whole"
    got = "" if part["type"] == "missing" else f", got {part['input']!r:.60}"
    return f"{where}: {part['msg'][:1].lower()}{part['msg'][1:]}{got}"


def _message(source: str, wrong: Sequence[str]) -> str:
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return f"{source}: {'; '.join(wrong[:_SHOWN])}{more}"


def _misfits(results: Results) -> Iterator[str]:
    """Parts that are right by themselves and do not fit together."""
    wanted = results.num_exits
    yield from _length("exits", results.exits, wanted, "num_exits")
    if [exit.exit for exit in results.exits] != list(range(len(results.exits))):
        yield f"exits: wanted exits 0, 1, ... in order, got {[e.exit for e in results.exits]}"
    for k, exit in enumerate(results.exits):
        if results.task == "map" and exit.miou is None:
            yield f"exits.{k}.miou: wanted a number, as the task is 'map', got none"
    for unit in ("macs", "params", "latency_ms"):
        if (column := getattr(results.costs, unit)) is not None:
            yield from _length(f"costs.{unit}", column, wanted, "num_exits")
    if results.calibration is not None:
        yield from _length("calibration", results.calibration, wanted, "num_exits")
    for policy, points in results.curves.items():
        yield from _curve_misfits(f"curves.{policy}", points, wanted)
    for policy, rule in results.rules.items():
        yield from _rate_misfits(f"rules.{policy}.exit_rates", rule.exit_rates, wanted)
    for policy, points in results.examine.items():
        for point, counts in points.items():
            yield from _length(f"examine.{policy}.{point}", counts, wanted, "num_exits")
    if results.samples is not None:
        yield from _sample_misfits(results, results.samples)


def _curve_misfits(where: str, points: Sequence[Point], num_exits: int) -> Iterator[str]:
    budgets = [round(point.budget, 6) for point in points]
    if len(set(budgets)) < len(budgets):
        yield f"{where}: wanted every budget once, got {budgets}"
    for number, point in enumerate(points):
        yield from _rate_misfits(f"{where}.{number}.exit_rates", point.exit_rates, num_exits)


def _rate_misfits(key: str, rates: Sequence[float], num_exits: int) -> Iterator[str]:
    yield from _length(key, rates, num_exits, "num_exits")
    if abs(sum(rates) - 1) > 1e-3:
        yield f"{key}: wanted rates that sum to 1, got {sum(rates):g}"


def _sample_misfits(results: Results, samples: LabelSamples | MapSamples) -> Iterator[str]:
    num, where = len(samples.images), "samples.images"
    if samples.kind != results.task:
        yield f"samples: wanted those of a {results.task}, as task; got those of a {samples.kind}"
    if samples.kind == "label":
        yield from _length("samples.labels", samples.labels, num, where)
    else:
        yield from _length("samples.targets", samples.targets, num, where)
        if len(samples.colours) < len(results.class_names):
            wanted, came = len(results.class_names), len(samples.colours)
            yield f"samples.colours: wanted at least {wanted}, as class_names; got {came}"
    yield from _length("samples.answers", samples.answers, results.num_exits, "num_exits")
    for k, answers in enumerate(samples.answers):
        yield from _length(f"samples.answers.{k}", answers, num, where)
    for policy, budgets in samples.exits.items():
        key = f"samples.exits.{policy}"
        yield from _length(key, budgets, len(results.curves.get(policy, ())), f"curves.{policy}")
        for number, exits in enumerate(budgets):
            yield from _left_misfits(f"{key}.{number}", exits, num, results.num_exits)
    for policy, exits in samples.rules.items():
        yield from _left_misfits(f"samples.rules.{policy}", exits, num, results.num_exits)


def _left_misfits(key: str, exits: Sequence[int], num: int, num_exits: int) -> Iterator[str]:
    yield from _length(key, exits, num, "samples.images")
    if any(k >= num_exits for k in exits):
        yield f"{key}: wanted exits below {num_exits}, got {max(exits)}"


def _length(key: str, values: Sequence[Any], wanted: int, like: str) -> Iterator[str]:
    if len(values) != wanted:
        yield f"{key}: wanted {wanted} entries, as {like}; got {len(values)}"
