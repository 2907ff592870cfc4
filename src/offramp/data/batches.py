"""Batches of rows, from tensors, a Dataset or a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..errors import DataError, ValidationError
from ..trees import State, num_rows, take, tensors

Data = tuple[State, Tensor] | Dataset[Any] | DataLoader[Any]


class Rows(NamedTuple):
    """Some rows of the data."""

    inputs: State
    target: Tensor  # [N, *S]
    row: Tensor  # [N], row of the data set; -1 where a DataLoader does not say


@dataclass(frozen=True)
class Source:
    """Data cut into batches, as often as wanted."""

    rows: int | None  # of one pass; None where a DataLoader does not know
    steps: int | None  # batches of one pass; likewise
    batches: Callable[[torch.Generator | None], Iterator[Rows]]  # shuffled, or in order


def open_data(data: Data, batch_size: int, *, keep_single: bool = True) -> Source:
    """A source of batches.

    Tensors are indexed directly; a Dataset of (input, target), or anything with a length and
    numbered items, goes through a DataLoader in this process; a DataLoader of (inputs, targets)
    keeps its own batches and its own order.

    Args:
        data: tensors (inputs, targets), a map-style Dataset or a DataLoader.
        batch_size: rows of a batch; a DataLoader has its own.
        keep_single: keep a last batch of a single row, which batch norm cannot learn from.

    Raises:
        DataError: if the data are none of these, are empty, or rows and targets differ in number.
    """
    if isinstance(data, DataLoader):
        return _from_loader(data)
    in_memory = isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[1], Tensor)
    bare = isinstance(data, tuple | str | Tensor)
    if in_memory:
        num = _check_tensors(_plain(data[0]), data[1])
    elif hasattr(data, "__getitem__") and isinstance(data, Sized) and not bare:
        num = len(data)
    else:
        raise DataError(
            "wanted a pair (inputs, targets) of tensors, a map-style Dataset or a DataLoader, "
            f"got {_describe(data)}"
        )
    if num < 1:
        raise DataError("wanted at least one row of data, got none")
    steps = -(-num // batch_size)
    if steps > 1 and num % batch_size == 1 and not keep_single:
        steps -= 1
    if in_memory:
        return _from_tensors(_plain(data[0]), data[1], batch_size, steps)
    return _from_dataset(cast(Dataset[Any], data), num, batch_size, steps)


def _from_tensors(inputs: State, targets: Tensor, batch_size: int, steps: int) -> Source:
    place = tensors(inputs)[0].device

    def batches(generator: torch.Generator | None) -> Iterator[Rows]:
        for index in _order(len(targets), generator).split(batch_size)[:steps]:
            rows = index.to(place)
            yield Rows(take(inputs, rows), targets[index.to(targets.device)], index)

    return Source(len(targets), steps, batches)


def _from_dataset(data: Dataset[Any], num: int, batch_size: int, steps: int) -> Source:
    def batches(generator: torch.Generator | None) -> Iterator[Rows]:
        chunks = [rows.tolist() for rows in _order(num, generator).split(batch_size)[:steps]]
        own = torch.Generator()  # a loader without one draws from the caller's random state
        loader = DataLoader(_Numbered(data), batch_sampler=chunks, generator=own)
        for index, (inputs, target) in loader:
            yield Rows(_plain(inputs), target, index)

    return Source(num, steps, batches)


def _from_loader(loader: DataLoader[Any]) -> Source:
    known = not isinstance(loader.dataset, IterableDataset) or hasattr(loader.dataset, "__len__")
    steps = len(loader) if known else None
    rows = len(cast(Sized, loader.dataset)) if known else None
    if steps == 0:
        raise DataError("wanted a DataLoader with at least one batch, got none")

    def batches(generator: torch.Generator | None) -> Iterator[Rows]:
        for pair in loader:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise DataError(
                    f"wanted a DataLoader of pairs (inputs, targets), got {_describe(pair)}"
                )
            inputs, target = pair
            yield Rows(_plain(inputs), target, torch.full((len(target),), -1))

    return Source(rows, steps, batches)


def _plain(inputs: State) -> State:
    """The BatchEncoding of a tokenizer is a mapping, and no pytree."""
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def _order(num: int, generator: torch.Generator | None) -> Tensor:
    return torch.arange(num) if generator is None else torch.randperm(num, generator=generator)


class _Numbered(Dataset[Any]):
    """A data set whose items say their row."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, row: int) -> tuple[int, tuple[Any, Any]]:
        item = self.data[row]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                f"wanted a Dataset of pairs (input, target), got {_describe(item)} at row {row}"
            )
        return row, (item[0], item[1])


def _check_tensors(inputs: State, targets: Tensor) -> int:
    try:
        num = num_rows(inputs)
    except ValidationError as error:
        raise DataError(f"these inputs are no batch: {error}") from None
    if targets.dim() < 1 or len(targets) != num:
        raise DataError(
            f"wanted one target per row, got {num} rows and targets {tuple(targets.shape)}"
        )
    return num


def _describe(thing: Any) -> str:
    kind = type(thing).__name__
    if isinstance(thing, tuple | list):
        return f"{kind} of {[type(part).__name__ for part in thing]}"
    return kind
