"""`offramp routes`: which exit trains which segment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..runs.routing import Stretch

MOVES, PASSES = "\N{BLACK CIRCLE}", "\N{MIDDLE DOT}"

Source = Annotated[str, typer.Argument(help="A recipe's name, a YAML file or a run.")]
Changes = Annotated[
    list[str] | None, typer.Argument(help="key=value, such as objective=layer_wise.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the tables as JSON.")]


def routes(source: Source, changes: Changes = None, as_json: Json = False) -> None:
    """Show which exit trains which segment, and what that makes of the cost of a training step.

    A table for every phase of training, and for every part of a phase where the routes change. No
    data are read and no weights downloaded.

    \b
    Examples:
      offramp routes digits
      offramp routes cifar100_msdnet objective=layer_wise
      offramp routes runs/mnist "objective={name: grouped, groups: [1, 2]}" --json
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..config import load_config
    from ..runs.routing import count_exits, plan_routes

    config = load_config(source, changes or [])
    num_exits = count_exits(config)
    found = plan_routes(config.plain(), num_exits)
    if as_json:
        told = {"name": config.name, "model": config.model.name, "num_exits": num_exits}
        told["routes"] = [stretch.to_dict() for stretch in found]
        typer.echo(json.dumps(told, indent=1))
        return
    from rich.console import Console

    screen = Console(highlight=False)
    for stretch in found:
        screen.print(f"{config.name}: {when(stretch, found)}", markup=False)
        screen.print(table(stretch))
        screen.print(*_notes(stretch), end="\n\n")
    screen.print(_KEY)


def table(stretch: Stretch) -> Table:
    """A row per exit, a column per segment, and each exit's terms."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.add_column("exit \\ segment", justify="right", no_wrap=True)
    for segment in range(stretch.num_exits):
        made.add_column(str(segment), justify="center", no_wrap=True)
    gains = stretch.gains[0]
    for name in ("gain, head", "gain, next segment") if gains else ():
        made.add_column(name, justify="right")
    made.add_column("since", justify="right", no_wrap=True)
    made.add_column("terms")
    for k, row in enumerate(stretch.table):
        marks = [(MOVES if moves else PASSES) if j <= k else "" for j, moves in enumerate(row)]
        made.add_row(str(k), *marks, *_gains(stretch, k), *_terms(stretch, k))
    return made


def when(stretch: Stretch, all_of: Sequence[Stretch]) -> str:
    """The objective, and which part of the training it is."""
    own = [other for other in all_of if other.phase == stretch.phase]
    said = [stretch.objective]
    if all_of[-1].phase > 0:
        said.append(f"phase {stretch.phase}")
    if len(own) > 1:
        said.append(f"progress {stretch.start:g} to {stretch.end:g}")
    return "; ".join(said)


_KEY = (
    f"{MOVES} the exit's terms move that segment's weights; {PASSES} they do not; every head "
    "learns its own terms."
)


def _notes(stretch: Stretch) -> Iterator[str]:
    if stretch.cost is None:
        parts = ", ".join(
            part if isinstance(part, str) else f"segment {part}" for part in stretch.train
        )
        yield f"Only these parts are trained: {parts}."
    else:
        yield (
            f"By count a step costs {stretch.cost:.2f} times one of joint training (forward, input "
            "gradient and weight gradient count 1 each, segments of one size)."
        )
    if stretch.gains[0]:
        yield (
            "Gains are factors of the gradient that comes into the segment of that row, from its "
            "head and from the segment after it."
        )
    if stretch.gains[0] != stretch.gains[1]:
        yield "Gains change on the way: shown are those at its start and at its end."


def _gains(stretch: Stretch, k: int) -> Iterator[str]:
    if stretch.gains[0] is None:
        return
    ends = [gains for gains in stretch.gains if gains is not None]
    ends = ends[:1] if ends[0] == ends[-1] else ends
    yield " to ".join(f"{gains.heads[k]:.3g}" for gains in ends)
    last = k + 1 == stretch.num_exits
    yield "" if last else " to ".join(f"{gains.boundaries[k]:.3g}" for gains in ends)


def _terms(stretch: Stretch, k: int) -> tuple[str, str]:
    """The first segments that an exit's terms may move, and the terms."""
    since = ", ".join(str(first) for first in stretch.since[k])
    own = [term for term in stretch.terms if k in term.exits]
    several = len(stretch.since[k]) > 1
    return since, ", ".join(f"{t.name} ({t.since})" if several else t.name for t in own)
