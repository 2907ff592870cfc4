"""From a recipe, a file or a run to a checked config, and back."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..recipes import list_recipes, recipe_path
from .check import check, check_policies
from .overrides import override
from .schema import Config, PolicyConfig
from .yaml_text import parse_yaml, read_yaml, to_yaml

CONFIG = "config.yaml"  # of a run


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A config, checked as a whole: names, options and types.

    A path of the data, a teacher or weights may begin with ``~``; one that exists is made
    absolute, so that a run can be taken up from anywhere.

    Args:
        source: name of a recipe, path of a YAML file, or folder of a run.
        overrides: ``a.b.c=value`` each, with a YAML value, put in place of what the source says.

    Raises:
        ConfigError: if there is no such source, or anything is wrong in it: one line per fault,
            each with what was wanted.

    Example:
        >>> load_config("digits", ["train.epochs=3", "policies=[max_prob, entropy]"]).train.options
        {'epochs': 3, ...}
    """
    path = find_source(source)
    tree, faults = merged(path, overrides)
    return check(tree, path.parent.name if path.name == CONFIG else path.stem, faults)


def dump_config(config: Config) -> str:
    """A config as YAML, defaults included; `load_config` reads it back equal."""
    return to_yaml(config.plain())


def find_source(source: str | Path) -> Path:
    """The YAML file that a source names.

    Raises:
        ConfigError: if there is none.
    """
    if str(source) in list_recipes():
        return recipe_path(str(source))
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / CONFIG).is_file():
            return path / CONFIG
        raise ConfigError([f"{source}: wanted the folder of a run, but it has no {CONFIG}"])
    if path.is_file():
        return path
    near = difflib.get_close_matches(str(source), list_recipes(), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        [
            f"no recipe, file or run is named {str(source)!r}; {hint}"
            f"recipes: {', '.join(list_recipes())}"
        ]
    )


def merged(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What a file says once the overrides are in place, unchecked, and faults of the overrides."""
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        came = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise ConfigError([f"{path}: wanted a mapping with data, model and train, got {came}"])
    return tree, override(tree, overrides)


def named_policies(names: Sequence[str]) -> list[PolicyConfig]:
    """Policies as a command line gives them: a name each, or a YAML mapping with options.

    Raises:
        ConfigError: if there is no such policy, or it does not take an option.

    Example:
        >>> named_policies(["max_prob", "{name: entropy, temperature: true}"])[1].options
        {'temperature': True}
    """
    return check_policies([parse_yaml(name, "policy") for name in names])
