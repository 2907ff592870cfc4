"""Data sets of the hub and local folders with the same columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from offramp.data import create_dataset
from offramp.data.hub import Column, cropped
from offramp.errors import DataError

from .layouts import class_folders, encoded, noise, parquet

pytestmark = pytest.mark.usefixtures("own_cache")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL = {"image_size": 8, "calibration": 0.2, "validation": 0.2}


def write(folder: Path, columns: dict[str, list[Any]], features: Any = None) -> Path:
    """One split of these columns; images as files' contents without a type of their own."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(columns, features=features)
    table.to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


def cells(num: int) -> list[dict[str, Any]]:
    return [{"bytes": encoded(noise(str(i))), "path": f"{i}.png"} for i in range(num)]


def pixels_of(image: Image.Image) -> bytes:
    return cropped(8, *IMAGENET).pixels(image).contiguous().numpy().tobytes()


def test_columns_are_found_by_their_type(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"train": 12, "test": 2}, columns=("photo", "kind"))
    splits = create_dataset("huggingface", path=path, **SMALL)
    assert splits.class_names == ("ant", "bee", "cat")
    wanted = [cropped(8, *IMAGENET)(noise(f"test{i}")) for i in range(6)]
    assert torch.equal(splits.test.batch(torch.arange(6))[0], torch.stack(wanted))
    assert splits.test.targets.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_split_of_its_own_is_used_for_validation(tmp_path: Path) -> None:
    for name in ("valid", "dev"):
        path = parquet(tmp_path / name, {"train": 12, name: 3, "test": 2})
        splits = create_dataset("huggingface", path=path, image_size=8)
        assert torch.equal(splits.validation[4][0], splits.preprocess(noise(f"{name}4")))
        assert len(splits.validation) == 9 and len(splits.calibration) == 3
        assert len(splits.train) == 33 and len(splits.test) == 6


def test_hidden_labels_count_as_absent(tmp_path: Path) -> None:
    sizes = {"train": 12, "validation": 3, "test": 2}
    path = parquet(tmp_path, sizes, hidden=["test"])
    splits = create_dataset("huggingface", path=path, **SMALL)
    assert torch.equal(splits.test[4][0], splits.preprocess(noise("validation4")))


def test_labels_may_be_words_or_plain_numbers(tmp_path: Path) -> None:
    words = ["owl", "emu", "owl", "fox"] * 10
    path = write(tmp_path / "words", {"image": cells(40), "bird": words})
    options = {"image": "image", "label": "bird", "image_size": 8}
    splits = create_dataset("huggingface", path=path, **options)
    assert splits.class_names == ("emu", "fox", "owl")
    by_pixels = {pixels_of(noise(str(i))): word for i, word in enumerate(words)}
    for part in (splits.train, splits.test):
        for image, target in zip(part.pixels, part.targets.tolist(), strict=True):
            assert splits.class_names[target] == by_pixels[image.numpy().tobytes()]
    path = write(tmp_path / "numbers", {"image": cells(40), "bird": [0, 2, 1, 0] * 10})
    splits = create_dataset("huggingface", path=path, **options)
    assert splits.class_names == ("0", "1", "2")


def test_a_folder_of_class_folders_is_read_too(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 12, classes=("emu", "owl"))
    class_folders(tmp_path / "test", 2, classes=("emu", "owl"))
    splits = create_dataset("huggingface", path=tmp_path, **SMALL)
    assert splits.class_names == ("emu", "owl") and len(splits.test) == 4


