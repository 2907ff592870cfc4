"""`offramp predict`: answers for image files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or a run that has one.")]
Files = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")]
Point = Annotated[str | None, typer.Option("--budget", help="One of the policy's budgets.")]
Size = Annotated[int, typer.Option("--batch-size", min=1, help="Images that run together.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per file, in a list.")]


def predict(
    source: Source, files: Files, budget: Point = None, batch_size: Size = 32, as_json: Json = False
) -> None:
    """Answer for image files, each as early as the bundle's policy allows.

    \b
    Examples:
      offramp predict runs/photos cat.jpg dog.jpg
      offramp predict runs/photos/bundle folder --budget 0.3
      offramp predict runs/photos folder --json
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..bundle import load
    from ..runs import Run
    from ..runs import predict as answers

    nested = Run(source).bundle_path
    bundle = load(nested if nested.is_dir() else source)
    found = list(answers(bundle, files, point=budget, batch_size=batch_size))
    if as_json:
        typer.echo(json.dumps([answer._asdict() for answer in found], indent=1))
        return
    width = max(len(answer.file) for answer in found)
    for answer in found:
        share = f"{100 * answer.probability:5.1f} %"
        typer.echo(f"{answer.file:{width}}  {answer.label}  {share}  exit {answer.exit}")
