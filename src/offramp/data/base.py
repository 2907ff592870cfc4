"""What every data set hands over: four disjoint parts, and the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..registry import datasets
from ..trees import State, map_tensors, take
from .batches import Data
from .preprocess import Preprocess
from .splits import Parts

register = datasets.register


@dataclass(frozen=True)
class Splits:
    """A data set in four disjoint parts.

    Models learn from ``train`` and are chosen by ``validation``; policies are fitted on
    ``calibration``; ``test`` is scored once. ``preprocess`` is what was done to the images, where
    they are images.
    """

    train: Data
    validation: Data
    calibration: Data
    test: Data
    class_names: tuple[str, ...]
    preprocess: Preprocess | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.class_names)

    def example(self, rows: int = 1) -> State:
        """The first inputs of the training part, to build or to measure a model with."""
        return first_inputs(self.train, rows)

    @classmethod
    def of(
        cls,
        inputs: State,
        targets: Tensor,
        parts: Parts,
        class_names: Sequence[str],
        *,
        preprocess: Preprocess | None = None,
    ) -> Splits:
        """The four parts of a data set in memory, from the rows of each."""
        held = [(take(inputs, rows), targets[rows]) for rows in parts]
        return cls(*held, class_names=tuple(class_names), preprocess=preprocess)


def first_inputs(data: Data, rows: int = 1) -> State:
    """The first inputs of some data, as a batch; fewer where there are not as many."""
    if isinstance(data, DataLoader):
        return map_tensors(lambda tensor: tensor[:rows], next(iter(data))[0])
    num = len(cast(Any, data[1] if isinstance(data, tuple) else data))
    return inputs_at(data, range(min(rows, num)))


def inputs_at(data: Data, rows: Sequence[int]) -> State:
    """The inputs of some rows of data that are no DataLoader, as a batch."""
    if isinstance(data, tuple):
        return take(data[0], torch.tensor(rows))
    if hasattr(data, "batch"):
        return cast(Any, data).batch(torch.tensor(rows))[0]
    return default_collate([cast(Dataset[Any], data)[row][0] for row in rows])


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
