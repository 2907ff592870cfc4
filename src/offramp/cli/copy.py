"""`offramp copy`: a recipe as a file of your own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str, typer.Argument(help="A recipe's name, a YAML file or a run.")]
Rest = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PATH] [KEY=VALUE]...", help="File to write; what to change in it."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")]


def copy(recipe: Recipe, rest: Rest = None, force: Force = False) -> None:
    """Write a recipe to a file, to change it there.

    Without a path it is the recipe's name with .yaml, here. Comments are kept where nothing is
    changed on the way. What would not run is not written.

    \b
    Examples:
      offramp copy mnist
      offramp copy folder photos.yaml
      offramp copy folder photos.yaml data.path=photos train.epochs=20
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    from ..config import copy_config
    from ..errors import ConfigError

    words = rest or []
    path = None if not words or "=" in words[0] else Path(words[0]).expanduser()
    changes = words if path is None else words[1:]
    if extra := [word for word in changes if "=" not in word]:
        raise ConfigError([f"wanted one path and then key=value, got {extra[0]!r} too"])
    written = copy_config(recipe, path, changes, force=force)
    typer.echo(f"Wrote {written}\nNext: {shlex.join(['offramp', 'train', str(written)])}")
