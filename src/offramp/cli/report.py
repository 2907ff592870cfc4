"""`offramp report`: one page about one or several runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs or studies.")]
Out = Annotated[
    Path | None, typer.Option(help="The page; by default report.html in the first folder.")
]
Title = Annotated[str | None, typer.Option(help="Heading of the page.")]
Json = Annotated[bool, typer.Option("--json", help="Print the page's path and its runs as JSON.")]


def report(runs: Runs, out: Out = None, title: Title = None, as_json: Json = False) -> None:
    """Write one HTML page about runs that `offramp eval` has scored; it works offline.

    Seeds of one study become a mean and its spread; several studies lie over each other.

    \b
    Examples:
      offramp report runs/mnist
      offramp report runs/mnist --out mnist.html --title "Digits, three seeds"
      offramp report runs/joint runs/distill --out both.html
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..errors import ConfigError
    from ..report import write
    from ..runs import open_runs

    found = [run for each in runs for run in open_runs(each)]
    for run in found:
        run.results()  # what was not scored says so, and how to do it
    page = out if out is not None else runs[0] / "report.html"
    if page.is_dir():
        raise ConfigError([f"wanted a file to write to, got the folder {page}"])
    written = write([run.path for run in found], page, title=title)
    if as_json:
        typer.echo(json.dumps({"report": str(written), "runs": [str(run.path) for run in found]}))
        return
    typer.echo(f"Wrote {written}")
