"""Registries: a decorated class or function is an entry, found by name, created with options."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

from .errors import NameTakenError, OptionError, UnknownNameError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Named factories of one kind.

    The modules of ``package`` are imported at the first look-up, so a new entry is one new file
    with one decorated class or function in it.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, Callable[..., T]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[F], F]:
        """Enter the decorated class or function under ``name``.

        Raises:
            NameTakenError: if something else already has that name.
        """

        def enter(entry: F) -> F:
            known = self._entries.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (
                entry.__module__,
                entry.__qualname__,
            ):
                raise NameTakenError(
                    f"wanted a free {self.kind} name, got {name!r}, taken by {known.__module__}"
                )
            self._entries[name] = entry
            return entry

        return enter

    def remove(self, name: str) -> None:
        """Take an entry out again; nothing happens where there is none."""
        self._entries.pop(name, None)

    def names(self, pattern: str = "*") -> list[str]:
        """Names that match a shell pattern, sorted."""
        self._load()
        return sorted(name for name in self._entries if fnmatchcase(name, pattern))

    def get(self, name: str) -> Callable[..., T]:
        """The factory of that name.

        Raises:
            UnknownNameError: if there is none; the message lists the valid names, nearest first.
        """
        self._load()
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(str(name), self.names(), n=3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownNameError(
            f"no {self.kind} is named {name!r}; {hint}valid: {', '.join(self.names())}"
        )

    def create(self, name: str, *args: Any, **options: Any) -> T:
        """Call the factory of that name.

        Raises:
            UnknownNameError: if there is no such name.
            OptionError: if the factory does not take these options.
        """
        factory = self.get(name)
        signature = inspect.signature(factory)
        try:
            signature.bind(*args, **options)
        except TypeError as error:
            raise OptionError(f"{self.kind} {name!r}: {error}; it takes {signature}") from None
        return factory(*args, **options)

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._loaded = True  # last: after a failed import the next look-up fails too, loudly


models: Registry[Any] = Registry("model", "offramp.backbones")
objectives: Registry[Any] = Registry("objective", "offramp.objectives")
policies: Registry[Any] = Registry("policy", "offramp.policies")
datasets: Registry[Any] = Registry("dataset", "offramp.data")
