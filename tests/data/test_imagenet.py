"""ImageNet and its relatives in the layouts people have; Tiny-ImageNet's real files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from offramp.data import create_dataset
from offramp.errors import DataError

from .layouts import WNIDS, class_folders, noise, parquet, tiny_imagenet


def folders(path: Path) -> Path:
    class_folders(path / "train", 20, size=(24, 30))
    class_folders(path / "val", 4, size=(24, 30))
    return path


def test_imagenette_folders_have_readable_names(tmp_path: Path) -> None:
    path = folders(tmp_path / "imagenette2-160")
    splits = create_dataset("imagenette", path=path, image_size=16)
    assert splits.class_names == ("tench", "English springer", "cassette player")
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [48, 6, 12]
    first = splits.preprocess(noise(f"{path / 'val'}{WNIDS[0]}0", (24, 30)))
    assert torch.equal(splits.test[0][0], first)
    assert splits.preprocess.resize == 18


def test_imagenet_folders_have_wordnet_numbers_or_words(tmp_path: Path) -> None:
    path = folders(tmp_path)
    options = {"path": str(path), "image_size": 16, "validation": 0.1}
    assert create_dataset("imagenet", **options).class_names == WNIDS
    (path / "LOC_synset_mapping.txt").write_text(
        "n01440764 tench, Tinca tinca\nn02102040 crane, bird\nn02979186 crane\n"
    )
    splits = create_dataset("imagenet", **options)
    assert splits.class_names == ("tench", "crane, bird", "crane")
    assert len(splits.test) == 12


def test_hub_copies_use_validation_as_test(tmp_path: Path, own_cache: Path) -> None:
    sizes = {"train": 20, "validation": 4, "test": 5}
    path = parquet(tmp_path, sizes, size=(24, 30), hidden=["test"])
    splits = create_dataset("imagenet", path=path, image_size=16, in_memory=False)
    assert len(splits.test) == 12
    assert torch.equal(splits.test[3][0], splits.preprocess(noise("validation3", (24, 30))))


def test_imagenet_is_the_size_of_torchvisions_weights(tmp_path: Path) -> None:
    splits = create_dataset("imagenet", path=folders(tmp_path))
    assert splits.preprocess.size == (224, 224) and splits.preprocess.resize == 256


def test_imagenet_without_class_folders_of_validation_says_so(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 4)
    (tmp_path / "val").mkdir()
    noise("a").save(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", "JPEG")
    with pytest.raises(DataError, match=r"class folders, .*val/WNID, as the test part"):
        create_dataset("imagenet", path=tmp_path)


def test_tiny_imagenet_reads_the_original_folders(tmp_path: Path) -> None:
    splits = create_dataset("tiny_imagenet", path=tiny_imagenet(tmp_path))
    assert splits.class_names == ("goldfish", "Egyptian cat", "reel")
    assert splits.test.targets.tolist() == [1, 0, 2] * 4  # wnids.txt is not sorted, classes are
    pixels = splits.preprocess.pixels(noise("val4"))
    assert torch.equal(splits.test.raw([4])[0], pixels) and pixels.shape == (3, 64, 64)


def test_tiny_imagenet_reads_a_sorted_validation_folder(tmp_path: Path) -> None:
    import shutil

    path = tiny_imagenet(tmp_path)
    shutil.rmtree(path / "val")
    class_folders(path / "val", 2, classes=("n01443537", "n02124075", "n04067472"))
    assert len(create_dataset("tiny_imagenet", path=path).test) == 6


def test_tiny_imagenet_says_what_is_missing(tmp_path: Path) -> None:
    path = tiny_imagenet(tmp_path)
    (path / "val" / "images" / "val_3.JPEG").unlink()
    with pytest.raises(DataError, match=r"cannot read the image .*val_3\.JPEG: No such file"):
        create_dataset("tiny_imagenet", path=path)
    table = path / "val" / "val_annotations.txt"
    table.write_text("val_0.JPEG\tn99999999\t0\t0\t1\t1\n")
    with pytest.raises(DataError, match=r"file and WNID in .*val_annotations\.txt"):
        create_dataset("tiny_imagenet", path=path)
    table.write_text("../../words.txt\tn01443537\t0\t0\t1\t1\n")
    with pytest.raises(DataError, match="file and WNID"):
        create_dataset("tiny_imagenet", path=path)
    (path / "wnids.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*wnids\.txt"):
        create_dataset("tiny_imagenet", path=path)


def test_real_tiny_imagenet_is_read(offramp_data: Path) -> None:
    path = offramp_data / "tiny-imagenet-200"
    splits = create_dataset("tiny_imagenet", path=path)
    assert splits.class_names[:3] == ("goldfish", "European fire salamander", "bullfrog")
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    assert [len(part) for part in parts] == [900, 50, 50, 500]
    assert splits.test.targets.bincount().tolist() == [50] * 10
    images = [image.numpy().tobytes() for part in parts for image in part.pixels]
    assert len(set(images)) == len(images)
    inputs = splits.train.batch(torch.arange(900))[0]
    assert float(inputs.mean().abs()) < 0.3 and 0.8 < float(inputs.std()) < 1.3
