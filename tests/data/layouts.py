"""Small copies of data sets, in the layout in which they are published; made of noise."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n02102040", "n02979186")
PER_CLASS = 20  # images of each class in a training split
PER_CLASS_TEST = 4


def noise(name: str, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    """An image of its own for every name; size is (height, width)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shape = size if mode == "L" else (*size, len(mode))
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The content of an image file."""
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def parquet(
    folder: Path,
    splits: Mapping[str, int],
    *,
    columns: Sequence[str] = ("image", "label"),
    classes: Sequence[str] = ("ant", "bee", "cat"),
    size: tuple[int, int] = (8, 8),
    mode: str = "RGB",
    hidden: Sequence[str] = (),
) -> Path:
    """A folder as `datasets` reads it: one file per split, so many images of each class in it."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(
        {columns[0]: datasets.Image(), columns[1]: datasets.ClassLabel(names=list(classes))}
    )
    for split, per_class in splits.items():
        labels = [k for _ in range(per_class) for k in range(len(classes))]
        cells = [
            {"bytes": encoded(noise(f"{split}{i}", size, mode)), "path": None}
            for i in range(len(labels))
        ]
        shown = [-1] * len(labels) if split in hidden else labels
        table = datasets.Dataset.from_dict(
            {columns[0]: cells, columns[1]: shown}, features=features
        )
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def class_folders(
    folder: Path,
    per_class: int,
    *,
    classes: Sequence[str] = WNIDS,
    size: tuple[int, int] = (8, 8),
    inside: str = "",
) -> Path:
    """One folder of images per class."""
    for name in classes:
        place = folder / name / inside
        place.mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            noise(f"{folder}{name}{i}", size).save(place / f"{name}_{i}.png")
    return folder


