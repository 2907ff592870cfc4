"""YAML as plain data: no tags, no anchors, no key twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

PLAIN = (type(None), bool, int, float, str, list, dict)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, less what surprises."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise _fault("an alias (*name), wanted the value itself", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _fault(f"the key {key.value!r}, wanted a word as key", key.start_mark)
            if key.value in seen:
                raise _fault(f"the key {key.value!r} a second time", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":timestamp", ":merge"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(  # YAML 1.1 takes 1e-4 for text
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, as plain data.

    Raises:
        ConfigError: if it cannot be read, or is no such YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: wanted a text file in UTF-8, got other bytes"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text holds, as plain data.

    Raises:
        ConfigError: if it is no YAML, or holds more than plain data.
    """
    try:
        value = yaml.load(text, Loader=_Loader)  # a safe loader
        return _plain(value, where)
    except yaml.YAMLError as error:
        raise ConfigError([f"{where}: {_told(error)}"]) from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        told = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError([f"{where}: no YAML that can be read: {told}"]) from None


def to_yaml(value: Any) -> str:
    """Plain data as YAML, keys in their order; short lists on one line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """YAML's safe dumper, with lists of plain values on one line and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: Any, value: list[Any]) -> Any:
    flat = not any(isinstance(part, list | dict) for part in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flat)


_Dumper.add_representer(list, _represent_list)


def _plain(value: Any, where: str) -> Any:
    if not isinstance(value, PLAIN):
        raise ConfigError([f"{where}: wanted plain values, got a {type(value).__name__}"])
    for part in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _plain(part, where)
    return value


def _fault(what: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"got {what}", problem_mark=mark)


def _told(error: yaml.YAMLError) -> str:
    """One line: where, and what is wrong there."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    parts = [getattr(error, name, None) for name in ("context", "problem")]
    problem = ", ".join(part for part in parts if part) or str(error).partition("\n")[0]
    return f"{place}{problem}"
