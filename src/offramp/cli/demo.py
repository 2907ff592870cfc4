"""`offramp demo`: a network that answers early, trained and measured while you watch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..demo import Clock, Outcome

Out = Annotated[Path, typer.Option(help="Folder for the picture and the numbers.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of data split, weights and training.")]
Json = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, nothing else.")]
Quick = Annotated[bool, typer.Option("--quick", help="Train less; the answers get worse.")]


def demo(
    out: Out = Path("offramp-demo"), seed: Seed = 0, as_json: Json = False, quick: Quick = False
) -> None:
    """Train a network that answers early, and measure what it saves.

    The data are real digit scans that come with scikit-learn: no download. Takes less than a
    minute. Writes demo.png, demo.json and demo.csv.

    \b
    Examples:
      offramp demo
      offramp demo --out pictures --seed 3
      offramp demo --quick --json
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from rich.console import Console

    from ..demo import run_demo  # here, because torch takes seconds to import

    console = Console(stderr=True, quiet=as_json, highlight=False)
    outcome = run_demo(out, seed=seed, quick=quick, log=lambda line: console.print(f"... {line}"))
    if as_json:
        typer.echo(json.dumps(outcome.to_dict(), indent=1))
        return
    screen = Console(highlight=False, soft_wrap=False)
    screen.print(table(outcome))
    screen.print(summary(outcome))


def table(outcome: Outcome) -> Table:
    """Every way to answer: accuracy, cost, where inputs leave, and time."""
    from rich import box
    from rich.table import Table

    from ..demo import BUDGET, BUDGETS, CONTROLS, POLICIES, POLICY

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.title, made.caption = _TITLE.format(outcome.num_test), _CAPTION
    made.title_justify = made.caption_justify = "left"
    for number, name in enumerate(_COLUMNS):
        made.add_column(name, justify="right" if number else "left", no_wrap=True)
    for point in (outcome.full, outcome.static):
        cells = ["", _percent(point.accuracy), f"{point.cost:.2f}", ""]
        made.add_row(point.name, *cells, *_clocks(outcome, point.name, None))
    made.add_section()
    for budget in BUDGETS:
        made.add_row(*_row(outcome, POLICY, budget))
    made.add_section()
    for name in (*POLICIES, *CONTROLS):
        if name != POLICY:
            made.add_row(*_row(outcome, name, BUDGET))
    return made


def summary(outcome: Outcome) -> str:
    """What it all says, in plain words."""
    from ..demo import BUDGET, POLICY

    result, full, static = outcome.result(POLICY, BUDGET), outcome.full, outcome.static
    batch, single = (outcome.clock(POLICY, BUDGET, size) for size in (outcome.num_test, 1))
    files = outcome.files
    return "\n".join(
        [
            f"With {POLICY} at a budget of {BUDGET}, {_percent(1 - result.exit_rates[-1])} % of "
            f"the scans left early. {_percent(result.accuracy)} % (give or take "
            f"{_percent(result.stderr)}) were read right, for {result.cost:.2f} of the full "
            f"network's multiply-accumulates; the full network reads {_percent(full.accuracy)} %, "
            f"the small one, at {static.cost:.2f}, {_percent(static.accuracy)} %.",
            f"By the clock: {_speed(batch)} in one batch; {_speed(single)} one scan at a time.",
            f"Picture: {files['png']}; numbers: {files['json']}, {files['csv']} "
            f"({outcome.seconds:.0f} s in all).",
        ]
    )


_TITLE = "{} test scans; budget and cost as shares of the full network's MACs"
_CAPTION = (
    "ms per scan, one thread, median; in brackets the measured speed-up over the full network; "
    "random and oracle are controls: they cannot run"
)
_COLUMNS = ("", "budget", "right", "cost", "leave at 0-3", "in a batch", "one by one")


def _row(outcome: Outcome, name: str, budget: float) -> list[str]:
    result = outcome.result(name, budget)
    rates = " ".join(f"{100 * rate:2.0f}" for rate in result.exit_rates)
    cells = [name, f"{budget:.2f}", _percent(result.accuracy), f"{result.cost:.2f}", rates]
    return cells + _clocks(outcome, name, budget)


def _clocks(outcome: Outcome, name: str, budget: float | None) -> list[str]:
    found = [outcome.clock(name, budget, size) for size in (outcome.num_test, 1)]
    return ["" if c is None else f"{c.ms:.2f} ({c.speed_up:.1f}x)" for c in found]


def _speed(clock: Clock | None) -> str:
    """A measured speed-up in words; below 1 it says slower."""
    if clock is None or clock.ideal is None or clock.efficiency is None:
        return "not timed"
    factor = f"{clock.speed_up:.2f} times as fast as the full network"
    slower = ", that is slower," if round(clock.speed_up, 2) < 1 else ""
    share = f"ideal {clock.ideal:.2f}, efficiency {clock.efficiency:.2f}"
    return f"{factor}{slower} ({share})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