def tiny_imagenet(folder: Path) -> Path:
    """As in the original zip, `tiny-imagenet-200`."""
    wnids = ("n02124075", "n01443537", "n04067472")  # not sorted, as in the zip
    class_folders(folder / "train", PER_CLASS, classes=wnids, inside="images")
    images = folder / "val" / "images"
    images.mkdir(parents=True)
    lines = []
    for i in range(PER_CLASS_TEST * len(wnids)):
        noise(f"val{i}").save(images / f"val_{i}.JPEG", "PNG")
        lines.append(f"val_{i}.JPEG\t{wnids[i % len(wnids)]}\t0\t1\t52\t48\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(wnids))
    (folder / "words.txt").write_text(
        "n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn04067472\treel\n"
    )
    (folder / "test" / "images").mkdir(parents=True)
    noise("hidden").save(folder / "test" / "images" / "test_0.png")
    return folder


def mask_of(
    name: str, size: tuple[int, int] = (12, 16), values: Sequence[int] = (0, 1, 2, 255)
) -> Image.Image:
    """A mask of its own for every name, in blocks of 4 x 4; every value is in it."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    height, width = (side // 4 for side in size)
    rest = rng.choice(values, height * width - len(values))
    cells = rng.permutation(np.concatenate([values, rest])).reshape(height, width)
    return Image.fromarray(cells.repeat(4, 0).repeat(4, 1).astype(np.uint8))


def pair_parquet(
    folder: Path,
    splits: Mapping[str, int],
    *,
    values: Sequence[int] = (0, 1, 2, 255),
    size: tuple[int, int] = (12, 16),
    columns: Sequence[str] = ("image", "semantic_segmentation"),
    mode: str = "L",
) -> Path:
    """A folder as `datasets` reads it: one file per split, so many images with masks in it."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({name: datasets.Image() for name in columns})
    for split, num in splits.items():
        images = [noise(f"{split}{i}", size) for i in range(num)]
        masks = [mask_of(f"{split}{i}", size, values).convert(mode) for i in range(num)]
        cells = [[{"bytes": encoded(i), "path": None} for i in each] for each in (images, masks)]
        table = datasets.Dataset.from_dict(dict(zip(columns, cells, strict=True)), features)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def pair_folders(
    folder: Path,
    num: int,
    *,
    values: Sequence[int] = (0, 1, 2, 255),
    size: tuple[int, int] = (12, 16),
    names: tuple[str, str] = ("images", "masks"),
) -> Path:
    """A folder of images, and one of masks with the same names."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(num):
        noise(f"{folder}{i}", size).save(folder / names[0] / f"{i}.bmp")
        mask_of(f"{folder}{i}", size, values).save(folder / names[1] / f"{i}.png")
    return folder


LABEL_IDS = (3, 7, 8, 11, 21, 23, 26, 33)  # of Cityscapes; 3 is no class


def cityscapes_folders(
    folder: Path, num: int, *, size: tuple[int, int] = (12, 16), labels: str = "labelIds"
) -> Path:
    """The original `leftImg8bit` and `gtFine`: so many frames of each of two cities in train."""
    for split, cities in (("train", ("aachen", "ulm")), ("val", ("lindau",)), ("test", ("bonn",))):
        for city in cities:
            images, masks = folder / "leftImg8bit" / split / city, folder / "gtFine" / split / city
            for place in (images, masks):
                place.mkdir(parents=True, exist_ok=True)
            for i in range(num):
                frame = f"{city}_{i:06}_000019"
                noise(frame, size).save(images / f"{frame}_leftImg8bit.png")
                if split == "test":
                    continue
                noise(frame, size).save(masks / f"{frame}_gtFine_color.png")
                ids = LABEL_IDS if labels == "labelIds" else (0, 1, 2, 18, 255)
                mask_of(frame, size, ids).save(masks / f"{frame}_gtFine_{labels}.png")
    return folder


_TRAIN_TEST = {"train": PER_CLASS, "test": PER_CLASS_TEST}
_TRAIN_VAL = {"train": PER_CLASS, "validation": PER_CLASS_TEST}

# name of a registered data set -> how to make a small copy: folder -> options to create it with
COPIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "digits": lambda folder: {},
    "mnist": lambda folder: {"path": parquet(folder, _TRAIN_TEST, size=(28, 28), mode="L")},
    "fashion_mnist": lambda folder: {"path": parquet(folder, _TRAIN_TEST, size=(28, 28), mode="L")},
    "svhn": lambda folder: {
        "path": parquet(folder, {**_TRAIN_TEST, "extra": 3}, classes="0123", size=(32, 32))
    },
    "cifar10": lambda folder: {
        "path": parquet(folder, _TRAIN_TEST, columns=("img", "label"), size=(32, 32))
    },
    "cifar100": lambda folder: {
        "path": parquet(folder, _TRAIN_TEST, columns=("img", "fine_label"), size=(32, 32))
    },
    "imagenette": lambda folder: {
        "path": parquet(folder, _TRAIN_VAL, size=(20, 30)),
        "image_size": 16,
    },
    "imagenet": lambda folder: {
        "path": parquet(
            folder, {**_TRAIN_VAL, "test": PER_CLASS_TEST}, size=(40, 30), hidden=["test"]
        ),
        "image_size": 28,
        "validation": 0.1,
    },
    "tiny_imagenet": lambda folder: {"path": tiny_imagenet(folder), "image_size": 8},
    "imagefolder": lambda folder: {
        "path": class_folders(folder, PER_CLASS, size=(12, 9)),
        "image_size": 7,
    },
    "huggingface": lambda folder: {
        "path": parquet(folder, {**_TRAIN_VAL, "test": PER_CLASS_TEST}, columns=("photo", "kind")),
        "image_size": 7,
    },
}

_PAIRS = {"train": 20, "validation": 4, "test": 5}

# likewise, of the data sets whose targets are maps
MAP_COPIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "camvid": lambda folder: {
        "path": pair_parquet(folder, _PAIRS, values=(*range(11), 255)),
        "image_size": [12, 16],
    },
    "cityscapes": lambda folder: {
        "path": pair_parquet(folder, _PAIRS, values=LABEL_IDS, mode="RGB"),
        "image_size": [6, 8],
    },
    "mask_folder": lambda folder: {
        "path": pair_folders(folder, 30),
        "image_size": [10, 14],
        "num_classes": 3,
    },
}
