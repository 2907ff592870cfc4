"""`offramp sweep`: gates trained for a range of alphas, from accuracy alone to cost alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

_UNITS = {"macs": "multiply-accumulates", "params": "parameters", "latency_ms": "measured time"}

Path_ = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of a study.")]
Alphas = Annotated[int, typer.Option(min=2, help="How many, at equal steps from 0 to 1.")]
Unit = Annotated[str, typer.Option(help="What the cost is counted in: macs, params, latency_ms.")]
Nats = Annotated[
    str | None,
    typer.Option(
        help="Nats that the whole network is worth where alpha is one half, or balanced. By "
        "default the recipe's, or 1."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="Rows that gates learn from: train or validation. By default the recipe's."),
]
Test = Annotated[bool, typer.Option("--test", help="Also give the figures of the test part.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print what sweep.json says.")]


def sweep(
    run: Path_,
    alphas: Alphas = 21,
    unit: Unit = "macs",
    nats: Nats = None,
    data: Data = None,
    test: Test = False,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train the gates of a run once for every alpha, and show what each alpha gives.

    Alpha weighs the cost, 1 - alpha the loss. The network and its heads stay as they are and run
    over the data once; the bundle keeps its gates. Figures are those of the calibration part, at
    the rule that an input leaves at the first gate above one half. Nothing is chosen here, by
    calibration or by test: gates.budget=0.5 in the recipe finds an alpha in training.

    \b
    Examples:
      offramp sweep runs/leenet
      offramp sweep runs/leenet --alphas 101 --test
      offramp sweep runs/leenet --unit params --json
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..runs import open_runs
    from ..runs import sweep as sweep_run

    runs = open_runs(run)
    for each in runs:
        each.check_trained()  # before the first is swept
    options = {"unit": unit, "nats": _number(nats), "data": data, "test": test, "device": device}
    told = [sweep_run(each, alphas, **options, progress=not quiet) for each in runs]
    if as_json:
        typer.echo(json.dumps(told if len(told) > 1 else told[0], indent=1))
        return
    from rich.console import Console

    screen = Console(highlight=False)
    for each, swept in zip(runs, told, strict=True):
        screen.print(table(swept, str(each.path)))
        typer.echo(
            f"{len(swept['points'])} alphas in {swept['seconds']:.2f} s, once the network had run "
            f"over the data; written to {each.sweep_path}"
        )


def table(swept: dict[str, Any], name: str) -> Table:
    """Every alpha: accuracy, cost and exits on the calibration part, and on test where asked."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.title_justify = made.caption_justify = "left"
    made.title = f"{name}: gates by alpha"
    made.caption = (
        f"cost in {_UNITS.get(swept['unit'], swept['unit'])}, the full network's = 1; mean exit "
        "counted from 0"
    )
    both = swept["points"][0]["test"] is not None
    made.add_column("alpha", justify="right")
    for part in ("", "test: ") if both else ("",):
        for column in ("right, %", "cost", "mean exit", "leave at each exit, %"):
            made.add_column(f"{part}{column}", justify="right", no_wrap=True)
    for point in swept["points"]:
        parts = ("calibration", "test") if both else ("calibration",)
        cells = [cell for part in parts for cell in _cells(point[part])]
        made.add_row(f"{point['alpha']:.4g}", *cells)
    return made


def _number(nats: str | None) -> Any:
    """A number where it is one; what else it may be is checked where it is used."""
    try:
        return None if nats is None else float(nats)
    except ValueError:
        return nats


def _cells(figures: dict[str, Any]) -> list[str]:
    return [
        f"{100 * figures['accuracy']:.2f}",
        f"{figures['cost']:.3f}",
        f"{figures['mean_exit']:.2f}",
        " ".join(f"{100 * rate:.0f}" for rate in figures["rates"]),
    ]
