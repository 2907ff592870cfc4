"""Modules of the user's that register things, named on the command line and nowhere else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError


def import_plugins(names: Sequence[str]) -> None:
    """Import modules by name, from where Python looks and from the current folder.

    Raises:
        ConfigError: if a name is no module's. An error inside a module is its own and stays.
    """
    here = str(Path.cwd())
    if names and here not in sys.path:
        sys.path.insert(0, here)  # the installed command does not look here by itself
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(
                [f"--plugin: got {name!r}, wanted the name of a module, such as my_module"]
            )
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there; what it imports is not
            raise ConfigError(
                [f"--plugin: no module is named {name!r}, neither installed nor in {here}"]
            ) from None
