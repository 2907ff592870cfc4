"""Batches are the same from tensors, a Dataset and a DataLoader."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from offramp.data.batches import open_data
from offramp.errors import DataError
from offramp.train.seeds import random_states_kept


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(50, 2, 6, 6, generator=seeded()), torch.arange(50) % 3


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_a_dataset_gives_the_batches_of_its_tensors(data):
    dataset = TensorDataset(*data)
    plain, wrapped = open_data(data, 16), open_data(dataset, 16)
    assert plain.steps == wrapped.steps == 4
    for generator in (None, seeded):
        ours = list(plain.batches(generator and generator()))
        theirs = list(wrapped.batches(generator and generator()))
        assert len(ours) == len(theirs) == 4
        for a, b in zip(ours, theirs, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
            assert torch.equal(a.inputs, data[0][a.row])
    assert torch.equal(torch.cat([rows.row for rows in plain.batches(None)]), torch.arange(50))


def test_a_dataloader_keeps_its_batches_and_does_not_say_rows(data):
    loader = DataLoader(TensorDataset(*data), batch_size=20)
    source = open_data(loader, 7)
    rows = list(source.batches(seeded()))
    assert source.steps == 3
    assert [len(part.target) for part in rows] == [20, 20, 10]
    assert torch.equal(torch.cat([part.inputs for part in rows]), data[0])
    assert all(part.row.tolist() == [-1] * len(part.target) for part in rows)


def test_a_last_batch_of_one_row_is_left_out_of_training_only(data):
    inputs, targets = data[0][:33], data[1][:33]
    for given in ((inputs, targets), TensorDataset(inputs, targets)):
        kept, left = open_data(given, 16), open_data(given, 16, keep_single=False)
        assert [len(r.target) for r in kept.batches(None)] == [16, 16, 1]
        assert [len(r.target) for r in left.batches(None)] == [16, 16]
        assert (kept.steps, left.steps) == (3, 2)
    assert open_data((inputs[:1], targets[:1]), 16, keep_single=False).steps == 1


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(2), 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(4)), r"3 rows and targets \(4,\)"),
        ((torch.zeros(0, 2), torch.zeros(0)), "at least one row"),
        (({"a": torch.zeros(3), "b": torch.zeros(2)}, torch.zeros(3)), "no batch"),
        ((torch.zeros(3), [0, 1, 2]), "got tuple of"),
        (Endless(), "got Endless"),
        (torch.zeros(3, 2), "got Tensor"),
        (DataLoader(TensorDataset(torch.zeros(0, 2))), "at least one batch"),
    ],
)
def test_data_of_the_wrong_kind_say_what_was_wanted(given, message):
    with pytest.raises(DataError, match=message):
        open_data(given, 2)


def test_loader_that_does_not_know_its_length_says_so():
    source = open_data(DataLoader(Endless(), batch_size=3), 2)
    assert source.steps is None and source.rows is None
    assert next(iter(source.batches(None))).target.tolist() == [0, 0, 0]


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: DataLoader(data, batch_size=2)])
def test_items_that_are_no_pairs_say_what_was_wanted(wrap):
    source = open_data(wrap(TensorDataset(torch.zeros(3, 2))), 2)
    with pytest.raises(DataError, match="of pairs"):
        next(source.batches(None))


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_dataset_leaves_the_global_random_state_alone(data, shuffled):
    before = torch.get_rng_state()
    list(open_data(TensorDataset(*data), 16).batches(seeded() if shuffled else None))
    assert torch.equal(before, torch.get_rng_state())


class Batched:
    """Data that are read a batch at a time."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.inputs, self.targets, self.asked = inputs, targets, []

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(rows.tolist())
        return self.inputs[rows], self.targets[rows]


