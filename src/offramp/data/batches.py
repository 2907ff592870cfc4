"""Batches of rows, from tensors, a Dataset or a DataLoader."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..errors import DataError, ValidationError
from ..trees import State, num_rows, take, tensors


class Batched(Protocol):
    """Data that are read a batch at a time, which is faster than row by row."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def batch(self, rows: Tensor) -> tuple[State, Tensor]:
        """Inputs and targets of these rows, [n, ...] and [n, *S]."""
        ...


Data = tuple[State, Tensor] | Dataset[Any] | DataLoader[Any] | Batched


class Rows(NamedTuple):
    """Some rows of the data."""

    inputs: State
    target: Tensor  # [N, *S]
    row: Tensor  # [N], row of the data set; -1 where a DataLoader does not say
    spare: bool = False  # these rows are another process's: they keep this one busy, and count not


class Reading(NamedTuple):
    """How one pass over the data is read."""

    shuffle: torch.Generator | None = None  # draws the order; without one rows come in order
    skip: int = 0  # batches, the first ones, that are not wanted
    seeds: Callable[[int], int] | None = None  # of what a Dataset draws while batch n is read
    share: Callable[[Tensor], Tensor] | None = None  # this process's part of a batch's rows


@dataclass(frozen=True)
class Source:
    """Data cut into batches, as often as wanted."""

    rows: int | None  # of one pass; None where a DataLoader does not know
    steps: int | None  # batches of one pass; likewise
    read: Callable[[Reading], Generator[Rows, None, None]]
    first: Callable[[], Rows] | None = None  # the first row alone; a DataLoader has no such thing
    batch_size: int | None = None  # rows of a full batch; None where a DataLoader does not say

    def batches(
        self,
        shuffle: torch.Generator | None = None,
        *,
        skip: int = 0,
        seeds: Callable[[int], int] | None = None,
        share: Callable[[Tensor], Tensor] | None = None,
    ) -> Generator[Rows, None, None]:
        """One pass over the data.

        Args:
            shuffle: draws the order; without it rows come in order. A DataLoader has its own order.
            skip: so many batches are left out at the start. Where rows have numbers they are not
                even read; a DataLoader is iterated.
            seeds: from the number of a batch to a seed. Python, NumPy and torch are seeded with it
                before a Dataset or a DataLoader is asked for that batch (the caller puts their
                states back), and so are the DataLoader's own generators, once, which are put back.
            share: cuts this process's part out of the row numbers of a batch. Where nothing is
                left, the batch's first two rows come, marked as spare: batch norm needs two.
        """
        return self.read(Reading(shuffle, skip, seeds, share))


def open_data(data: Data, batch_size: int, *, keep_single: bool = True, workers: int = 0) -> Source:
    """A source of batches.

    Tensors are indexed directly; data with a method ``batch(rows)`` are read by it, in this
    process. A Dataset of (input, target), or anything with a length and numbered items, is read row
    by row, by ``workers`` where there are any. A DataLoader of (inputs, targets) keeps its own
    batches and its own order.

    Args:
        data: tensors (inputs, targets), a map-style Dataset or a DataLoader.
        batch_size: rows of a batch; a DataLoader has its own.
        keep_single: keep a last batch of a single row, which batch norm cannot learn from.
        workers: processes that read a Dataset.

    Raises:
        DataError: if the data are none of these, are empty, or rows and targets differ in number.
    """
    if isinstance(data, DataLoader):
        return _from_loader(data)
    read: _Tensors | _Batches | _Items
    numbered = hasattr(data, "__getitem__") or _is_batched(data)
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[1], Tensor):
        read = _Tensors(_plain(data[0]), data[1])
        num = _check_tensors(read.inputs, read.targets)
    elif numbered and isinstance(data, Sized) and not isinstance(data, tuple | str | Tensor):
        read, num = (_Batches(data) if _is_batched(data) else _Items(data)), len(data)
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
    return _from_rows(read, num, _Cut(batch_size, steps), workers)


# ------------------------------------------------------------------ rows that have numbers
class _Cut(NamedTuple):
    batch_size: int
    steps: int


class _Task(NamedTuple):
    """One batch to read."""

    rows: Tensor  # [n]
    spare: bool
    seed: int | None


class _Tensors(NamedTuple):
    """Reads rows of tensors."""

    inputs: State
    targets: Tensor

    def __call__(self, task: _Task) -> Rows:
        rows = task.rows.to(tensors(self.inputs)[0].device)
        target = self.targets[task.rows.to(self.targets.device)]
        return Rows(take(self.inputs, rows), target, task.rows, task.spare)


class _Batches(NamedTuple):
    """Reads rows of data that are read a batch at a time."""

    data: Any

    def __call__(self, task: _Task) -> Rows:
        _seed_reading(task.seed)
        pair = self.data.batch(task.rows)
        if not _is_pair(pair) or not isinstance(pair[1], Tensor) or len(pair[1]) != len(task.rows):
            raise DataError(
                f"wanted a pair (inputs, targets) of {len(task.rows)} rows from batch(rows), got "
                f"{_describe(pair)}"
            )
        return Rows(_plain(pair[0]), pair[1], task.rows, task.spare)


