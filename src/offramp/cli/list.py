"""`offramp list`: what can be named."""

from __future__ import annotations

import difflib
import inspect
import json
from typing import Annotated, Any

import typer

from ..errors import UnknownNameError

KINDS = ("recipes", "models", "objectives", "policies", "datasets")

Kind = Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}; all where left out.")]
Pattern = Annotated[str, typer.Argument(help="Shell pattern that names must match.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: kinds, each with its names.")]


def list_names(kind: Kind = None, pattern: Pattern = "*", as_json: Json = False) -> None:
    """List what can be named: recipes, models, objectives, policies, data sets.

    \b
    Examples:
      offramp list
      offramp list recipes
      offramp list models "resnet*"
      offramp list policies --json
    """  # noqa: D301 - typer keeps the lines after a backspace as they are
    kinds = KINDS if kind is None else (_known(kind),)
    found = {each: _names(each, pattern) for each in kinds}
    if not any(found.values()):
        raise UnknownNameError(
            f"wanted a pattern that some name of {', '.join(kinds)} matches, got {pattern!r}"
        )
    typer.echo(json.dumps(found, indent=2) if as_json else _table(found))


def _known(kind: str) -> str:
    if kind in KINDS:
        return kind
    near = difflib.get_close_matches(kind, KINDS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownNameError(f"nothing to list is called {kind!r}; {hint}valid: {', '.join(KINDS)}")


def _names(kind: str, pattern: str) -> list[str]:
    if kind == "recipes":
        from ..recipes import list_recipes

        return list_recipes(pattern)
    return _registry(kind).names(pattern)


def _registry(kind: str) -> Any:
    from .. import registry  # here, because importing the package's tensors takes seconds

    return getattr(registry, kind)


def _table(found: dict[str, list[str]]) -> str:
    width = max(len(name) for names in found.values() for name in names)
    lines = []
    for kind, names in found.items():
        lines.append(f"{kind}:")
        lines += [f"  {name:{width}}  {_summary(kind, name)}".rstrip() for name in names]
    return "\n".join(lines)


def _summary(kind: str, name: str) -> str:
    """First line of what the entry says about itself."""
    if kind == "recipes":
        from ..recipes import recipe_summary

        return recipe_summary(name)
    return (inspect.getdoc(_registry(kind).get(name)) or "").partition("\n")[0]
