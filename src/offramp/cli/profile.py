"""`offramp profile`: what each exit costs, counted and by the clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..runs.profiling import Profile

Source = Annotated[str, typer.Argument(help="A recipe's name, a YAML file, a run or a bundle.")]
Changes = Annotated[
    list[str] | None, typer.Argument(help="key=value, such as model.at=[layer1,layer2].")
]
Sizes = Annotated[
    list[int] | None,
    typer.Option("--batch-size", min=1, help="Inputs to time at once; repeat. By default 1, 32."),
]
Shape = Annotated[
    str | None,
    typer.Option(help="Shape of one input, such as 3,32,32; by default that of the data."),
]
Repeats = Annotated[int, typer.Option(min=1, help="Timed runs of each batch size.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")]
Json = Annotated[bool, typer.Option("--json", help="Print the costs as JSON.")]


def profile(
    source: Source,
    changes: Changes = None,
    batch_size: Sizes = None,
    shape: Shape = None,
    repeats: Repeats = 20,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Show what the answer of each exit costs: multiply-accumulates, parameters, measured time.

    Beside each segment's multiply-accumulates are those of the head after it; early heads that take
    more than a tenth of their segment are named below the table.

    The weights do not matter: nothing is trained and none are downloaded. With --shape no data are
    read; say model.num_classes=C then where the recipe leaves it to the data, as the heads of maps
    cost by the class.

    \b
    Examples:
      offramp profile digits
      offramp profile cifar10_resnet56 --shape 3,32,32 --batch-size 1 --batch-size 128
      offramp profile runs/mnist --json
      offramp profile my.yaml "model.at=[layer1.3, layer2]"
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..runs.profiling import profile as measured

    sizes = list(dict.fromkeys(batch_size or [1, 32]))
    found = measured(
        source, changes or [], batch_sizes=sizes, shape=shape, repeats=repeats, device=device
    )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
        return
    from rich.console import Console

    from ..costs import dear_heads

    console = Console(highlight=False)
    console.print(table(found))
    console.print(parts(found))
    for line in dear_heads(found.pieces):
        console.print(line, soft_wrap=True)  # one line each, also in a file


def table(profile: Profile) -> Table:
    """A row per exit, and one for the full network without early heads."""
    from rich import box
    from rich.table import Table

    from ..costs import in_words

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shape = " x ".join(str(side) for side in profile.shape)
    made.title = f"{profile.model}, {profile.num_classes} classes, {shape}, {profile.device}"
    made.caption = (
        "what it takes to have the answer of an exit, earlier heads included; cost in "
        "multiply-accumulates, the full network's = 1; ms per batch: median ± half the "
        "interquartile range"
    )
    made.title_justify = made.caption_justify = "left"
    times = [f"ms, batch of {costs.batch_size}" for costs in profile.costs]
    for number, name in enumerate(("exit", "MACs", "parameters", "cost", *times)):
        made.add_column(name, justify="right" if number else "left", no_wrap=True)
    first = profile.costs[0]
    for k, cost in enumerate(first.relative().tolist()):
        counts = (in_words(_at(first.macs, k)), in_words(_at(first.params, k)))
        made.add_row(str(k), *counts, f"{cost:.3f}", *(_time(costs, k) for costs in profile.costs))
    made.add_section()
    whole = [
        _timed(costs.full["latency_ms"], spread)
        for costs, spread in zip(profile.costs, profile.full_spread_ms, strict=True)
    ]
    counts = (in_words(first.full["macs"]), in_words(first.full["params"]))
    made.add_row("full network", *counts, f"{1:.3f}", *whole)
    return made


def parts(profile: Profile) -> Table:
    """A row per exit: what its segment and its head take alone."""
    from rich import box
    from rich.table import Table

    from ..costs import in_words, percent

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.title = "multiply-accumulates of each segment, and of the head after it"
    made.title_justify = "left"
    for number, name in enumerate(("part", "segment", "head", "head / segment")):
        made.add_column(name, justify="right" if number else "left", no_wrap=True)
    pieces = profile.pieces
    for k, share in enumerate(pieces.shares.tolist()):
        counts = (in_words(_at(pieces.segments, k)), in_words(_at(pieces.heads, k)))
        made.add_row(f"exit {k}", *counts, percent(share))
    return made


def _at(values: Any, k: int) -> float:
    return float(values[k])


def _time(costs: Any, k: int) -> str:
    return _timed(_at(costs.latency_ms, k), _at(costs.spread_ms, k))


def _timed(ms: float, spread: float) -> str:
    return f"{ms:.2f} ± {spread / 2:.2f}"
