"""Four parts: disjoint, stratified, by seed."""

from __future__ import annotations

import pytest
import torch

from offramp.data import split
from offramp.data.splits import first_per_class
from offramp.errors import DataError


def uneven() -> torch.Tensor:
    counts = [4, 9, 33, 100, 57]
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def test_split_gives_disjoint_parts_that_cover_everything():
    parts = split(uneven(), seed=1)
    rows = torch.cat(parts).tolist()
    assert sorted(rows) == list(range(203))
    assert all(part.tolist() == sorted(part.tolist()) for part in parts)


@pytest.mark.parametrize(
    "fractions", [(0.6, 0.1, 0.15, 0.15), (0.25, 0.25, 0.25, 0.25), (0.5, 0.05, 0.1, 0.2)]
)
def test_split_keeps_the_share_of_every_class_in_every_part(fractions):
    targets = uneven()
    parts = split(targets, fractions=fractions)
    for label in range(5):
        num = int((targets == label).sum())
        counts = [int((targets[part] == label).sum()) for part in parts]
        assert min(counts) >= 1
        assert sum(counts) == max(4, round(sum(fractions) * num))
        if num > 30:
            assert all(abs(c - f * num) < 1 for c, f in zip(counts, fractions, strict=True))


def test_split_follows_its_seed_and_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    first, again, other = split(uneven(), seed=1), split(uneven(), seed=1), split(uneven(), seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.train, other.train)
    assert torch.equal(before, torch.get_rng_state())


def test_split_leaves_a_part_empty_and_rows_unused_where_asked():
    targets = torch.arange(100) % 10
    parts = split(targets, fractions=(0.5, 0.0, 0.2, 0.1))
    assert [len(part) for part in parts] == [50, 0, 20, 10]
    assert parts.validation.dtype == torch.long


def test_first_rows_of_every_class_follow_their_seed_and_are_nested():
    targets = uneven()
    before = torch.get_rng_state()
    kept = [first_per_class(targets, num, seed=3).tolist() for num in (2, 7, 1000)]
    assert set(kept[0]) < set(kept[1]) < set(kept[2]) == set(range(203))
    assert all(rows == sorted(rows) for rows in kept)
    assert targets[kept[0]].bincount().tolist() == [2] * 5
    assert targets[kept[1]].bincount().tolist() == [4, 7, 7, 7, 7]  # the first class has only 4
    assert kept[1] == first_per_class(targets, 7, seed=3).tolist()
    assert kept[1] != first_per_class(targets, 7, seed=4).tolist()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("targets", "fractions", "message"),
    [
        (torch.arange(12) % 3, (0.5, 0.5, 0.5, 0.5), "sum to at most 1"),
        (torch.arange(12) % 3, (1.2, -0.2, 0, 0), "at least 0"),
        (torch.arange(12) % 3, (0, 0, 0, 0), "at most 1"),
        (torch.arange(12) % 3, (0.5, 0.5), "four fractions"),
        (
            torch.arange(9) % 3,
            (0.4, 0.2, 0.2, 0.2),
            "at least 4 rows of every class.*class 0 has 3",
        ),
        (torch.zeros(4, 2).long(), (0.4, 0.2, 0.2, 0.2), r"targets \[N\].*\(4, 2\)"),
        (torch.zeros(8), (0.4, 0.2, 0.2, 0.2), r"class numbers, got torch.float32"),
        (torch.zeros(0).long(), (0.4, 0.2, 0.2, 0.2), r"got torch.int64 \(0,\)"),
    ],
)
def test_split_says_what_is_wrong(targets, fractions, message):
    with pytest.raises(DataError, match=message):
        split(targets, fractions=fractions)
