"""A recipe as a file of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..files import write_text
from .load import find_source, load_config, merged
from .yaml_text import to_yaml


def copy_config(
    source: str | Path,
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    force: bool = False,
) -> Path:
    """Write what a recipe, a file or a run says to a file, with overrides in place.

    Without overrides the text stays as it is, comments included.

    Args:
        source: as `load_config` takes it.
        path: the file; by default the source's name with ``.yaml``, in the current folder.
        overrides: ``a.b.c=value`` each.
        force: replace a file that is there.

    Returns:
        The path of the file.

    Raises:
        ConfigError: if the config is faulty, or the file is there and not to be replaced.
    """
    found = find_source(source)
    config = load_config(source, overrides)
    target = Path(path) if path is not None else Path(f"{config.name}.yaml")
    if target.is_dir():
        raise ConfigError([f"wanted a file to write, got the folder {target}"])
    if target.exists() and not force:
        raise ConfigError([f"{target} is there already: wanted another path, or --force"])
    kept = found.read_text(encoding="utf-8")  # comments too
    write_text(target, to_yaml(merged(found, overrides)[0]) if overrides else kept)
    return target
