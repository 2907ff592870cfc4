"""The digits come in four disjoint parts, found by name."""

from __future__ import annotations

import sys

import pytest
import torch
from sklearn.datasets import load_digits

from offramp.data import create_dataset, list_datasets
from offramp.errors import DataError, MissingExtraError, OptionError, UnknownNameError


def rows_of(part) -> list[tuple[float, ...]]:
    inputs, targets = part
    return [
        (*image.flatten().mul(16).tolist(), int(t))
        for image, t in zip(inputs, targets, strict=True)
    ]


def test_digits_are_scikit_learns_in_four_parts():
    splits = create_dataset("digits", seed=3)
    parts = [splits.train, splits.validation, splits.calibration, splits.test]
    pixels, labels = load_digits(return_X_y=True)
    wanted = sorted((*image, int(t)) for image, t in zip(pixels.tolist(), labels, strict=True))
    assert sorted(row for part in parts for row in rows_of(part)) == wanted
    for inputs, targets in parts:
        assert inputs.shape == (len(targets), 1, 8, 8)
        assert inputs.dtype == torch.float32
        assert float(inputs.min()) >= 0 and float(inputs.max()) == 1.0
        shares = targets.bincount(minlength=10) / len(targets)
        assert float(shares.min()) > 0.08
        assert float(shares.max()) < 0.12
    assert [round(len(targets) / 1797, 2) for _, targets in parts] == [0.5, 0.1, 0.2, 0.2]


def test_digits_name_their_classes():
    splits = create_dataset("digits")
    assert splits.num_classes == 10
    assert splits.class_names == tuple("0123456789")


def test_digits_follow_their_seed():
    one, same, other = (create_dataset("digits", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.test[0], same.test[0])
    assert not torch.equal(one.test[0], other.test[0])


def test_digits_take_shares_of_their_own():
    splits = create_dataset("digits", validation=0.3, calibration=0.1, test=0.1)
    assert round(len(splits.validation[1]) / 1797, 2) == 0.3
    assert round(len(splits.train[1]) / 1797, 2) == 0.5
    with pytest.raises(DataError, match="something to learn from"):
        create_dataset("digits", validation=0.5, calibration=0.3, test=0.2)


def test_datasets_are_listed_by_pattern():
    assert "digits" in list_datasets()
    assert list_datasets("dig*") == ["digits"]


def test_a_wrong_name_or_option_says_what_is_valid():
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        create_dataset("digit")
    with pytest.raises(OptionError, match=r"it takes.*seed"):
        create_dataset("digits", fold=3)


def test_digits_name_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"offramp\[data\]"):
        create_dataset("digits")
