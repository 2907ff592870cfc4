"""The small classics: real files where there are some, and what tells the sets apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from offramp.data import create_dataset
from offramp.errors import DataError

from .layouts import noise, parquet

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "first"),
    [
        ("mnist", [27000, 1500, 1500, 10000], (1, 28, 28), "0"),
        ("cifar10", [6400, 800, 800, 9968], (3, 32, 32), "airplane"),
        pytest.param(
            *("cifar100", [40000, 5000, 5000, 10000], (3, 32, 32), "apple"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_real_files_are_read(
    offramp_data: Path, name: str, sizes: list[int], shape: tuple[int, ...], first: str
) -> None:
    splits = create_dataset(name, path=offramp_data / name, images_per_class=40)
    classes = splits.num_classes
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    counts = [len(part) for part in parts]
    assert counts[0] == 40 * classes and counts[3] == sizes[3]
    assert all(abs(a - b) <= 5 for a, b in zip(counts[1:3], sizes[1:3], strict=True))
    assert classes == (100 if name == "cifar100" else 10) and splits.class_names[0] == first
    images = [image.numpy().tobytes() for part in parts[:3] for image in part.pixels]
    repeated = len(images) - len(set(images))
    assert repeated <= 2  # CIFAR has a few images twice within its training split
    assert all(part.targets.unique().tolist() == list(range(classes)) for part in parts)
    inputs = splits.validation.batch(torch.arange(len(splits.validation)))[0]
    assert inputs.shape[1:] == shape
    # the published mean and standard deviation are right
    assert float(inputs.mean((0, 2, 3)).abs().max()) < 0.05
    assert float((inputs.std((0, 2, 3)) - 1).abs().max()) < 0.05


def test_test_part_is_the_official_one_in_its_order(offramp_data: Path) -> None:
    import datasets

    table = datasets.load_dataset(str(offramp_data / "mnist"), split="test")
    splits = create_dataset("mnist", path=offramp_data / "mnist", images_per_class=1)
    for row in (0, 5, 9999):
        assert torch.equal(splits.test[row][0], splits.preprocess(table[row]["image"]))
        assert splits.test[row][1] == table[row]["label"]


def test_svhn_learns_from_the_extra_split_where_asked(tmp_path: Path) -> None:
    sizes = {"train": 10, "test": 2, "extra": 30}
    parquet(tmp_path / "data", sizes, classes="0123456789", size=(32, 32))
    plain, more = (create_dataset("svhn", path=tmp_path, extra=flag) for flag in (False, True))
    assert [len(plain.train), len(plain.validation), len(plain.test)] == [80, 10, 20]
    assert [len(more.train), len(more.validation), len(more.test)] == [360, 20, 20]
    (tmp_path / "data" / "extra-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"train and extra, got \['test', 'train'\]"):
        create_dataset("svhn", path=tmp_path, extra=True)


def test_svhn_is_found_in_a_copy_of_the_hubs_repository(tmp_path: Path) -> None:
    sizes = {"train": 10, "test": 2}
    parquet(tmp_path / "cropped_digits", sizes, classes="0123456789", size=(32, 32))
    parquet(tmp_path / "full_numbers", {"train": 1}, classes="ab", columns=("image", "digits"))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: full_numbers\n  data_files: full_numbers/*.parquet\n"
        "- config_name: cropped_digits\n  data_files:\n"
        "  - split: train\n    path: cropped_digits/train-*\n"
        "  - split: test\n    path: cropped_digits/test-*\n---\n"
    )
    assert len(create_dataset("svhn", path=tmp_path).test) == 20


def test_cifar100_uses_fine_labels(tmp_path: Path) -> None:
    import datasets

    path = tmp_path / "cifar100"
    parquet(path, {"train": 10, "test": 2}, columns=("img", "fine_label"), size=(32, 32))
    for file in sorted(path.iterdir()):
        table = datasets.Dataset.from_parquet(str(file))
        table = table.add_column("coarse_label", [0] * len(table))
        coarse = datasets.ClassLabel(names=["animal", "plant"])
        table.cast_column("coarse_label", coarse).to_parquet(file)
    assert create_dataset("cifar100", path=path).class_names == ("ant", "bee", "cat")


def test_size_and_normalisation_are_as_asked(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"train": 10, "test": 2}, columns=("img", "label"), size=(32, 32))
    given = {"image_size": 64, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    splits = create_dataset("cifar10", path=path, **given)
    image = noise("test0", (32, 32)).resize((64, 64), 2)
    pixels = splits.test.raw([0])[0].permute(1, 2, 0)
    assert pixels.contiguous().numpy().tobytes() == image.tobytes()
    torch.testing.assert_close(splits.test[0][0].permute(1, 2, 0), (pixels / 255 - 0.5) / 0.25)


def test_gray_sets_refuse_three_means(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"train": 10, "test": 2}, size=(28, 28), mode="L")
    with pytest.raises(DataError, match="mean as 1 numbers for L"):
        create_dataset("mnist", path=path, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    with pytest.raises(DataError, match=r"mean as 1 numbers for L, got 0\.5"):
        create_dataset("mnist", path=path, mean=0.5)