def test_gray_has_one_channel(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"train": 12, "test": 2})
    splits = create_dataset("huggingface", path=path, mode="L", **SMALL)
    assert splits.test.pixels.shape == (6, 1, 8, 8)
    assert splits.preprocess.mean == pytest.approx((0.449,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "photo"}, r"the column 'photo', got the columns \['image', 'label'\]"),
        ({"label": "kind"}, "the column 'kind'"),
        ({"image": "label"}, "images in the column 'label', got ClassLabel"),
        ({"label": "image"}, "whole numbers from 0 or words in the column 'image'"),
        ({"image_size": 0}, "image_size.*got 0"),
        ({"image_size": 7.5}, "image_size.*got 7.5"),
        ({"mean": [0.5]}, "mean as 3 numbers"),
        ({"mean": 0.5}, "mean as 3 numbers for RGB, got 0.5"),
        ({"in_memory": 1}, "in_memory as True, False or None, got 1"),
        ({"mode": "BGR"}, "'RGB' or 'L'"),
        ({"path": 3}, "path as text, got 3"),
        ({"path": "photos"}, "'photos': no such folder"),
        ({"path": "../no/where"}, "no such folder"),
    ],
)
def test_wrong_options_are_one_clear_error(tmp_path: Path, change: dict, message: str) -> None:
    path = parquet(tmp_path, {"train": 12, "test": 2})
    with pytest.raises(DataError, match=message) as caught:
        create_dataset("huggingface", **{"path": path, **SMALL, **change})
    assert "\n" not in str(caught.value)


def test_columns_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"left": datasets.Image(), "right": datasets.Image()})
    path = write(tmp_path / "two", {"left": cells(2), "right": cells(2)}, features)
    with pytest.raises(DataError, match=r"one column of labels, got \[\].*by label="):
        create_dataset("huggingface", path=path)
    with pytest.raises(DataError, match=r"one column of images, got \['left', 'right'\]"):
        create_dataset("huggingface", path=path, label="left")


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0.5, 1.0] * 8, r"got \['float'\]"), ([0, None] * 8, "NoneType"), ([-3, 1] * 8, "'int'")],
)
def test_labels_that_are_none_say_so(tmp_path: Path, labels: list, message: str) -> None:
    path = write(tmp_path, {"image": cells(16), "label": labels})
    with pytest.raises(DataError, match=f"whole numbers from 0 or words.*{message}"):
        create_dataset("huggingface", path=path, image="image", label="label")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "an image in row 3 of split 'train', got none"),
        ({"bytes": b"GIF89a", "path": "owl.gif"}, r"row 3 of split 'train' \(owl.gif\)"),
    ],
)
def test_a_damaged_image_is_named(tmp_path: Path, cell: Any, message: str) -> None:
    import datasets

    images = cells(16)
    images[3] = cell
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    path = write(tmp_path, {"image": images, "label": [0, 1] * 8}, features)
    with pytest.raises(DataError, match=message):
        create_dataset("huggingface", path=path, label="label", image_size=8)


def test_an_image_that_is_a_path_is_read_from_there(tmp_path: Path) -> None:
    import datasets

    noise("owl").save(tmp_path / "owl.png")
    cells = [{"bytes": None, "path": str(tmp_path / name)} for name in ("owl.png", "gone.png")]
    features = datasets.Features({"image": datasets.Image()})
    column = Column(datasets.Dataset.from_dict({"image": cells}, features), "image", "train")
    assert column.read([0]) == [(tmp_path / "owl.png").read_bytes()] and len(column) == 2
    with pytest.raises(DataError, match=r"cannot read the image .*gone\.png: No such file"):
        column.read([0, 1])


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "imagenet", "imagenette"])
def test_a_hub_that_gives_nothing_is_one_line_that_says_what_to_give(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked = []

    def fail(*args: Any) -> None:
        asked.append(args)
        raise ConnectionError("Couldn't reach the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        DataError, match=r"does not give it \(ConnectionError.*path= a local folder"
    ) as caught:
        create_dataset(name)
    assert "\n" not in str(caught.value) and "columns" in str(caught.value)
    assert "/" in asked[0][0] and asked[0][0] in str(caught.value)


def test_a_broken_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="cannot read the folder") as caught:
        create_dataset("huggingface", path=tmp_path)
    assert "\n" not in str(caught.value)
