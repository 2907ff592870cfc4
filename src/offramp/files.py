"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside another, to write to; what is written there then takes the other's place.

    Folders on the way are made. After an error nothing is left of what was written, and what was
    there before stays. Each use has a path of its own, so that two writers do not mix.

    Example:
        >>> with replacing("plot.png") as partial:
        ...     figure.savefig(partial, format="png")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync(*paths: Path) -> None:
    """Bring files, or the entries of folders, to the disk, where the system can."""
    for path in paths if os.name == "posix" else ():  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write a file so that it is there whole or not at all; folders on the way are made."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
