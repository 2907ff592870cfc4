"""`offramp eval`: fitted policies scored on the test part."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .spread import spread

if TYPE_CHECKING:
    from rich.table import Table

_UNITS = {"macs": "multiply-accumulates", "params": "parameters"}

Path_ = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of a study.")]
Clock = Annotated[bool, typer.Option("--clock", help="Also time the first policy, measured.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


def evaluate(
    run: Path_,
    clock: Clock = False,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score the fitted policies on the test part: accuracy, cost and exit rates at every budget.

    Of maps the mean intersection over union is shown beside the share of pixels that are right,
    both at the resolution of the targets.

    The model runs over the test part once and its records are kept; scoring again replays them.

    \b
    Examples:
      offramp eval runs/mnist
      offramp eval runs/mnist --clock
      offramp eval runs/mnist --json > results.json
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..runs import check_alike, open_runs, score

    runs = open_runs(run)
    check_alike(runs)  # before the first is scored
    results = [score(each, clock=clock, device=device, progress=not quiet) for each in runs]
    if as_json:
        typer.echo(json.dumps(results if len(results) > 1 else results[0], indent=1))
        return
    from rich.console import Console

    screen = Console(highlight=False)
    screen.print(table(results))
    if chosen := _examined(results):
        screen.print(examined(results, *chosen))
    if clock:
        screen.print(times(results))
    typer.echo(f"Next: {shlex.join(['offramp', 'report', str(run)])}")


def table(results: list[dict[str, Any]]) -> Table:
    """Every exit, policy and control at its rule and at every budget.

    Of one run an accuracy and a cost have their standard errors, of several seeds their standard
    deviations.
    """
    maps, several = _has_maps(results), len(results) > 1
    right = ("mIoU, %", "pixels, %") if maps else ("right, %",)
    made = _empty("", "budget", *right, "cost, %", "MACs", "leave at each exit, %")
    made.columns[-1].no_wrap = False  # on a narrow screen no figure is cut short
    seeds = f", {len(results)} seeds" if several else ""
    meaning = "standard deviation over seeds" if several else "standard error"
    made.title = f"{results[0]['name']}: {results[0]['num_test']} test inputs{seeds}; ± {meaning}"
    unit = _UNITS.get(results[0]["unit"], results[0]["unit"])
    notes = [f"cost in {unit}, the full network's = 100", "MACs: mean per input"]
    notes += ["rule: the published thresholds"] if results[0].get("rules") else []
    made.caption = "; ".join([*notes, "controls cannot run"])
    for k in range(results[0]["num_exits"]):
        exits = [each["exits"][k] for each in results]
        cells = _shares(exits, ("miou", "top1") if maps else ("top1",))
        alone = [float(j == k) for j in range(results[0]["num_exits"])]
        cost, macs = _costs(exits), _macs(results, [alone] * len(results))
        made.add_row(f"all at exit {k}", "", *cells, cost, macs, "")
    for name, points in results[0]["curves"].items():
        made.add_section()
        control = " (control)" if name in results[0]["controls"] else ""
        if name in results[0].get("rules", {}):
            rules = [each["rules"][name] for each in results]
            made.add_row(name, "rule", *_row(results, rules))
        for at, point in enumerate(points):
            chosen = [each["curves"][name][at] for each in results]
            made.add_row(f"{name}{control}", f"{point['budget']:g}", *_row(results, chosen))
    return made


def examined(results: list[dict[str, Any]], policy: str, point: str) -> Table:
    """How often an early exit is right where the last one is wrong, and the other way round.

    Both are shares of the inputs whose score says to leave at the exit, and of those whose score
    says to stay, whether or not they would come to it.
    """
    made = _empty("", "leave, %", "better, %", "worse, %", "stay, %", "better, %", "worse, %")
    at = "by its rule" if point == "rule" else f"at a budget of {point}"
    made.title = f"{policy} {at}: an early exit against the last one"
    made.caption = (
        "leave, stay: what its score says; better: share of those where it alone is right, "
        "worse: where the last exit alone is"
    )
    for k in range(results[0]["num_exits"] - 1):
        counts = [each["examine"][policy][point][k] for each in results]
        made.add_row(f"exit {k}", *_sides(counts, 1), *_sides(counts, 0))
    return made


def times(results: list[dict[str, Any]]) -> Table:
    """Measured time per input beside the full network's, and the measured speed-up."""
    made = _empty("measured", "budget", "batch", "ms", "full network, ms", "speed-up", "ideal")
    made.caption = "per input, median; below 1 the adaptive run is slower"
    for at, first in enumerate(results[0]["clock"]):
        rows = [each["clock"][at] for each in results]
        figures = ("ms", "full_ms", "speed_up", "ideal")
        cells = [spread([row[name] for row in rows], 2) for name in figures]
        made.add_row(first["policy"], f"{first['budget']:g}", str(first["batch_size"]), *cells)
    return made


