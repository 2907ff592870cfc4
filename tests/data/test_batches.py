"""Batches are the same from tensors, a Dataset and a DataLoader."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from offramp.data.batches import open_data
from offramp.errors import DataError


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
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
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
