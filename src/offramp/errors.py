"""Errors: each is an `OfframpError` and the builtin that fits; it says what was wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class OfframpError(Exception):
    """Base of every error that offramp raises on purpose."""


class OfframpWarning(UserWarning):
    """Something that works and is probably not what was meant; the message says what to change."""


class BudgetError(OfframpError, ValueError):
    """A budget that cannot be met; the message states the reachable range."""


class UnknownNameError(OfframpError, ValueError):
    """A name that is not registered; the message lists the valid ones."""


class NameTakenError(OfframpError, ValueError):
    """A name under which something else is registered already."""


class OptionError(OfframpError, TypeError):
    """An option that a registered thing does not take; the message lists those it takes."""


class ValidationError(OfframpError, ValueError):
    """An argument of the wrong value or shape."""


class PlaceError(OfframpError, ValueError):
    """A place where no exit can go; the message lists valid places."""


class RecordsError(OfframpError, ValueError):
    """Records whose parts do not fit together, or a folder that holds none."""


class CheckpointError(OfframpError, ValueError):
    """A checkpoint that does not fit the network, or is damaged."""


class BundleError(OfframpError, ValueError):
    """A bundle that cannot be saved, or that is damaged, foreign or too new to be loaded."""


class DataError(OfframpError, ValueError):
    """A data set that cannot be read or split as asked."""


class ConfigError(OfframpError, ValueError):
    """A config that cannot be used; the message has one line per fault."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = [" ".join(fault.split()) for fault in faults]
        super().__init__("\n".join(self.faults))


class TrainingError(OfframpError, RuntimeError):
    """Training that cannot go on; the message names the step and the term."""


class ReportError(OfframpError, ValueError):
    """Results that cannot be reported; the message names the file and the key."""


class RunError(OfframpError, ValueError):
    """A folder of a run that holds no run, or not what is asked of it yet."""


class UnsupportedError(OfframpError, NotImplementedError):
    """Something that is part of the interface and is not there yet."""


class MissingExtraError(OfframpError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a failing import of an optional package into an error that names the extra to install.

    Example:
        >>> with extra("vision"):
        ...     import torchvision
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed: pip install 'offramp[{name}]' brings it"
        ) from error