def _empty(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.title_justify = made.caption_justify = "left"
    for number, name in enumerate(columns):
        made.add_column(name, justify="right" if number else "left", no_wrap=True)
    return made


def _row(results: list[dict[str, Any]], points: list[dict[str, Any]]) -> list[str]:
    """Cells of a policy at one point, one entry per run."""
    rates = [point["exit_rates"] for point in points]
    shares = zip(*rates, strict=True)
    return [
        *(_shares(points, ("miou",)) if _has_maps(results) else []),
        _with_error(_shares(points, ("accuracy",))[0], points, "stderr", 2),
        _with_error(_costs(points), points, "cost_stderr", 1),
        _macs(results, rates),
        " ".join(f"{100 * sum(each) / len(each):.0f}" for each in shares),
    ]


def _shares(entries: list[dict[str, Any]], figures: Sequence[str]) -> list[str]:
    return [spread([100 * entry[figure] for entry in entries], 2) for figure in figures]


def _costs(entries: list[dict[str, Any]]) -> str:
    return spread([100 * entry["cost"] for entry in entries], 1)


def _with_error(cell: str, points: list[dict[str, Any]], name: str, digits: int) -> str:
    """The cell of one run with its standard error, where that is known; seeds have their spread."""
    error = points[0].get(name) if len(points) == 1 else None
    return cell if error is None else f"{cell} ± {100 * error:.{digits}f}"


def _macs(results: list[dict[str, Any]], rates: list[list[float]]) -> str:
    """Mean multiply-accumulates per input."""
    means = []
    for each, shares in zip(results, rates, strict=True):
        costs = each["costs"]["macs"]
        means.append(sum(r * c for r, c in zip(shares, costs, strict=True)))
    return _short(sum(means) / len(means))


def _short(number: float) -> str:
    """A large number in three digits, such as 41.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return f"{number:.3g}"


def _examined(results: list[dict[str, Any]]) -> tuple[str, str] | None:
    """The policy and the point whose table is shown: a rule, or a first policy's middle budget."""
    known = results[0].get("examine") or {}
    if results[0]["num_exits"] < 2 or not known:
        return None
    ruled = [name for name in known if "rule" in known[name]]
    name = ruled[0] if ruled else next(iter(known))
    points = list(known[name])
    return name, "rule" if ruled else points[len(points) // 2]


def _sides(counts: list[list[list[list[int]]]], leave: int) -> list[str]:
    """Share of inputs whose score says to leave, or to stay, and of these where one exit is right.

    Args:
        counts: by run, [says leave][right here][right at the last exit].
        leave: 1 for those who say leave, 0 for the others.
    """
    said = [sum(map(sum, each[leave])) for each in counts]
    both = [sum(map(sum, (*each[0], *each[1]))) for each in counts]
    cells = [spread([100 * s / max(all_, 1) for s, all_ in zip(said, both, strict=True)], 1)]
    for here, last in ((1, 0), (0, 1)):
        shares = [100 * c[leave][here][last] / s for c, s in zip(counts, said, strict=True) if s]
        cells.append(spread(shares, 2) if shares else "-")
    return cells


def _has_maps(results: list[dict[str, Any]]) -> bool:
    return results[0].get("task") == "map"
