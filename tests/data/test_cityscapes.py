"""Cityscapes: the table of its labels, its original folders, and the hub's columns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from offramp.data import create_dataset
from offramp.data.cityscapes import CLASSES, _legend
from offramp.errors import DataError

from .layouts import LABEL_IDS, cityscapes_folders, mask_of, noise, pair_parquet

pytestmark = pytest.mark.usefixtures("own_cache")
SIZE = (12, 16)
PARTS = ("train", "validation", "calibration", "test")


def published() -> dict[int, int]:
    """Train id by label id, as torchvision has it from the authors; 255 and -1 do not count."""
    from torchvision.datasets import Cityscapes

    return {label.id: label.train_id for label in Cityscapes.classes}


def test_label_ids_become_the_published_train_ids() -> None:
    table = published()
    assert sorted(table) == list(range(-1, 34))
    ids = np.array([[*range(34), 255]], dtype=np.uint8)  # -1 in one byte is 255
    found = np.asarray(_legend("label_ids").read(Image.fromarray(ids)))[0].tolist()
    wanted = [table[number] if table[number] >= 0 else 255 for number in [*range(34), -1]]
    assert found == wanted and sorted(set(found)) == [*range(19), 255]


def test_names_are_the_published_ones() -> None:
    from torchvision.datasets import Cityscapes

    by_train_id = {label.train_id: label.name for label in Cityscapes.classes}
    assert [name for name, _ in CLASSES] == [by_train_id[number] for number in range(19)]


def targets_of(frame: str, values: Any) -> torch.Tensor:
    """What the mask of a frame becomes, by the published table."""
    becomes = torch.tensor([published()[value] for value in range(34)])
    ids = torch.from_numpy(np.array(mask_of(frame, SIZE, values))).long()
    return becomes[ids].masked_fill(becomes[ids] == 255, -100)


def test_the_original_folders_are_read(tmp_path: Path) -> None:
    path = cityscapes_folders(tmp_path, 10)
    splits = create_dataset("cityscapes", path=path, image_size=SIZE, calibration=0.2)
    assert [len(getattr(splits, name)) for name in PARTS] == [14, 2, 4, 10]
    for row in (0, 9):  # validation of the official splits is the test part
        inputs, target = splits.test[row]
        frame = f"lindau_{row:06}_000019"
        assert torch.equal(inputs, splits.preprocess(noise(frame, SIZE)))
        assert torch.equal(target, targets_of(frame, LABEL_IDS))
    by_pixels = {}
    for city in ("aachen", "ulm"):
        for i in range(10):
            frame = f"{city}_{i:06}_000019"
            pixels = splits.preprocess.pixels(noise(frame, SIZE)).contiguous().numpy().tobytes()
            by_pixels[pixels] = frame
    seen = []
    for name in PARTS[:3]:
        part = getattr(splits, name)
        for row in range(len(part)):
            seen.append(by_pixels[part.raw([row])[0].numpy().tobytes()])
            assert torch.equal(part[row][1], targets_of(seen[-1], LABEL_IDS))
    assert sorted(seen) == sorted(by_pixels.values())


def test_the_columns_of_the_hub_are_read_and_its_test_split_is_not(tmp_path: Path) -> None:
    sizes = {"train": 20, "validation": 5, "test": 3}
    for mode in ("L", "RGB"):
        path = pair_parquet(tmp_path / mode, sizes, values=LABEL_IDS, mode=mode)
        splits = create_dataset("cityscapes", path=path, image_size=SIZE)
        assert [len(getattr(splits, name)) for name in PARTS] == [16, 2, 2, 5]
        inputs, target = splits.test[4]
        assert torch.equal(inputs, splits.preprocess(noise("validation4", SIZE)))
        assert torch.equal(target, targets_of("validation4", LABEL_IDS))
        assert splits.class_names[13] == "car"


def test_without_a_path_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def fail(*args: Any) -> None:
        asked.append(args[0])
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="path= a local folder with leftImg8bit and gtFine"):
        create_dataset("cityscapes")
    assert asked == ["Chris1/cityscapes"]


def test_train_ids_are_read_where_that_is_said(tmp_path: Path) -> None:
    folder = cityscapes_folders(tmp_path / "folders", 6, labels="labelTrainIds")
    table = pair_parquet(
        tmp_path / "table", {"train": 12, "validation": 6}, values=(0, 1, 2, 18, 255)
    )
    for path, frame in ((folder, "lindau_000003_000019"), (table, "validation3")):
        options = {"path": path, "image_size": SIZE}
        target = create_dataset("cityscapes", **options, labels="train_ids").test[3][1]
        ids = torch.from_numpy(np.array(mask_of(frame, SIZE, (0, 1, 2, 18, 255)))).long()
        assert torch.equal(target, ids.masked_fill(ids == 255, -100))


def test_masks_that_are_numbered_the_other_way_are_an_error(tmp_path: Path) -> None:
    sizes = {"train": 12, "validation": 6}
    ids = pair_parquet(tmp_path / "ids", sizes, values=LABEL_IDS)
    with pytest.raises(DataError, match=r"of train_ids, got values in 3\.\.33.*labels='label_ids'"):
        create_dataset("cityscapes", path=ids, labels="train_ids")
    trained = pair_parquet(tmp_path / "trained", sizes, values=(0, 5, 18, 255))
    with pytest.raises(DataError, match=r"label_ids, got values in 0\.\.18.*labels='train_ids'"):
        create_dataset("cityscapes", path=trained)
    for labels in ("ids", ["label_ids"]):
        said = re.escape(f"['label_ids', 'train_ids'], got {labels!r}")
        with pytest.raises(DataError, match=said):
            create_dataset("cityscapes", path=ids, labels=labels)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    path = cityscapes_folders(tmp_path / "folders", 6)
    with pytest.raises(DataError, match=r"CITY/\*_gtFine_labelTrainIds\.png in .*train, got none"):
        create_dataset("cityscapes", path=path, labels="train_ids")
    for i in (3, 4):
        (path / f"gtFine/train/ulm/ulm_{i:06}_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"a mask for every image.*ulm_000003\S+ and 1 more"):
        create_dataset("cityscapes", path=path)
    sizes = {"train": 12, "validation": 3}
    strange = pair_parquet(tmp_path / "strange", sizes, values=(7, 40))
    with pytest.raises(DataError, match=r"split 'train'.*0\.\.33, 255, got 40"):
        create_dataset("cityscapes", path=strange)
    alone = pair_parquet(tmp_path / "alone", {"train": 12}, values=LABEL_IDS)
    with pytest.raises(DataError, match="train and validation, got no validation"):
        create_dataset("cityscapes", path=alone)