class Drawing(Dataset):
    """Items that draw from every random state there is."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        drawn = [float(torch.rand(())), random.random(), float(numpy.random.rand())]
        return torch.tensor([row, *drawn]), row


def equal(one: list, other: list) -> bool:
    pairs = [(x, y) for a, b in zip(one, other, strict=True) for x, y in zip(a, b, strict=True)]
    return all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in pairs)


def test_batched_data_are_read_a_batch_at_a_time(data):
    batched = Batched(*data)
    assert equal(
        list(open_data(batched, 16).batches(seeded())), list(open_data(data, 16).batches(seeded()))
    )
    assert [len(rows) for rows in batched.asked] == [16, 16, 16, 2]


def test_batch_of_another_meaning_is_not_asked(data):
    class Table(list):
        def batch(self, batch_size: int) -> None:
            raise NotImplementedError

    source = open_data(Table([(torch.zeros(2), 1)] * 5), 2)
    assert [len(rows.target) for rows in source.batches()] == [2, 2, 1]


def test_batched_data_of_the_wrong_kind_say_what_was_wanted(data):
    batched = Batched(data[0], data[1])
    batched.targets = data[1][:-1]
    batched.batch = lambda rows: data[0][rows]
    with pytest.raises(
        DataError, match=r"a pair \(inputs, targets\) of 16 rows from batch.*Tensor"
    ):
        next(open_data(batched, 16).batches())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_draws_what_the_seed_of_the_batch_says(workers):
    def read(**options):
        source = open_data(Drawing(), 6, workers=workers)
        return list(source.batches(seeded(), seeds=lambda n: 100 + n, **options))

    with random_states_kept(torch.device("cpu")):
        whole = read()
        assert equal(read(), whole)
        assert equal(read(skip=2), whole[2:])
    plain = list(open_data(Drawing(), 6).batches(seeded()))
    assert not equal(whole, plain)
    assert all(torch.equal(a.row, b.row) for a, b in zip(whole, plain, strict=True))


@pytest.mark.parametrize("kind", ["tensors", "dataset", "batched", "workers"])
def test_skipped_batches_are_not_read(data, kind):
    batched = Batched(*data)
    given = {"tensors": data, "batched": batched}.get(kind, TensorDataset(*data))
    source = open_data(given, 16, workers=2 if kind == "workers" else 0)
    assert equal(list(source.batches(seeded(), skip=3)), list(source.batches(seeded()))[3:])
    assert [len(rows) for rows in batched.asked] == ([2, 16, 16, 16, 2] if batched.asked else [])


def test_a_dataloader_is_iterated_over_what_is_skipped(data):
    loader = DataLoader(Drawing(), batch_size=6, shuffle=True)
    source = open_data(loader, 1)
    with random_states_kept(torch.device("cpu")):
        whole = list(source.batches(seeds=lambda n: 7 + n))
        assert equal(list(source.batches(seeds=lambda n: 7 + n, skip=2)), whole[2:])
        assert not equal(list(source.batches(seeds=lambda n: 8 + n)), whole)


def test_a_dataloaders_own_generators_are_seeded_and_put_back():
    own, samplers = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    sampler = RandomSampler(Drawing(), generator=samplers)
    loader = DataLoader(Drawing(), batch_size=6, sampler=sampler, generator=own)
    states = own.get_state(), samplers.get_state()
    source = open_data(loader, 1)
    with random_states_kept(torch.device("cpu")):
        one, other = (list(source.batches(seeds=lambda n: 7 + n)) for _ in range(2))
        unfinished = source.batches(seeds=lambda n: 7 + n)
        next(unfinished)
        unfinished.close()
    assert equal(one, other)
    assert torch.equal(states[0], own.get_state())
    assert torch.equal(states[1], samplers.get_state())


@pytest.mark.parametrize("kind", ["tensors", "dataset", "batched", "loader"])
@pytest.mark.parametrize("size", [2, 3, 17])
def test_shares_of_all_processes_are_the_whole_batch(data, kind, size):
    given = {
        "tensors": data,
        "dataset": TensorDataset(*data),
        "batched": Batched(*data),
        "loader": DataLoader(TensorDataset(*data), batch_size=16),
    }[kind]
    source = open_data(given, 16)
    shares = [
        list(source.batches(None, share=lambda rows, rank=rank: rows.tensor_split(size)[rank]))
        for rank in range(size)
    ]
    for whole, *parts in zip(source.batches(None), *shares, strict=True):
        own = [part for part in parts if not part.spare]
        assert torch.equal(torch.cat([part.inputs for part in own]), whole.inputs)
        assert torch.equal(torch.cat([part.target for part in own]), whole.target)
        assert torch.equal(torch.cat([part.row for part in own]), whole.row)
        assert len(parts) - len(own) == max(0, size - len(whole.target))
        for part in parts:
            assert not part.spare or torch.equal(part.inputs, whole.inputs[:2])


def test_workers_leave_the_global_random_state_alone(data):
    before = torch.get_rng_state()
    list(open_data(TensorDataset(*data), 16, workers=1).batches(seeded()))
    assert torch.equal(before, torch.get_rng_state())
