"""`offramp predict`: answers for image files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_SHOWN = 3  # classes of a map that are named

Source = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or a run that has one.")]
Files = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")]
Point = Annotated[str | None, typer.Option("--budget", help="One of the policy's budgets.")]
Out = Annotated[Path | None, typer.Option(help="Folder for maps, one PNG file per image.")]
Size = Annotated[int | None, typer.Option("--batch-size", min=1, help="Images that run together.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per file, in a list.")]


def predict(
    source: Source,
    files: Files,
    budget: Point = None,
    out: Out = None,
    batch_size: Size = None,
    as_json: Json = False,
) -> None:
    """Answer for image files, each as early as the bundle's policy allows.

    A bundle whose answers are maps needs --out: there every image gets a PNG file of its size, in
    which the value of a pixel is the number of its class, with a palette of colours.

    \b
    Examples:
      offramp predict runs/photos cat.jpg dog.jpg
      offramp predict runs/photos/bundle folder --budget 0.3
      offramp predict runs/photos folder --json
      offramp predict runs/streets folder --out maps
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..bundle import load
    from ..runs import Run, predict_maps
    from ..runs import predict as answers

    nested = Run(source).bundle_path
    bundle = load(nested if nested.is_dir() else source)
    if out is None:
        found = list(answers(bundle, files, point=budget, batch_size=batch_size))
        said = [f"{each.label}  {100 * each.probability:5.1f} %" for each in found]
    else:
        found = list(predict_maps(bundle, files, out, point=budget, batch_size=batch_size))
        said = [f"{each.map}  {_most(each.classes)}" for each in found]
    if as_json:
        typer.echo(json.dumps([answer._asdict() for answer in found], indent=1))
        return
    width = max(len(answer.file) for answer in found)
    for answer, words in zip(found, said, strict=True):
        typer.echo(f"{answer.file:{width}}  {words}  exit {answer.exit}")


def _most(classes: dict[str, float]) -> str:
    """The largest classes of a map, with their shares."""
    shown = [f"{name} {100 * share:.0f} %" for name, share in list(classes.items())[:_SHOWN]]
    return ", ".join(shown)
