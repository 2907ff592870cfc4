"""What every data set hands over: four disjoint parts, and the names of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..registry import datasets
from ..trees import State, take
from .splits import Parts

register = datasets.register

Part = tuple[State, Tensor]  # inputs, a pytree of [n, ...]; targets [n, *S]


@dataclass(frozen=True)
class Splits:
    """A data set in four disjoint parts.

    Models learn from ``train`` and are chosen by ``validation``; policies are fitted on
    ``calibration``; ``test`` is scored once.
    """

    train: Part
    validation: Part
    calibration: Part
    test: Part
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.class_names)

    @classmethod
    def of(
        cls, inputs: State, targets: Tensor, parts: Parts, class_names: tuple[str, ...]
    ) -> Splits:
        """The four parts of a data set in memory, from the rows of each."""
        return cls(
            *[(take(inputs, rows), targets[rows]) for rows in parts], class_names=class_names
        )


def create_dataset(name: str, **options: Any) -> Splits:
    """A registered data set.

    Args:
        name: one of `list_datasets`.
        options: what the data set takes, such as ``seed``.

    Raises:
        UnknownNameError: if there is no data set of that name.
        OptionError: if the data set does not take an option.

    Example:
        >>> create_dataset("digits").num_classes
        10
    """
    return datasets.create(name, **options)


def list_datasets(pattern: str = "*") -> list[str]:
    """Names of the registered data sets that match a shell pattern."""
    return datasets.names(pattern)
