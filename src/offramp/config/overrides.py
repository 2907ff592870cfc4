"""Values given on the command line, put in place of those of a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .values import shown
from .yaml_text import parse_yaml

_SHORT = ("data", "model", "objective", "policies")  # where a bare name stands for {name: ...}


def override(tree: Any, overrides: Sequence[str]) -> list[str]:
    """Put ``a.b.c=value`` into a tree, in place; values are YAML.

    Lists are entered by number: ``train.phases.0.lr=0.1``; the number after the last adds an entry.
    A bare name that is entered becomes a mapping: ``policies.0.temperature=true``. The keys
    themselves are not checked here.

    Returns:
        One line per override that cannot be put in place.
    """
    return [fault for each in overrides for fault in _put_in(tree, each)]


def _put_in(tree: Any, text: str) -> list[str]:
    key, equals, given = text.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        return [f"wanted key=value, such as train.epochs=3, got {text!r}"]
    try:
        value = parse_yaml(given, key)
    except ConfigError as error:
        return error.faults
    for number, step in enumerate(steps[:-1]):
        default: Any = [] if steps[number + 1].isdigit() else {}
        inside = _get(tree, step, default)
        if isinstance(inside, str) and (steps[0] in _SHORT or "objective" in steps[: number + 1]):
            inside = {"name": inside}
            _set(tree, step, inside)
        if inside is None:
            return [f"{key}: {_numbers(tree, step)}"]
        if not isinstance(inside, dict | list):
            where = ".".join(steps[: number + 1])
            return [f"{key}: {where} is {shown(inside)}, which has no parts"]
        tree = inside
    return [] if _set(tree, steps[-1], value) else [f"{key}: {_numbers(tree, steps[-1])}"]


def _get(tree: Any, step: str, default: Any) -> Any:
    """The part of that name; one that is not there yet is made."""
    if isinstance(tree, list):
        at = _index(tree, step)
        if at is None:
            return None
        if at == len(tree):
            tree.append(default)
        return tree[at]
    if tree.get(step) is None:
        tree[step] = default
    return tree[step]


def _set(tree: Any, step: str, value: Any) -> bool:
    if isinstance(tree, list):
        at = _index(tree, step)
        if at is None:
            return False
        tree[at : at + 1] = [value]
        return True
    tree[step] = value
    return True


def _index(tree: list[Any], step: str) -> int | None:
    return int(step) if step.isdecimal() and int(step) <= len(tree) else None


def _numbers(tree: Any, step: str) -> str:
    return f"wanted the number of an entry, 0 to {len(tree)}, got {step!r}"
