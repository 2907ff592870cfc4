"""Folders of images, one folder per class: what people have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import DataError
from .base import Splits, register
from .encoded import Paths
from .hub import cropped
from .parts import Draw, Labelled, Official, assemble
from .preprocess import IMAGENET_MEAN, IMAGENET_STD, Mode

# what Pillow reads and people keep photographs in; files of other kinds are not looked at
EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".avif"),
)
_VALIDATION = ("val", "valid", "validation", "dev")
_SPLITS = {*_VALIDATION, "train", "training", "test", "testing"}


class Found(NamedTuple):
    """Class folders that were found."""

    labelled: Labelled
    class_names: list[str]


@register("imagefolder")
def imagefolder(
    *,
    path: str | Path,
    mode: Mode = "RGB",
    image_size: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float | None = None,
    calibration: float = 0.1,
    test: float = 0.15,
    in_memory: bool | None = None,
) -> Splits:
    """Your own images: one folder per class, named after it, with images at any depth.

    Classes are numbered in the order of their names. Where the folder has a folder ``train`` of
    class folders, that and ``val`` (or valid, validation, dev) and ``test`` are the official
    splits, used as `offramp.data.parts` says; without it the images are split in four. Files are
    passed over whose extension is none of an image's, and what has a name that begins with a dot;
    any other image that cannot be read is an error. The middle of each image is cut out, after its
    shorter side has become 8/7 of ``image_size``.

    Args:
        path: the folder.
        mode: ``RGB``, or ``L`` for gray.
        image_size: height and width of the inputs, in pixels.
        mean: for normalisation; by default ImageNet's, or their mean for gray.
        std: likewise.
        seed: of what is drawn.
        images_per_class: keep so many images of each class in train; see `offramp.data.parts.Draw`.
        validation: share of train; by default the official split, else a tenth.
        calibration: share of train.
        test: share of train, where no official split can be the test part.
        in_memory: hold decoded images in memory; by default where they take 2 GB at most.

    Raises:
        DataError: if there are no class folders, a class has too few images, or one is damaged.
        MissingExtraError: if Pillow is not installed.
    """
    draw = Draw(seed, images_per_class, validation, calibration, test, in_memory)
    preprocess = cropped(image_size, mean, std, mode)
    official, class_names = scan_splits(existing(path))
    return assemble(official, class_names, preprocess, draw)


def existing(path: str | Path) -> Path:
    """The folder of that name; ``~`` is the user's own.

    Raises:
        DataError: if there is none.
    """
    folder = Path(path).expanduser() if isinstance(path, str | Path) else None
    if folder is None or not folder.is_dir():
        raise DataError(f"wanted path as a folder of images, got {str(path)!r}: no such folder")
    return folder


def scan_splits(folder: Path) -> tuple[Official, list[str]]:
    """The official splits of a folder, and the names of the classes.

    Raises:
        DataError: if there are no class folders, or one of them has no images.
    """
    if not has_splits(folder):
        _check_no_splits(folder)
        found = scan(folder)
        return Official(found.labelled), found.class_names
    labelled, names = scan(folder / "train")
    own = next((folder / name for name in _VALIDATION if has_classes(folder / name)), None)
    test = folder / "test"
    return Official(
        labelled,
        None if own is None else scan(own, names).labelled,
        scan(test, names).labelled if has_classes(test) else None,
    ), names


def has_splits(folder: Path) -> bool:
    """Whether there is a folder `train` of class folders, and not a class of that name."""
    train = folder / "train"
    return has_classes(train) and not any(is_image(file.name) for file in train.iterdir())


def has_classes(folder: Path) -> bool:
    """Whether this is a folder with folders in it."""
    return folder.is_dir() and bool(_folders(folder))


def scan(folder: Path, class_names: Sequence[str] | None = None) -> Found:
    """All images below the class folders of a folder, in the order of their paths.

    Args:
        folder: holds one folder per class.
        class_names: names and order of the class folders; by default as found, sorted. A given
            class may be absent, but no other may be there.

    Raises:
        DataError: if there are fewer than two class folders, one has no images, or is not known.
    """
    there = _folders(folder)
    names = list(there if class_names is None else class_names)
    unknown = sorted(set(there) - set(names))
    if unknown:
        raise DataError(f"{folder} has classes that the training images have not: {unknown[:5]}")
    if len(names) < 2:
        raise DataError(
            f"wanted at least two class folders in {folder}, got {names}{_loose(folder, names)}"
        )
    paths: list[str] = []
    counts = []
    for name in names:
        found = image_files(folder / name)
        if not found and (class_names is None or name in there):
            raise DataError(
                f"wanted images in the class folder {folder / name}, got none of the kinds "
                f"{' '.join(EXTENSIONS)}"
            )
        paths += found
        counts.append(len(found))
    targets = torch.arange(len(names)).repeat_interleave(torch.tensor(counts))  # [N]
    return Found(Labelled(Paths(paths), targets), names)


def is_image(name: str) -> bool:
    """Whether a file of that name is looked at."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def image_files(folder: Path) -> list[str]:
    """Paths of the images below a folder, at any depth, sorted.

    Links to folders are followed, each folder is looked at once, and hidden ones are not.
    """
    home = os.path.realpath(folder)
    seen: set[str] = set()
    found: list[str] = []
    for where, inside, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen or home.startswith(f"{real}{os.sep}"):  # a link back or up: other classes
            inside.clear()
            continue
        seen.add(real)
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found += [os.path.join(where, name) for name in names if is_image(name)]
    return sorted(found)


def _check_no_splits(folder: Path) -> None:
    """Raise what says that folders are splits by their names, and would be taken for classes."""
    names = _folders(folder)
    if names and all(name.lower() in _SPLITS for name in names):
        raise DataError(
            f"wanted class folders in {folder}, or train, and val and test if there are, with "
            f"class folders each; got {names}"
        )


def _loose(folder: Path, names: Sequence[str]) -> str:
    """What lies in a folder without class folders, in words."""
    if names:
        return ""
    num = sum(is_image(entry.name) for entry in os.scandir(folder))
    return f", and {num} images in no class folder" if num else ", and no images"


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are not looked at."""
    inside = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    return sorted(name for name in inside if not name.startswith("."))
