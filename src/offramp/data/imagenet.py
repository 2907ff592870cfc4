"""ImageNet and its smaller relatives, from folders named by WordNet number or from the hub.

Their test labels are hidden or absent, so the official validation split is the test part, as in
nearly all papers; validation and calibration are drawn from the training split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import DataError
from .base import Splits, register
from .encoded import Paths
from .folder import existing, has_classes, scan
from .hub import Columns, check_size, cropped, load, local_folder, read
from .parts import Draw, Labelled, Official, assemble
from .preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, frozen

_IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@register("imagenette")
def imagenette(
    *,
    path: str | Path | None = None,
    image_size: int = 160,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float = 0.1,
    calibration: float = 0.1,
    in_memory: bool | None = None,
) -> Splits:
    """Imagenette: ten easy classes of ImageNet, 13,394 photographs (Howard 2019).

    9,469 are the official training split; the official validation split, 3,925, is the test part.
    The middle of each is cut out, after its shorter side has become 8/7 of ``image_size``.

    Args:
        path: local folder, as in ``imagenette2-160/{train,val}/WNID`` or with the columns image and
            label, or hub id; by default ``frgfm/imagenette``.
        image_size: height and width of the inputs, in pixels.
        mean: for normalisation; by default ImageNet's.
        std: likewise.
        seed: of what is drawn.
        images_per_class: keep so many images of each class in train; see `offramp.data.parts.Draw`.
        validation: share of train.
        calibration: share of train.
        in_memory: hold decoded images in memory; by default where they take 2 GB at most.

    Raises:
        DataError: if the data set cannot be read.
        MissingExtraError: if ``datasets`` or Pillow is not installed.
    """
    draw = Draw(seed, images_per_class, validation, calibration, in_memory=in_memory)
    size = "160px" if image_size <= 160 else "320px"  # of the shorter side
    official, names = _folders_or_hub(path, "frgfm/imagenette", subset=size)
    readable = [_IMAGENETTE.get(name, name) for name in names]
    return assemble(official, readable, cropped(image_size, mean, std), draw)


@register("imagenet")
def imagenet(
    *,
    path: str | Path | None = None,
    image_size: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float = 0.02,
    calibration: float = 0.02,
    in_memory: bool | None = None,
) -> Splits:
    """ImageNet, ILSVRC 2012: 1,331,167 photographs of a thousand classes (Russakovsky et al. 2015).

    1,281,167 are the official training split; the official validation split, 50,000, is the test
    part, since test labels are hidden. The middle of each is cut out, after its shorter side has
    become 8/7 of ``image_size``. Classes of folders have readable names where a file ``words.txt``
    or ``LOC_synset_mapping.txt`` lies beside them, else their WordNet numbers.

    Args:
        path: local folder, as in ``{train,val}/WNID`` or with the columns image and label, or hub
            id; by default ``ILSVRC/imagenet-1k``, which asks for its terms to be accepted.
        image_size: height and width of the inputs, in pixels.
        mean: for normalisation; by default that of the training images.
        std: likewise.
        seed: of what is drawn.
        images_per_class: keep so many images of each class in train; see `offramp.data.parts.Draw`.
        validation: share of train.
        calibration: share of train.
        in_memory: hold decoded images in memory; by default where they take 2 GB at most.

    Raises:
        DataError: if the data set cannot be read.
        MissingExtraError: if ``datasets`` or Pillow is not installed.
    """
    draw = Draw(seed, images_per_class, validation, calibration, in_memory=in_memory)
    official, names = _folders_or_hub(path, "ILSVRC/imagenet-1k")
    return assemble(official, names, cropped(image_size, mean, std), draw)


@register("tiny_imagenet")
def tiny_imagenet(
    *,
    path: str | Path,
    image_size: int = 64,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float = 0.05,
    calibration: float = 0.05,
    in_memory: bool | None = None,
) -> Splits:
    """Tiny ImageNet: 110,000 photographs of 64 x 64 pixels, 200 classes (Le and Yang 2015).

    100,000 are the official training split; the official validation split, 10,000, is the test
    part, since test labels are hidden.

    Args:
        path: the folder of the original zip, ``tiny-imagenet-200``: ``wnids.txt``, ``words.txt``,
            ``train/WNID/images/*.JPEG``, ``val/images`` and ``val/val_annotations.txt``. A ``val``
            that was sorted into class folders will do.
        image_size: height and width of the inputs, in pixels; the images have 64.
        mean: for normalisation; by default ImageNet's.
        std: likewise.
        seed: of what is drawn.
        images_per_class: keep so many images of each class in train; see `offramp.data.parts.Draw`.
        validation: share of train.
        calibration: share of train.
        in_memory: hold decoded images in memory; by default where they take 2 GB at most.

    Raises:
        DataError: if the folder lacks a part, or an image is damaged.
        MissingExtraError: if Pillow is not installed.
    """
    draw = Draw(seed, images_per_class, validation, calibration, in_memory=in_memory)
    check_size(image_size)
    preprocess = Preprocess((image_size, image_size), None, frozen(mean), frozen(std))
    folder = existing(path)
    wnids = sorted(_lines(folder / "wnids.txt"))
    if not has_classes(folder / "train"):
        raise DataError(f"wanted class folders in {folder / 'train'}, got none")
    official = Official(scan(folder / "train", wnids).labelled, _tiny_val(folder / "val", wnids))
    return assemble(official, _readable(folder, wnids), preprocess, draw)


# ------------------------------------------------------------------------ reading
def _folders_or_hub(
    path: str | Path | None, hub_id: str, subset: str | None = None
) -> tuple[Official, list[str]]:
    """Training and validation split, and class names, of one of the two layouts."""
    folder = None if path is None else local_folder(path)
    if folder is not None and (folder / "train").is_dir() and has_classes(folder / "train"):
        labelled, wnids = scan(folder / "train")
        if not has_classes(folder / "val"):
            raise DataError(
                f"wanted validation images in class folders, {folder / 'val'}/WNID, as the test "
                f"part; got none"
            )
        official = Official(labelled, scan(folder / "val", wnids).labelled)
        return official, _readable(folder, wnids)
    columns = "the columns image and label, or folders train/WNID and val/WNID"
    found = load(path, hub_id, subset=subset, columns=columns)
    return read(found, Columns("image", "label"))


def _tiny_val(folder: Path, wnids: Sequence[str]) -> Labelled:
    """The official validation split: one folder of images, and a table that says their classes."""
    table = folder / "val_annotations.txt"
    if not table.is_file() and has_classes(folder) and not (folder / "images").is_dir():
        return scan(folder, wnids).labelled
    number = {wnid: k for k, wnid in enumerate(wnids)}
    paths, targets = [], []
    for line in _lines(table):
        file, wnid = [*line.split("\t"), ""][:2]
        if wnid not in number or Path(file).name != file:
            raise DataError(f"wanted lines of file and WNID in {table}, got {line[:80]!r}")
        paths.append(folder / "images" / file)
        targets.append(number[wnid])
    return Labelled(Paths(paths), torch.tensor(targets, dtype=torch.long))


def _lines(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"wanted at least one line in {file}, got none")
    return lines


def _readable(folder: Path, wnids: Sequence[str]) -> list[str]:
    """The first word for each WordNet number, all its words where others share the first one."""
    words: dict[str, str] = {}
    for name in ("words.txt", "LOC_synset_mapping.txt"):
        if (folder / name).is_file():
            pairs = [line.split(maxsplit=1) for line in _lines(folder / name)]
            words.update({pair[0]: pair[1] for pair in pairs if len(pair) == 2})
    first = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    shared = Counter(first)
    return [
        name if shared[name] == 1 else words.get(wnid, wnid)
        for name, wnid in zip(first, wnids, strict=True)
    ]
