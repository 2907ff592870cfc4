"""The JSON file of a bundle: written with a checksum over itself, read with suspicion.

Whatever it holds has been bounded by the time `read` returns: size, depth, length of strings,
and numbers, which are finite. What its entries mean is checked by those who use them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BundleError
from ..files import write_text

Plain = dict[str, Any]  # what JSON can hold

FORMAT, VERSION = "offramp-bundle", 1
NAME = "bundle.json"

_MOST_BYTES = 4 * 2**20
_MOST_DEPTH, _MOST_DIGITS, _MOST_LETTERS = 24, 16, 2**16

# entry -> its type and whether it is always there
_ENTRIES: dict[str, tuple[type, bool]] = {
    "offramp": (str, True),
    "recipe": (dict, True),
    "num_exits": (int, True),
    "fingerprint": (dict, True),
    "files": (dict, True),
    "policy": (dict, False),
    "costs": (dict, False),
    "class_names": (list, False),
    "preprocess": (dict, False),
    "info": (dict, True),
}


def write(file: Path, entries: Mapping[str, Any]) -> None:
    """Write the document of a bundle.

    Raises:
        BundleError: if an entry holds what JSON does not, or what `read` would refuse.
    """
    body = {"format": FORMAT, "version": VERSION, **entries}
    text = json.dumps({**body, "sha256": checksum(body)}, indent=1, ensure_ascii=False) + "\n"
    read_text(text, "the document")  # so that nothing is written that cannot be read
    write_text(file, text)


def read(file: Path) -> Plain:
    """Read the document of a bundle.

    Raises:
        BundleError: if it is damaged, is something else, or a newer offramp wrote it.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise BundleError(f"wanted at most {_MOST_BYTES} bytes in {file}, got more")
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{file} is damaged: {error.reason}, at byte {error.start}") from None
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
    return read_text(text, str(file))


def read_text(text: str, origin: str) -> Plain:
    """The document in a text, bounded and with the right checksum.

    Raises:
        BundleError: as `read`.
    """
    if len(text) > _MOST_BYTES:
        raise BundleError(f"wanted at most {_MOST_BYTES} letters in {origin}, got {len(text)}")
    try:
        document: Any = json.loads(
            text,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=_once,
        )
        check_plain(document, "the document")
    except RecursionError:
        raise BundleError(f"{origin} is damaged: it is nested too deeply") from None
    except ValueError as error:
        raise BundleError(f"{origin} is damaged: {short(error)}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(f"wanted the format {FORMAT!r} in {origin}, got something else")
    version = document.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        raise BundleError(
            f"wanted a bundle of version {VERSION}, got version {version} in {origin}: "
            "install a newer offramp"
        )
    if version != VERSION or isinstance(version, bool):
        raise BundleError(f"wanted a bundle of version {VERSION} in {origin}, got {version!r}")
    body = {name: value for name, value in document.items() if name != "sha256"}
    if document.get("sha256") != checksum(body):
        raise BundleError(f"{origin} is damaged: its checksum does not fit what it holds")
    _check_entries(body, origin)
    return body


def checksum(body: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, however it is laid out."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def check_plain(value: Any, what: str, depth: int = 0) -> None:
    """Check that a value is plain data within bounds: see above.

    Raises:
        BundleError: if it is not.
    """
    if depth > _MOST_DEPTH:
        raise BundleError(f"wanted at most {_MOST_DEPTH} levels in {what}, got more")
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise BundleError(f"wanted words as names in {what}, got {short(repr(name), 40)}")
            check_plain(name, what, depth + 1)
            check_plain(inner, what, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            check_plain(inner, what, depth + 1)
    elif isinstance(value, str):
        if len(value) > _MOST_LETTERS:
            raise BundleError(f"wanted at most {_MOST_LETTERS} letters in a word, got {len(value)}")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise BundleError(f"wanted words in {what}, got half a character in one")
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 10**_MOST_DIGITS:
            raise BundleError(f"wanted whole numbers below 1e{_MOST_DIGITS} in {what}, got more")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BundleError(f"wanted finite numbers in {what}, got {value}")
    elif value is not None and not isinstance(value, bool):
        raise BundleError(
            f"wanted numbers, words, lists and dicts in {what}, got {type(value).__name__}"
        )


def short(text: object, most: int = 300) -> str:
    """One line of at most so many letters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _check_entries(body: Plain, origin: str) -> None:
    for name in body:
        if name not in _ENTRIES and name not in ("format", "version"):
            raise BundleError(f"{origin} has an entry {short(repr(name), 60)} of unknown meaning")
    for name, (kind, always) in _ENTRIES.items():
        value = body.get(name)
        if value is None and not always:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            came = "nothing" if value is None else type(value).__name__
            raise BundleError(f"wanted {name!r} as {kind.__name__} in {origin}, got {came}")


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS + 1:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {short(digits, 40)}, which is not finite")
    return value


def _once(pairs: list[tuple[str, Any]]) -> Plain:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("an entry that is there twice")
    return made
