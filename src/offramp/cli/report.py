"""`offramp report`: one page about one or several runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..report import Comparison

Runs = Annotated[
    list[str],
    typer.Argument(metavar="[LABEL=]RUN...", help="Folders of runs or studies, and their names."),
]
Out = Annotated[
    Path | None, typer.Option(help="The page; by default report.html in the first folder.")
]
Title = Annotated[str | None, typer.Option(help="Heading of the page.")]
Baseline = Annotated[
    str | None,
    typer.Option(help="Name of the study that others are held against; by default the first."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the page's path, its runs and figures as JSON.")
]


def report(
    runs: Runs,
    out: Out = None,
    title: Title = None,
    baseline: Baseline = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page about runs that `offramp eval` has scored; it works offline.

    Seeds of one study become a mean and its spread; several studies stand side by side, each exit
    against the baseline's, seed by seed. A study is named by its recipe and objective, or by LABEL.

    \b
    Examples:
      offramp report runs/mnist
      offramp report runs/mnist --out mnist.html --title "Digits, three seeds"
      offramp report runs/joint runs/distill --out both.html
      offramp report all=runs/joint last3=runs/overlap --baseline all --json
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..errors import ConfigError
    from ..report import compare, write
    from ..runs import open_runs

    given = [_labelled(text) for text in runs]
    found = [(label, run) for label, path in given for run in open_runs(path)]
    for _, run in found:
        run.results()  # what was not scored says so, and how to do it
    page = out if out is not None else given[0][1] / "report.html"
    if page.is_dir():
        raise ConfigError([f"wanted a file to write to, got the folder {page}"])
    paths, labels = [run.path for _, run in found], [label for label, _ in found]
    compared = compare(paths, labels=labels, baseline=baseline)
    several = len(compared.schemes) > 1
    written = write(paths, page, title=title, labels=labels, baseline=baseline)
    if as_json:
        figures = compared.to_dict() if several else {}
        told = {"report": str(written), "runs": [str(path) for path in paths], **figures}
        typer.echo(json.dumps(told))
        return
    if several:
        from rich.console import Console

        Console(highlight=False).print(table(compared))
    typer.echo(f"Wrote {written}")


def table(compared: Comparison) -> Table:
    """Every exit of every study: its mean and range over seeds, its gain over the baseline."""
    from rich import box
    from rich.table import Table

    from ..report.words import signed

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    base = compared.schemes[compared.baseline].name
    made.title = f"{compared.measure} by exit, %: mean, and lowest to highest seed"
    made.caption = f"gain over {base} in points: mean over paired seeds, and its 95% t-interval"
    made.title_justify = made.caption_justify = "left"
    made.add_column("", no_wrap=True)
    for k in range(compared.num_exits):  # where a line is too short, a range takes two
        made.add_column(f"exit {k}", justify="right", min_width=6)
    for number, scheme in enumerate(compared.schemes):
        made.add_section()
        exits = scheme.exits
        made.add_row(scheme.name, *(f"{100 * score.spread.mean:.2f}" for score in exits))
        if len(scheme.seeds) > 1:
            ends = [f"{100 * s.spread.low:.2f} to {100 * s.spread.high:.2f}" for s in exits]
            made.add_row("  seeds", *ends)
        if number != compared.baseline and scheme.shared:
            made.add_row("  gain", *(signed(score.gain or 0.0) for score in exits))
            ends = [" to ".join(map(signed, score.interval or ())) for score in exits]
            if any(ends):
                made.add_row("  95%", *ends)
    return made


def _labelled(text: str) -> tuple[str | None, Path]:
    """A path, and the name before it where there is one."""
    from ..errors import ConfigError

    label, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return None, Path(text)
    if not label.strip() or not path:
        raise ConfigError([f"wanted LABEL=RUN, such as joint=runs/joint, got {text!r}"])
    return label.strip(), Path(path)
