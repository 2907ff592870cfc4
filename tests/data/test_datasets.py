"""What every data set with labels promises, each on a small copy in its published layout.

`test_map_datasets` has those whose targets are maps.
"""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from offramp.data import Images, Preprocess, Splits, create_dataset, list_datasets
from offramp.errors import DataError
from offramp.registry import datasets

from .layouts import COPIES, MAP_COPIES

pytestmark = pytest.mark.usefixtures("own_cache")
PARTS = ("train", "validation", "calibration", "test")

Make = Callable[..., Splits]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """The options that read the small copy of a data set; each is made once."""
    return functools.cache(lambda name: COPIES[name](tmp_path_factory.mktemp(name)))


@pytest.fixture(params=sorted(COPIES))
def make(request: pytest.FixtureRequest, copies: Callable[[str], dict[str, Any]]) -> Make:
    """Creates the data set from its small copy, with further options."""
    return lambda **more: create_dataset(request.param, **{**copies(request.param), **more})


def read(data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """All inputs and targets of a part."""
    return data if isinstance(data, tuple) else data.batch(torch.arange(len(data)))


def rows(data: Any) -> list[bytes]:
    """What tells the images of a part apart."""
    return [image.numpy().tobytes() for image in read(data)[0]]


def test_every_data_set_has_a_small_copy() -> None:
    assert sorted([*COPIES, *MAP_COPIES]) == list_datasets()


@pytest.mark.parametrize("name", sorted(COPIES))
def test_options_have_types_that_a_config_can_be_checked_against(name: str) -> None:
    hints = typing.get_type_hints(datasets.get(name))
    assert hints.pop("return") is Splits
    assert {"seed", "images_per_class", "validation", "calibration"} <= set(hints)
    assert datasets.get(name).__kwdefaults__["seed"] == 0


def test_data_set_has_four_disjoint_parts_with_targets_in_range(make: Make) -> None:
    splits = make()
    parts = [rows(getattr(splits, name)) for name in PARTS]
    assert min(map(len, parts)) >= splits.num_classes
    assert len({row for part in parts for row in part}) == sum(map(len, parts))
    for name in PARTS:
        inputs, targets = read(getattr(splits, name))
        assert targets.dtype == torch.long and targets.shape == (len(inputs),)
        assert int(targets.min()) == 0 and int(targets.max()) == splits.num_classes - 1
        assert inputs.dtype == torch.float32
    assert len(set(splits.class_names)) == splits.num_classes >= 3


def test_every_class_keeps_its_share_in_every_part(make: Make) -> None:
    splits = make()
    for name in PARTS:
        counts = read(getattr(splits, name))[1].bincount(minlength=splits.num_classes)
        even = int(counts.sum()) / splits.num_classes
        assert float((counts - even).abs().max()) <= max(1, 0.06 * even)


def test_the_same_seed_gives_the_same_parts_and_another_seed_others(make: Make) -> None:
    one, same, other = make(seed=1), make(seed=1), make(seed=2)
    for name in PARTS:
        assert rows(getattr(one, name)) == rows(getattr(same, name))
        assert torch.equal(read(getattr(one, name))[1], read(getattr(same, name))[1])
    assert set(rows(one.train)) != set(rows(other.train))
    assert set(rows(one.calibration)) != set(rows(other.calibration))


def test_no_part_is_augmented_and_the_global_random_state_stays(make: Make) -> None:
    before = torch.get_rng_state()
    splits = make()
    for name in PARTS:
        part = getattr(splits, name)
        assert rows(part) == rows(part)
        if isinstance(part, Images):
            inputs, targets = read(part)
            assert torch.equal(part[2][0], inputs[2]) and part[2][1] == int(targets[2])
    assert torch.equal(before, torch.get_rng_state())


def test_preprocessing_comes_back_from_json_and_from_what_it_made(make: Make) -> None:
    splits = make()
    preprocess = splits.preprocess
    assert preprocess is not None
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    inputs = read(splits.test)[0]
    assert tuple(inputs.shape[1:]) == preprocess.shape
    shown = preprocess.display(inputs)
    assert shown.dtype == torch.uint8
    torch.testing.assert_close(preprocess.normalise(shown), inputs, rtol=0, atol=0.03)
    if isinstance(splits.test, Images):
        assert torch.equal(shown, splits.test.raw(torch.arange(len(inputs))))
    assert torch.equal(splits.example(2), read(splits.train)[0][:2])


def test_images_per_class_are_so_many_and_change_no_other_part(make: Make) -> None:
    full, three, two = make(), make(images_per_class=3), make(images_per_class=2)
    assert set(read(three.train)[1].bincount().tolist()) == {3}
    assert set(rows(two.train)) < set(rows(three.train)) < set(rows(full.train))
    for name in PARTS[1:]:
        assert rows(getattr(three, name)) == rows(getattr(full, name))


def test_too_many_images_per_class_are_an_error(make: Make) -> None:
    with pytest.raises(DataError, match=r"images_per_class=100000 in the training part.* has \d+"):
        make(images_per_class=100000)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", 0.5),
        ("images_per_class", 0),
        ("validation", 1.5),
        ("calibration", 0),
    ],
)
def test_options_out_of_range_are_one_clear_error(make: Make, option: str, value: Any) -> None:
    with pytest.raises(DataError, match="wanted") as caught:
        make(**{option: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(COPIES) - {"digits"}))
def test_a_path_that_is_not_there_is_one_clear_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder") as caught:
        create_dataset(name, path=str(tmp_path / "photos"))
    assert str(tmp_path / "photos") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(COPIES) - {"digits"}))
def test_a_folder_without_images_is_one_clear_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        create_dataset(name, path=str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(COPIES) - {"digits"}))
def test_images_read_from_files_are_those_in_memory(
    name: str, copies: Callable[[str], dict[str, Any]]
) -> None:
    held, files = (create_dataset(name, **copies(name), in_memory=flag) for flag in (True, False))
    for part in PARTS:
        one, other = getattr(held, part), getattr(files, part)
        assert len(one) == len(other) and torch.equal(one.targets, other.targets)
        assert torch.equal(one[1][0], other[1][0]) and one[1][1] == other[1][1]
        assert torch.equal(one.raw([0, 2]), other.raw([0, 2]))
    assert torch.equal(held.example(3), files.example(3))
    assert not hasattr(files.train, "batch")  # so that a DataLoader with workers reads them
