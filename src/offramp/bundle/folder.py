"""A bundle's folder: which files it has, where they really lie, and how it is replaced whole."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ..errors import BundleError
from ..files import sync
from .document import NAME, read

WEIGHTS, POLICY, CARD = "model.safetensors", "policy.safetensors", "README.md"
FILES = (NAME, WEIGHTS, POLICY, CARD)


def find(path: str | Path) -> Path:
    """The folder of a bundle; an older one set aside, where a save was killed between two names.

    Raises:
        BundleError: if there is no such folder.
    """
    folder = as_path(path)
    try:
        if not folder.exists() and _is_ours(aside(folder)):
            return aside(folder)
        if not folder.is_dir():
            came = "a file" if folder.exists() else "nothing there"
            raise BundleError(f"wanted the folder of a bundle at {folder}, got {came}")
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror}") from error
    return folder


def is_there(path: Path) -> bool:
    """Whether anything is at a path, or an older bundle was set aside there."""
    try:
        return path.exists() or _is_ours(aside(path))
    except OSError as error:  # a folder that may not be read, or no name that a file can have
        return isinstance(error, PermissionError)


def as_path(path: str | Path) -> Path:
    """A path from a word or a path.

    Raises:
        BundleError: if it is something else.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise BundleError(f"wanted the path of a folder, got {path!r}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise BundleError(f"wanted the path of a folder, got {path!r}") from None
    return Path(text)


def own_file(folder: Path, name: str, root: Path | None = None) -> Path:
    """A file of a bundle that lies in its folder, or in ``root``, where links may lead.

    Raises:
        BundleError: if it is missing, is no plain file, or lies elsewhere.
    """
    file = folder / name
    try:
        real, home = file.resolve(strict=True), (root or folder).resolve(strict=True)
        plain = stat.S_ISREG(real.stat().st_mode)
    except FileNotFoundError:
        raise BundleError(f"wanted {name} in {folder}, got no such file") from None
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    if not real.is_relative_to(home):
        raise BundleError(f"wanted {name} inside {folder}, got a link out of it")
    if not plain:
        raise BundleError(f"wanted {name} in {folder} as a plain file, got something else")
    return real


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder beside another, to write to; it then takes the other's place, whole or not at all.

    Raises:
        BundleError: if something is there that is no bundle.
    """
    if path.name in ("", ".."):
        raise BundleError(f"wanted the name of a folder to save to, got {str(path)!r}")
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        _check_target(path)
        if not path.exists() and _is_ours(aside(path)):
            os.rename(aside(path), path)  # what a killed save left: the older bundle is whole
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        sync(*partial.iterdir(), partial)  # so that a power cut leaves one of the two bundles
        _swap(partial, path)
        sync(path.parent)
    except OSError as error:
        raise BundleError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def aside(path: Path) -> Path:
    """Where an older bundle stays for the moment between two names."""
    return path.with_name(f".{path.name}.replaced-bundle")


def _swap(partial: Path, path: Path) -> None:
    older = aside(path)
    if _is_ours(older):
        shutil.rmtree(older)
    if path.exists():
        os.rename(path, older)
    try:
        os.rename(partial, path)
    except BaseException:
        if older.exists() and not path.exists():
            os.rename(older, path)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder with nothing in it but files of a bundle."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        return all(entry.name in FILES for entry in folder.iterdir())
    except FileNotFoundError:  # somebody else has just removed it
        return False


def _check_target(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise BundleError(f"wanted a folder to save to, got the file or link {path}")
    names = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    foreign = [name for name in names if name not in FILES]
    if foreign:
        raise BundleError(
            f"wanted an empty folder or a bundle to replace; {path} has {', '.join(foreign[:3])}"
        )
    if names:
        try:
            read(own_file(path, NAME))
        except BundleError as error:
            raise BundleError(
                f"wanted an empty folder or a bundle to replace at {path}: {error}"
            ) from error