class _Items(NamedTuple):
    """Reads rows of a Dataset, one by one."""

    data: Any

    def __call__(self, task: _Task) -> Rows:
        _seed_reading(task.seed)
        rows = task.rows.tolist()
        several = getattr(self.data, "__getitems__", None)
        items = [self.data[row] for row in rows] if several is None else several(rows)
        for row, item in zip(rows, items, strict=True):
            if not _is_pair(item):
                raise DataError(
                    f"wanted a Dataset of pairs (input, target), got {_describe(item)} at row {row}"
                )
        inputs, target = default_collate([(item[0], item[1]) for item in items])
        return Rows(_plain(inputs), target, task.rows, task.spare)


class _Queue(Dataset[Any]):
    """Tasks as the items of a Dataset, for the workers of a DataLoader."""

    def __init__(self, read: Callable[[_Task], Rows], tasks: Sequence[_Task]) -> None:
        self.read, self.tasks = read, tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, number: int) -> Rows | DataError:
        try:
            return self.read(self.tasks[number])
        except DataError as error:  # raised here, its line would arrive inside a traceback
            return error


def _from_rows(read: _Tensors | _Batches | _Items, num: int, cut: _Cut, workers: int) -> Source:
    def tasks(how: Reading) -> Iterator[_Task]:
        for number, rows in enumerate(_order(num, how.shuffle).split(cut.batch_size)[: cut.steps]):
            if number >= how.skip:
                own = rows if how.share is None else how.share(rows)
                seed = None if how.seeds is None else how.seeds(number)
                yield _Task(own if len(own) else rows[:2], not len(own), seed)

    def batches(how: Reading) -> Generator[Rows, None, None]:
        if workers and isinstance(read, _Items):
            own = torch.Generator()  # a loader without one draws from the caller's random state
            for came in DataLoader(
                _Queue(read, list(tasks(how))),
                batch_size=None,
                num_workers=workers,
                collate_fn=_as_it_is,
                generator=own,
            ):
                if isinstance(came, DataError):
                    raise came
                yield came
        else:
            yield from map(read, tasks(how))

    def first() -> Rows:
        return read(_Task(torch.zeros(1, dtype=torch.long), False, None))

    return Source(num, cut.steps, batches, first, cut.batch_size)


def _order(num: int, generator: torch.Generator | None) -> Tensor:
    return torch.arange(num) if generator is None else torch.randperm(num, generator=generator)


def _as_it_is(rows: Any) -> Any:
    return rows


# ------------------------------------------------------------------ a DataLoader
def _from_loader(loader: DataLoader[Any]) -> Source:
    known = not isinstance(loader.dataset, IterableDataset) or hasattr(loader.dataset, "__len__")
    steps = len(loader) if known else None
    rows = len(cast(Sized, loader.dataset)) if known else None
    if steps == 0:
        raise DataError("wanted a DataLoader with at least one batch, got none")

    def batches(how: Reading) -> Generator[Rows, None, None]:
        with _generators_seeded(loader, how.seeds):
            _seed_reading(how.seeds and how.seeds(0))
            number, pairs = 0, iter(loader)
            while True:
                _seed_reading(how.seeds and how.seeds(number))
                try:
                    pair = next(pairs)
                except StopIteration:
                    return
                if number >= how.skip:
                    yield _shared(pair, how.share)
                number += 1

    return Source(rows, steps, batches, batch_size=loader.batch_size)


def _shared(pair: Any, share: Callable[[Tensor], Tensor] | None) -> Rows:
    """This process's rows of what a DataLoader gave."""
    if not _is_pair(pair):
        raise DataError(f"wanted a DataLoader of pairs (inputs, targets), got {_describe(pair)}")
    inputs, target = _plain(pair[0]), pair[1]
    if share is None:
        return Rows(inputs, target, torch.full((len(target),), -1))
    every = torch.arange(len(target))
    own = share(every)
    rows = own if len(own) else every[:2]
    return Rows(take(inputs, rows), target[rows], torch.full((len(rows),), -1), not len(own))


@contextmanager
def _generators_seeded(
    loader: DataLoader[Any], seeds: Callable[[int], int] | None
) -> Iterator[None]:
    """Seed a DataLoader's own generators, and put their states back afterwards."""
    samplers = (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    found = [getattr(thing, "generator", None) for thing in samplers]
    own = {id(g): g for g in found if isinstance(g, torch.Generator)} if seeds else {}
    states = [(g, g.get_state()) for g in own.values()]
    try:
        for generator in own.values():
            generator.manual_seed(cast(Any, seeds)(0))
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


# ------------------------------------------------------------------ small things
def _seed_reading(seed: int | None) -> None:
    """Seed all that a Dataset may draw from, here or in a worker; None leaves it as it is."""
    if seed is not None:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)


def _plain(inputs: State) -> State:
    """The BatchEncoding of a tokenizer is a mapping, and no pytree."""
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def _is_batched(data: Any) -> bool:
    """Whether there is a method ``batch(rows)``; a table of Hugging Face has one of a size."""
    method = getattr(data, "batch", None)
    return callable(method) and next(iter(inspect.signature(method).parameters), "") == "rows"


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2


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
