"""CamVid: the real frames, and the two layouts in which people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from offramp.data import create_dataset
from offramp.data.camvid import CLASSES, MEAN, STD
from offramp.errors import DataError

from .layouts import mask_of, noise, pair_folders, pair_parquet

pytestmark = pytest.mark.usefixtures("own_cache")
SIZE = (12, 16)
VALUES = (*range(11), 255)


def test_camvid_is_the_frames_with_their_published_splits(offramp_data: Path) -> None:
    splits = create_dataset("camvid", path=offramp_data / "camvid")
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    assert [len(part) for part in parts] == [330, 101, 37, 233]
    assert splits.num_classes == 11 and splits.class_names[3] == "Road"
    scale = torch.arange(256).double() / 255
    for channel in range(3):
        learn = [part.pixels[:, channel].flatten() for part in (splits.train, splits.calibration)]
        counts = torch.cat(learn).bincount(minlength=256).double()
        mean = float(counts @ scale / counts.sum())
        std = float((counts @ (scale - mean) ** 2 / counts.sum()).sqrt())
        assert (mean, std) == pytest.approx((MEAN[channel], STD[channel]), abs=5.1e-5)
    masks = torch.cat([splits.train.masks, splits.calibration.masks])
    shares = masks.flatten().bincount(minlength=256).double() / masks.numel()
    assert float(shares[11:255].sum()) == 0
    # sky, building and road fill the picture; nothing is said of a twenty-fifth
    assert shares[3] > 0.3 and shares[1] > 0.2 and shares[0] > 0.15
    assert float(shares[255]) == pytest.approx(0.0393, abs=1e-4)
    # sky lies in the upper half of a picture, road in the lower
    top, bottom = masks[:, :90], masks[:, 90:]
    assert (top == 0).sum() > 10 * (bottom == 0).sum()
    assert (bottom == 3).sum() > 10 * (top == 3).sum()


def segnet_folders(folder: Path) -> Path:
    """As in the SegNet tutorial; what is not labelled is 11."""
    for name, num in (("train", 12), ("val", 3), ("test", 4)):
        pair_folders(folder, 0, names=(name, f"{name}annot"))
        for i in range(num):
            noise(f"{name}{i}", SIZE).save(folder / name / f"{i:02}.png")
            values = mask_of(f"{name}{i}", SIZE, range(12))
            values.save(folder / f"{name}annot" / f"{i:02}.png")
    return folder


def test_the_folders_of_segnet_are_read(tmp_path: Path) -> None:
    splits = create_dataset("camvid", path=segnet_folders(tmp_path), image_size=SIZE)
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    assert [len(part) for part in parts] == [11, 3, 1, 4]
    inputs, target = splits.test[2]
    assert torch.equal(inputs, splits.preprocess(noise("test2", SIZE)))
    values = torch.from_numpy(np.array(mask_of("test2", SIZE, range(12)))).long()
    assert torch.equal(target, torch.where(values == 11, -100, values))


def test_the_official_validation_split_is_used_unless_a_share_is_asked_for(tmp_path: Path) -> None:
    path = pair_parquet(tmp_path, {"train": 20, "validation": 5, "test": 6}, values=VALUES)
    options = {"path": path, "image_size": SIZE}
    assert torch.equal(
        create_dataset("camvid", **options).validation.raw([4])[0],
        create_dataset("camvid", **options).preprocess.pixels(noise("validation4", SIZE)),
    )
    splits = create_dataset("camvid", **options, validation=0.2)
    assert [len(part) for part in (splits.train, splits.validation)] == [14, 4]
    assert len(splits.test) == 6 and splits.class_names == CLASSES


def stretches(rows: torch.Tensor) -> int:
    """Into how many rows that follow one another these fall, [n] rising."""
    return int((rows.diff() > 1).sum()) + 1


def test_what_is_drawn_from_train_is_of_frames_that_follow_one_another(tmp_path: Path) -> None:
    """Drawn one by one, 36 of 144 would fall into 27 stretches, each frame beside one of train."""
    path = pair_parquet(tmp_path, {"train": 144, "validation": 2, "test": 2}, values=VALUES)
    options = {"path": path, "image_size": SIZE, "in_memory": False, "validation": 0.25}
    drawn = set()
    for seed in range(4):
        splits = create_dataset("camvid", **options, calibration=0.25, seed=seed)
        parts = (splits.train.rows, splits.validation.rows, splits.calibration.rows)
        assert torch.cat(parts).sort().values.tolist() == list(range(144))
        for rows in parts[1:]:
            assert len(rows) == 36 and stretches(rows) <= 3
            assert set((rows // 12).bincount().tolist()) <= {0, 12}  # whole ones
        assert all(part.tolist() == sorted(part.tolist()) for part in parts)
        drawn.add(tuple(splits.calibration.rows.tolist()))
    assert len(drawn) == 4


def test_frames_that_follow_one_another_are_alike(offramp_data: Path) -> None:
    """Why they are drawn together; and the rows are in the order of the videos."""
    splits = create_dataset(
        "camvid", path=offramp_data / "camvid", image_size=(45, 60), in_memory=False
    )
    learn = [splits.train.take(range(60)).decoded(), splits.test.take(range(60)).decoded()]
    for part, rows in zip(learn, (splits.train.rows[:60], splits.test.rows[:60]), strict=True):
        pixels = part.pixels.float().flatten(1)
        apart = torch.cdist(pixels, pixels, p=1)
        beside = apart.diagonal(1)[rows.diff() == 1]
        assert float(beside.median()) < 0.7 * float(apart[apart > 0].median())


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    path = pair_parquet(tmp_path / "two", {"train": 9, "validation": 5}, values=VALUES)
    with pytest.raises(DataError, match=r"train, validation and test in .*got \['train', 'val"):
        create_dataset("camvid", path=path)
    path = pair_parquet(tmp_path / "names", {"train": 9, "test": 5}, columns=("image", "mask"))
    with pytest.raises(DataError, match=r"'semantic_segmentation' in the split '\w+', got \['im"):
        create_dataset("camvid", path=path)
    path = pair_parquet(tmp_path / "value", {"train": 9, "test": 5}, values=(0, 12))
    with pytest.raises(DataError, match=r"row \d of split 'train'.* 0\.\.11, 255, got 12"):
        create_dataset("camvid", path=path, image_size=SIZE)
    folder = segnet_folders(tmp_path / "segnet")
    noise("twice", SIZE).save(folder / "train" / "01.bmp")
    with pytest.raises(DataError, match=r"one file of a name, got .*01\.bmp and .*01\.png$"):
        create_dataset("camvid", path=folder)
    (folder / "train" / "01.bmp").unlink()
    (folder / "valannot" / "01.png").unlink()
    with pytest.raises(DataError, match=r"a mask for every image, got none for .*val.01\.png$"):
        create_dataset("camvid", path=folder)
