"""Recipes: complete configs that come with the package, as YAML files."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import UnknownNameError

_FOLDER = Path(__file__).parent


def list_recipes(pattern: str = "*") -> list[str]:
    """Names of the recipes that match a shell pattern."""
    return sorted(p.stem for p in _FOLDER.glob("*.yaml") if fnmatchcase(p.stem, pattern))


def recipe_path(name: str) -> Path:
    """The YAML file of a recipe.

    Raises:
        UnknownNameError: if there is no recipe of that name.
    """
    if name not in list_recipes():
        raise UnknownNameError(f"no recipe is named {name!r}; valid: {', '.join(list_recipes())}")
    return _FOLDER / f"{name}.yaml"


def recipe_summary(name: str) -> str:
    """What a recipe says of itself: its first comment line that is no command."""
    for line in recipe_path(name).read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#"):
            break
        if text and not text.startswith("offramp "):
            return text
    return ""
