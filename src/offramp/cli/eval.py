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
    if clock:
        screen.print(times(results))
    typer.echo(f"Next: {shlex.join(['offramp', 'report', str(run)])}")


def table(results: list[dict[str, Any]]) -> Table:
    """Mean and spread over seeds of every exit, policy and control at every budget."""
    maps = _has_maps(results)
    right = ("mIoU, %", "pixels, %") if maps else ("right, %",)
    made = _empty("", "budget", *right, "cost", "leave at each exit, %")
    seeds = f", {len(results)} seeds: mean ± standard deviation" if len(results) > 1 else ""
    made.title = f"{results[0]['name']}: {results[0]['num_test']} test inputs{seeds}"
    unit = _UNITS.get(results[0]["unit"], results[0]["unit"])
    made.caption = f"cost in {unit}, the full network's = 1; controls cannot run"
    for k in range(results[0]["num_exits"]):
        exits = [each["exits"][k] for each in results]
        cells = _right(exits, ("miou", "top1") if maps else ("top1",))
        made.add_row(f"all at exit {k}", "", *cells, spread([one["cost"] for one in exits], 3), "")
    for name in results[0]["curves"]:
        made.add_section()
        control = " (control)" if name in results[0]["controls"] else ""
        for at, point in enumerate(results[0]["curves"][name]):
            made.add_row(f"{name}{control}", f"{point['budget']:g}", *_row(results, name, at))
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


def _row(results: list[dict[str, Any]], name: str, at: int) -> list[str]:
    points = [each["curves"][name][at] for each in results]
    rates = zip(*[point["exit_rates"] for point in points], strict=True)
    return [
        *_right(points, ("miou", "accuracy") if _has_maps(results) else ("accuracy",)),
        spread([point["cost"] for point in points], 3),
        " ".join(f"{100 * sum(each) / len(each):.0f}" for each in rates),
    ]


def _right(entries: list[dict[str, Any]], figures: Sequence[str]) -> list[str]:
    return [spread([100 * entry[figure] for entry in entries], 2) for figure in figures]


def _has_maps(results: list[dict[str, Any]]) -> bool:
    return results[0].get("task") == "map"
