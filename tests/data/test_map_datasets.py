"""What every data set of maps promises, each on a small copy in its published layout."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from offramp.config.values import misfit
from offramp.data import MapFiles, Maps, Preprocess, Splits, create_dataset
from offramp.errors import DataError
from offramp.registry import datasets

from .layouts import MAP_COPIES

pytestmark = pytest.mark.usefixtures("own_cache")
PARTS = ("train", "validation", "calibration", "test")

Make = Callable[..., Splits]
Copies = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Copies:
    """The options that read the small copy of a data set; each is made once."""
    return functools.cache(lambda name: MAP_COPIES[name](tmp_path_factory.mktemp(name)))


@pytest.fixture(params=sorted(MAP_COPIES))
def make(request: pytest.FixtureRequest, copies: Copies) -> Make:
    """Creates the data set from its small copy, with further options."""
    return lambda **more: create_dataset(request.param, **{**copies(request.param), **more})


def rows(part: Any) -> list[bytes]:
    """What tells the images of a part apart."""
    return [image.numpy().tobytes() for image in part.raw(range(len(part)))]


@pytest.mark.parametrize("name", sorted(MAP_COPIES))
def test_options_have_types_that_a_config_can_be_checked_against(name: str, copies: Copies) -> None:
    hints = typing.get_type_hints(datasets.get(name))
    assert hints.pop("return") is Splits
    assert {"seed", "images", "validation", "calibration", "in_memory"} <= set(hints)
    assert datasets.get(name).__kwdefaults__["seed"] == 0
    for option, value in copies(name).items():
        assert option == "path" or misfit(value, hints[option]) is None


def test_targets_are_maps_with_minus_100_where_nothing_counts(make: Make) -> None:
    splits = make()
    for name in PARTS:
        part = getattr(splits, name)
        inputs, targets = part.batch(torch.arange(len(part)))
        assert inputs.dtype == torch.float32 and targets.dtype == torch.long
        assert targets.shape == (len(part), *splits.preprocess.size)
        assert tuple(inputs.shape[1:]) == splits.preprocess.shape
        found = set(targets.unique().tolist())
        assert -100 in found and found - {-100} <= set(range(splits.num_classes))
        assert len(found) >= 4
    assert len(set(splits.class_names)) == splits.num_classes


def test_parts_are_disjoint_and_drawn_by_seed(make: Make) -> None:
    one, same, other = make(seed=1), make(seed=1), make(seed=2)
    parts = [rows(getattr(one, name)) for name in PARTS]
    assert min(map(len, parts)) >= 2
    assert len({row for part in parts for row in part}) == sum(map(len, parts))
    for name in PARTS:
        first, again = getattr(one, name), getattr(same, name)
        assert rows(first) == rows(again) and torch.equal(first.masks, again.masks)
    assert set(rows(one.train)) != set(rows(other.train))
    assert set(rows(one.calibration)) != set(rows(other.calibration))


def test_nothing_is_augmented_and_the_global_random_state_stays(make: Make) -> None:
    before = torch.get_rng_state()
    splits = make()
    for name in PARTS:
        part = getattr(splits, name)
        assert rows(part) == rows(part) and isinstance(part, Maps)
        for one, other in zip(part[1], part.batch(torch.tensor([1])), strict=True):
            assert torch.equal(one, other[0])
    assert torch.equal(before, torch.get_rng_state())
    assert Preprocess.from_dict(splits.preprocess.to_dict()) == splits.preprocess
    assert torch.equal(splits.example(2), splits.train.batch(torch.arange(2))[0])


def test_fewer_images_are_among_the_more_and_change_no_other_part(make: Make) -> None:
    full, five, two = make(), make(images=5), make(images=2)
    assert (len(five.train), len(two.train)) == (5, 2)
    assert set(rows(two.train)) < set(rows(five.train)) < set(rows(full.train))
    for name in PARTS[1:]:
        assert rows(getattr(five, name)) == rows(getattr(full, name))


def test_files_are_read_as_what_is_in_memory(make: Make) -> None:
    held, files = make(in_memory=True), make(in_memory=False)
    for name in PARTS:
        one, other = getattr(held, name), getattr(files, name)
        assert isinstance(other, MapFiles) and len(one) == len(other)
        assert torch.equal(one.masks, other.masks) and rows(one) == rows(other)
        assert torch.equal(one[1][1], other[1][1])
    assert torch.equal(held.example(3), files.example(3))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("seed", 0.5, "seed as a whole number, got 0.5"),
        ("images", 0, "images as a whole number from 1, got 0"),
        ("images", 1000, r"images=1000 in the training part, got \d+"),
        ("validation", 1.5, r"validation as a share of train in \(0, 1\), got 1.5"),
        ("calibration", 0, "calibration as a share"),
        ("calibration", 0.9999, "something to learn from|images with masks"),
        ("image_size", 8, r"image_size as \(height, width\) in pixels, got 8"),
        ("image_size", "8x8", r"image_size as \(height, width\)"),
        ("image_size", [8], r"size \(height, width\), each in"),
        ("image_size", [8, 0], r"size \(height, width\), each in"),
        ("mean", [0.5], "mean as 3 numbers"),
        ("mean", 0.5, "mean as 3 numbers for RGB, got 0.5"),
        ("std", None, "std as 3 positive numbers for RGB, got None"),
        ("in_memory", "no", "in_memory as True, False or None, got 'no'"),
        ("path", 3, "path as text, got 3"),
    ],
)
def test_options_out_of_range_are_one_clear_error(
    make: Make, option: str, value: Any, message: str
) -> None:
    more = {"validation": 0.1} if (option, value) == ("calibration", 0.9999) else {}
    with pytest.raises(DataError, match=message) as caught:
        make(**{option: value, **more})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(MAP_COPIES))
def test_a_path_without_data_is_one_clear_error(name: str, copies: Copies, tmp_path: Path) -> None:
    for path, message in ((tmp_path / "gone", "no such folder"), (tmp_path, str(tmp_path))):
        with pytest.raises(DataError, match=message) as caught:
            create_dataset(name, **{**copies(name), "path": str(path)})
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
