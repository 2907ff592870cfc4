"""Is a value of a type, and if not, what was wanted, in words."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter
from pydantic import ValidationError as TypeFault

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_LOOSE = ConfigDict(arbitrary_types_allowed=True)


class Option(NamedTuple):
    """What is known of an option: its type, where it can be told, and its default."""

    type: Any = inspect.Parameter.empty
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty


def options_of(factory: Callable[..., Any]) -> dict[str, Option] | None:
    """The options that a factory takes by name; None where it takes any."""
    try:
        signature = inspect.signature(factory, eval_str=True)
    except (NameError, AttributeError, TypeError):  # names of a TYPE_CHECKING block
        signature = inspect.signature(factory)
        signature = signature.replace(
            parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()]
        )
    found = signature.parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in found):
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: Option(p.annotation, p.default) for p in found if p.kind in named}


def fields_of(kind: type) -> dict[str, Option]:
    """The fields of a dataclass as options."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {}
    for field in dataclasses.fields(kind):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        none = default is dataclasses.MISSING
        found[field.name] = Option(hints[field.name], inspect.Parameter.empty if none else default)
    return found


def misfit(value: Any, kind: Any) -> str | None:
    """What came and what was wanted, where a plain value is not of a type; else None.

    Types that say nothing about plain values, such as functions and modules, are not checked.
    """
    wanted = _words(kind)
    if not wanted:
        return None
    try:
        adapter = _adapter(kind)
        adapter.validate_json(json.dumps(value), strict=True)
    except PydanticUserError:  # a type that pydantic cannot check
        return None
    except TypeFault:
        return f"got {shown(value)}, wanted {' or '.join(wanted)}"
    return None


def shown(value: Any) -> str:
    """A plain value as it would be typed, cut where long."""
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def unknown(word: str, valid: Iterable[str], what: str) -> str:
    """There is no such ``what``: the valid ones, the nearest first."""

    def distance(name: str) -> float:
        return -difflib.SequenceMatcher(None, word, name).ratio()

    names = sorted(sorted(valid), key=distance)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no such {what}; {hint}valid: {', '.join(names) or 'none'}"


def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind, config=_LOOSE)
    except PydanticUserError:  # a type with a config of its own takes none
        return TypeAdapter(kind)


def _words(kind: Any) -> list[str]:
    """What a type wants, in words; nothing for what cannot be written down in a config."""
    if kind in _WORDS:
        return [_WORDS[kind]]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(inner[0])
    if origin is Literal:
        names = ", ".join(shown(value) for value in inner)
        return [f"one of {names}" if len(inner) > 1 else names]
    if origin in (Union, types.UnionType):
        return list(dict.fromkeys(word for part in inner for word in _words(part)))
    if kind is list or (isinstance(origin, type) and issubclass(origin, Sequence)):
        parts = [word for part in inner if part is not ... for word in _words(part)]
        each = " or ".join(dict.fromkeys(parts))
        return [f"a list (each {each})" if each else "a list"]
    if kind is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return ["a mapping"]
    return []
