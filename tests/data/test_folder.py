"""Folders of images that no one prepared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from offramp.data import create_dataset
from offramp.data.folder import scan
from offramp.errors import DataError

from .layouts import class_folders, noise

CLASSES = ("zebra", "ant", "Bee")


def folder(path: Path, **options):
    return create_dataset("imagefolder", path=path, **{"image_size": 8, **options})


def test_a_folder_without_splits_is_split_in_four(tmp_path: Path) -> None:
    class_folders(tmp_path, 20, classes=CLASSES)
    splits = folder(tmp_path)
    assert splits.class_names == ("Bee", "ant", "zebra")
    sizes = [len(p) for p in (splits.train, splits.validation, splits.calibration, splits.test)]
    assert sizes == [39, 6, 6, 9]
    wanted = {
        splits.preprocess.pixels(noise(f"{tmp_path}ant{i}")).numpy().tobytes() for i in range(20)
    }
    ants = splits.test.raw(splits.test.targets == 1)
    assert len(ants) == 3 and {image.numpy().tobytes() for image in ants} < wanted


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folders_of_splits_are_used(tmp_path: Path, name: str) -> None:
    class_folders(tmp_path / "train", 20, classes=CLASSES)
    class_folders(tmp_path / name, 3, classes=CLASSES)
    lone = folder(tmp_path)
    assert len(lone.test) == 9 and len(lone.validation) == 6 and len(lone.train) == 48
    class_folders(tmp_path / "test", 2, classes=CLASSES)
    both = folder(tmp_path)
    assert len(both.test) == 6 and len(both.validation) == 9 and len(both.train) == 54
    assert both.class_names == ("Bee", "ant", "zebra")


def test_a_test_folder_without_classes_has_no_labels(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 20, classes=CLASSES)
    (tmp_path / "test").mkdir()
    noise("x").save(tmp_path / "test" / "x.png")
    assert len(folder(tmp_path).test) == 9


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    class_folders(tmp_path, 8, classes=("bus", "train"))
    assert folder(tmp_path).class_names == ("bus", "train")


def test_files_of_other_kinds_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    class_folders(tmp_path, 8, classes=("bus", "tram"))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".git").mkdir()
    (tmp_path / "bus" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "bus" / "._bus_0.png").write_bytes(b"what a Mac leaves behind")
    (tmp_path / "bus" / "deeper").mkdir()
    noise("deep").save(tmp_path / "bus" / "deeper" / "photo.JPG", "JPEG")
    found = scan(tmp_path)
    assert found.labelled.targets.tolist() == [0] * 9 + [1] * 8
    assert found.labelled.images.name(8).endswith("deeper/photo.JPG")
    splits = folder(tmp_path)
    assert sum(map(len, (splits.train, splits.validation, splits.calibration, splits.test))) == 17


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    class_folders(tmp_path, 8, classes=("bus", "tram"))
    hidden = tmp_path / "bus" / ".ipynb_checkpoints"
    hidden.mkdir()
    (hidden / "bus_0-checkpoint.png").write_bytes(b"an editor's copy")
    assert len(scan(tmp_path).labelled.images) == 16


def test_links_in_a_circle_give_every_image_once(tmp_path: Path) -> None:
    class_folders(tmp_path, 8, classes=("bus", "tram"))
    (tmp_path / "bus" / "self").symlink_to(tmp_path / "bus")
    (tmp_path / "bus" / "up").symlink_to(tmp_path)  # where the other class is
    (tmp_path / "bus" / "more").mkdir()
    noise("more").save(tmp_path / "bus" / "more" / "1.png")
    (tmp_path / "bus" / "twice").symlink_to(tmp_path / "bus" / "more")
    assert scan(tmp_path).labelled.targets.tolist() == [0] * 9 + [1] * 8


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "validation"), ("val", "test")])
def test_splits_by_other_names_are_not_taken_for_classes(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    for name in names:
        class_folders(tmp_path / name, 8, classes=("bus", "tram"))
    with pytest.raises(DataError, match=f"wanted class folders in {tmp_path}, or train, and"):
        folder(tmp_path)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    class_folders(tmp_path / "elsewhere", 8, classes=("bus", "tram"))
    (tmp_path / "mine").mkdir()
    for name in ("bus", "tram"):
        (tmp_path / "mine" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert folder(tmp_path / "mine").class_names == ("bus", "tram")


def test_images_of_any_shape_become_one_size(tmp_path: Path) -> None:
    for name in ("bus", "tram"):
        for i in range(6):
            (tmp_path / name).mkdir(exist_ok=True)
            noise(f"{name}{i}", (9 + 3 * i, 30 - 2 * i)).save(tmp_path / name / f"{i}.png")
    splits = folder(tmp_path, mode="L")
    assert splits.train.pixels.shape[1:] == (1, 8, 8)
    assert splits.preprocess.resize == 9


def test_a_damaged_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    class_folders(tmp_path, 8, classes=("bus", "tram"))
    (tmp_path / "tram" / "tram_3.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"tram_3\.png: no known image format"):
        folder(tmp_path)
    files = folder(tmp_path, in_memory=False)
    with pytest.raises(DataError, match=r"tram_3\.png"):
        for part in (files.train, files.validation, files.calibration, files.test):
            part.raw(torch.arange(len(part)))


def test_what_is_no_folder_of_classes_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"class folders in {tmp_path}, got \\[\\], and no images$"):
        folder(tmp_path)
    noise("loose").save(tmp_path / "loose.png")
    with pytest.raises(DataError, match=r"got \[\], and 1 images in no class folder"):
        folder(tmp_path)
    class_folders(tmp_path, 8, classes=("bus",))
    with pytest.raises(DataError, match=r"two class folders in .*, got \['bus'\]"):
        folder(tmp_path)
    (tmp_path / "tram").mkdir()
    with pytest.raises(DataError, match=r"images in the class folder .*tram, got none"):
        folder(tmp_path)
    class_folders(tmp_path, 2, classes=("tram",))
    with pytest.raises(DataError, match="class 'tram' has 2"):
        folder(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        folder(tmp_path / "bus" / "bus_0.png")


def test_a_test_class_that_train_has_not_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 8, classes=("bus", "tram"))
    class_folders(tmp_path / "test", 2, classes=("bus", "tramm"))
    with pytest.raises(DataError, match=r"training images have not: \['tramm'\]"):
        folder(tmp_path)
