"""Folders of images and masks: what is found, and what is said where something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.config.values import misfit, options_of
from offramp.data import Splits, create_dataset
from offramp.data.mask_folder import mask_folder
from offramp.errors import DataError

from .layouts import mask_of, noise, pair_folders

SIZE = (12, 16)
PARTS = ("train", "validation", "calibration", "test")


def made(path: Path, **options: Any) -> Splits:
    return create_dataset("mask_folder", **{"path": path, "image_size": SIZE, **options})


def pairs_of(splits: Splits) -> dict[bytes, torch.Tensor]:
    """Targets of all parts by the bytes of their images."""
    found = {}
    for name in PARTS:
        part = getattr(splits, name)
        for row in range(len(part)):
            found[part.raw([row])[0].numpy().tobytes()] = part[row][1]
    return found


def pixels_of(splits: Splits, name: str) -> bytes:
    return splits.preprocess.pixels(noise(name, SIZE)).contiguous().numpy().tobytes()


def values_of(name: str, values: tuple[int, ...] = (0, 1, 2, 255)) -> torch.Tensor:
    return torch.from_numpy(np.array(mask_of(name, SIZE, values))).long()


def test_a_folder_without_splits_is_split_in_four(tmp_path: Path) -> None:
    splits = made(pair_folders(tmp_path, 30), num_classes=3)
    assert [len(getattr(splits, name)) for name in PARTS] == [20, 3, 3, 4]
    found = pairs_of(splits)
    assert len(found) == 30 and splits.class_names == ("0", "1", "2")
    for i in range(30):
        values = values_of(f"{tmp_path}{i}")
        wanted = values.masked_fill(values == 255, -100)
        assert torch.equal(found[pixels_of(splits, f"{tmp_path}{i}")], wanted)


@pytest.mark.parametrize("validation", ["val", "valid", "dev", None])
def test_splits_of_its_own_are_used(tmp_path: Path, validation: str | None) -> None:
    pair_folders(tmp_path / "train", 20)
    pair_folders(tmp_path / "test", 4)
    if validation is not None:
        pair_folders(tmp_path / validation, 3)
    splits = made(tmp_path, class_names=["road", "car", "tree"])
    assert splits.class_names == ("road", "car", "tree")
    sizes = [len(getattr(splits, name)) for name in PARTS]
    assert sizes == ([18, 3, 2, 4] if validation else [16, 2, 2, 4])
    assert pairs_of(splits).keys() >= {
        pixels_of(splits, f"{tmp_path / 'test'}{i}") for i in range(4)
    }


def test_without_masks_a_test_folder_is_no_test_part(tmp_path: Path) -> None:
    pair_folders(tmp_path / "train", 20)
    pair_folders(tmp_path / "val", 4)
    pair_folders(tmp_path / "test", 2, names=("images", "hidden"))
    splits = made(tmp_path, num_classes=3)
    assert [len(getattr(splits, name)) for name in PARTS] == [16, 2, 2, 4]


def test_files_lie_at_any_depth_and_extensions_may_differ(tmp_path: Path) -> None:
    for place in ("a/one", "b/one"):
        for inside in ("images", "masks"):
            (tmp_path / inside / place).parent.mkdir(parents=True, exist_ok=True)
        noise(place, SIZE).save(tmp_path / "images" / f"{place}.bmp")
        mask_of(place, SIZE).save(tmp_path / "masks" / f"{place}.tif")
    pair_folders(tmp_path, 10)
    found = pairs_of(splits := made(tmp_path, num_classes=3))
    values = values_of("b/one")
    assert torch.equal(found[pixels_of(splits, "b/one")], values.masked_fill(values == 255, -100))


def test_values_are_mapped_to_classes(tmp_path: Path) -> None:
    path = pair_folders(tmp_path, 12, values=(0, 7, 9, 255))
    for mapping in ({0: None, 7: 1, 9: 0, 255: 1}, {"0": None, "7": 1, "9": 0, "255": 1}):
        splits = made(path, num_classes=2, mapping=mapping)
        values = values_of(f"{tmp_path}5", (0, 7, 9, 255))
        wanted = torch.full(SIZE, -100)
        for value, number in ((7, 1), (9, 0), (255, 1)):
            wanted[values == value] = number
        assert torch.equal(pairs_of(splits)[pixels_of(splits, f"{tmp_path}5")], wanted)


def test_another_value_is_void_or_none_is(tmp_path: Path) -> None:
    path = pair_folders(tmp_path, 12, values=(0, 1, 2, 3))
    values = values_of(f"{tmp_path}5", (0, 1, 2, 3))
    splits = made(path, num_classes=3, void=3)
    found = pairs_of(splits)[pixels_of(splits, f"{tmp_path}5")]
    assert torch.equal(found, values.masked_fill(values == 3, -100))
    splits = made(path, num_classes=4, void=None)
    assert torch.equal(pairs_of(splits)[pixels_of(splits, f"{tmp_path}5")], values)


def coloured(folder: Path, table: dict[int, tuple[int, int, int]]) -> Path:
    """Replace the masks by pictures."""
    for file in (folder / "masks").iterdir():
        values = np.array(Image.open(file))
        pixels = np.zeros((*values.shape, 3), np.uint8)
        for value, colour in table.items():
            pixels[values == value] = colour
        Image.fromarray(pixels).save(file)
    return folder


def test_colours_are_read_by_a_table_and_refused_without(tmp_path: Path) -> None:
    table = {0: (128, 64, 128), 1: (0, 0, 142), 2: (0, 0, 70), 255: (0, 0, 0)}
    path = coloured(pair_folders(tmp_path, 12), table)
    colours = {"road": [128, 64, 128], "car": [[0, 0, 142], [0, 0, 70]], "void": [0, 0, 0]}
    splits = made(path, colours=colours)
    assert splits.class_names == ("road", "car")
    values = values_of(f"{tmp_path}5")
    wanted = torch.where(values == 255, -100, values.clamp_max(1))
    assert torch.equal(pairs_of(splits)[pixels_of(splits, f"{tmp_path}5")], wanted)
    assert made(path, colours=colours, class_names=["car", "road"]).class_names == ("car", "road")
    with pytest.raises(DataError, match=r"masks.\d+\.png: wanted a mask of class numbers.*colours"):
        made(path, num_classes=3)
    del colours["void"]
    with pytest.raises(DataError, match=r"masks.\d+\.png: .*\(128, 64, 128\), got \(0, 0, 0\)"):
        made(path, colours=colours)


def test_gray_images_have_one_channel(tmp_path: Path) -> None:
    splits = made(pair_folders(tmp_path, 12), num_classes=3, mode="L")
    assert splits.train.pixels.shape[1:] == (1, *SIZE)
    assert splits.preprocess.mean == pytest.approx((0.449,))


def test_options_of_a_config_are_checked_by_their_types() -> None:
    options = options_of(mask_folder) or {}
    colours = {"road": [1, 2, 3], "car": [[0, 0, 142], [0, 0, 70]]}
    for name, value in (("mapping", {"7": 0, "255": None}), ("colours", colours), ("void", None)):
        assert misfit(value, options[name].type) is None
    for name, value in (("mapping", {"a": 0}), ("colours", {"road": "red"}), ("void", "none")):
        assert misfit(value, options[name].type) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "num_classes=, class_names= or colours=, got none"),
        ({"num_classes": 1}, "2 to 254 classes of different names, got 1"),
        ({"num_classes": 255}, "2 to 254 classes of different names, got 255"),
        ({"num_classes": "3"}, "2 to 254 classes of different names, got '3'"),
        ({"class_names": "abc"}, "class_names as a list of names, got 'abc'"),
        ({"class_names": ["a", "a", "b"]}, r"different names, got \['a', 'a', 'b'\]"),
        ({"class_names": ["a", "b"], "num_classes": 3}, "num_classes=3 names of classes, got 2"),
        (
            {"num_classes": 3, "void": 2},
            "no class number, got 2, the number of '2': say by mapping",
        ),
        ({"num_classes": 3, "void": -1}, r"void as a value in 0\.\.65535 or None, got -1"),
        ({"num_classes": 3, "mapping": {0: 3}}, r"classes in 0\.\.2 or None, got 0: 3"),
        ({"num_classes": 3, "mapping": {"x": 0}}, "got 'x': 0"),
        ({"num_classes": 3, "mapping": [0]}, r"mapping as class numbers by value, got \[0\]"),
        ({"colours": ["red"]}, r"colours as a mapping from names to colours, got \['red'\]"),
        ({"colours": {"a": [0, 0, 0], "b": [1, 2]}}, r"got \[1, 2\] for 'b'"),
        ({"colours": {"a": [0, 0, 0], "b": [0, 0, 0]}}, r"each once, got \[0, 0, 0\] for 'b'"),
        ({"colours": {"a": [0, 0, 0], "b": [0, 0, 256]}}, r"in 0\.\.255"),
        ({"colours": {"a": [0, 0, 0], "b": []}}, r"got \[\] for 'b'"),
        (
            {"colours": {"a": [0, 0, 0], "b": [1, 0, 0]}, "class_names": ["a", "c"]},
            r"colours for the classes \['a', 'c'\], got them for \['a', 'b'\]",
        ),
        ({"colours": {"a": [0, 0, 0], "b": [1, 0, 0]}, "mapping": {0: 0}}, "got both"),
        ({"num_classes": 3, "path": "some/where"}, "path as a folder, got 'some/where'"),
    ],
)
def test_wrong_options_are_one_clear_error(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        made(**{"path": pair_folders(tmp_path, 5), **options})
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_files_is_said(tmp_path: Path) -> None:
    path = pair_folders(tmp_path / "alone", 9)
    (path / "masks" / "4.png").unlink()
    with pytest.raises(DataError, match=r"a mask for every image, got none for .*images.4\.bmp$"):
        made(path, num_classes=3)
    (path / "images" / "4.bmp").unlink()
    (path / "images" / "5.bmp").unlink()
    with pytest.raises(DataError, match=r"an? image for every mask, got none for .*masks.5\.png$"):
        made(path, num_classes=3)
    path = pair_folders(tmp_path / "twice", 9)
    noise("other", SIZE).save(path / "images" / "4.png")
    with pytest.raises(DataError, match=r"one file of a name, got .*4\.bmp and .*4\.png"):
        made(path, num_classes=3)
    path = pair_folders(tmp_path / "size", 9)
    noise("other", (12, 20)).save(path / "images" / "4.bmp")
    with pytest.raises(DataError, match=r"masks.4\.png: .*4\.bmp, 20 x 12 pixels, got 16 x 12"):
        made(path, num_classes=3)
    path = pair_folders(tmp_path / "value", 9)
    with pytest.raises(DataError, match=r"masks.\d\.png: .*the values 0\.\.1, 255, got 2$"):
        made(path, num_classes=2)
    path = tmp_path / "other"
    (path / "photos").mkdir(parents=True)
    with pytest.raises(DataError, match=r"folders images and masks in .*folders \['photos'\]"):
        made(path, num_classes=2)
    with pytest.raises(DataError, match=r"wanted images in .*images, got none"):
        made(pair_folders(tmp_path / "empty", 0), num_classes=2)
    with pytest.raises(DataError, match=r"4 images with masks in train, .*, got 3"):
        made(pair_folders(tmp_path / "few", 3), num_classes=3)


def test_black_and_white_masks_do_not_lose_their_white(tmp_path: Path) -> None:
    path = pair_folders(tmp_path, 12, values=(0, 255))
    with pytest.raises(DataError, match=r"does not count: if .* mapping=\{0: 0, 255: 1\}"):
        made(path, num_classes=2)
    splits = made(path, class_names=["cell", "background"], mapping={0: 1, 255: 0})
    values = values_of(f"{tmp_path}5", (0, 255))
    wanted = (values == 0).long()
    assert torch.equal(pairs_of(splits)[pixels_of(splits, f"{tmp_path}5")], wanted)
