"""What a bundle says about its model, checked: costs, names of classes, preprocessing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..data.preprocess import Preprocess
from ..errors import BundleError, DataError
from ..heads import Head
from ..model import MultiExitModel
from ..types import UNITS, Costs
from .document import Plain, short

_LISTS = ("macs", "params", "latency_ms", "spread_ms")


def costs_from(plain: Plain, num_exits: int) -> tuple[Plain, Costs]:
    """Costs from plain data; both are returned.

    Raises:
        BundleError: if they are not those of so many exits.
    """
    wanted = {*_LISTS, "full", "batch_size"}
    if plain.keys() != wanted or plain["macs"] is None or not isinstance(plain["full"], dict):
        raise BundleError(f"wanted costs with {sorted(wanted)}, got {short(sorted(plain), 80)}")
    for name in _LISTS:
        values = plain[name]
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != num_exits:
            raise BundleError(f"wanted {name} of {num_exits} exits, got {short(values, 80)}")
        if not all(_is_number(value) and value >= 0 for value in values):
            raise BundleError(f"wanted {name} as numbers from 0, got {short(values, 80)}")
    for unit, value in plain["full"].items():
        if unit not in UNITS or not _is_number(value) or value <= 0:
            raise BundleError(
                f"wanted positive full costs in {', '.join(UNITS)}, "
                f"got {short(value, 40)} in {short(repr(unit), 40)}"
            )
    size = plain["batch_size"]
    if size is not None and (not _is_number(size) or size != int(size) or size < 1):
        raise BundleError(f"wanted batch_size as a whole number from 1, got {short(size, 40)}")
    return plain, Costs.from_dict(plain)


def names_from(plain: Any, model: MultiExitModel) -> list[str]:
    """Names of classes from plain data, as many as the model's heads have classes.

    Raises:
        BundleError: if they are no list of words, or there are more or fewer.
    """
    listed = isinstance(plain, Iterable) and not isinstance(plain, str)
    names: list[Any] = list(plain) if listed else [plain]
    if not listed or not all(isinstance(name, str) for name in names):
        raise BundleError(f"wanted class_names as a list of words, got {short(repr(plain), 80)}")
    # heads that users made do not tell
    known = [len(head.classifier.weight) for head in model.heads if isinstance(head, Head)]
    if names and known and len(names) != known[0]:
        raise BundleError(f"wanted class_names of {known[0]} classes, got {len(names)}")
    return names


def preprocess_from(plain: Plain) -> Any:
    """Preprocessing from plain data; of what has other entries than ours, the plain data.

    Raises:
        BundleError: if it is ours and cannot be made.
    """
    if plain.keys() != Preprocess.__dataclass_fields__.keys():
        return plain
    try:
        return Preprocess.from_dict(plain)
    except DataError as error:
        raise BundleError(f"the preprocessing cannot be made again: {short(error)}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
