"""Cityscapes: street scenes of nineteen classes (Cordts et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..errors import DataError
from .base import Splits, register
from .folder import image_files
from .hub import load, local_folder
from .map_parts import (
    MapDraw,
    OfficialMaps,
    Prepared,
    assemble_maps,
    first_values,
    pair_files,
    read_columns,
    squashed,
)
from .masks import VOID, Legend, Pairs
from .preprocess import IMAGENET_MEAN, IMAGENET_STD

Labels = Literal["label_ids", "train_ids"]

HUB_ID = "Chris1/cityscapes"

# name and label id of the classes that are trained and scored, in the order of their train ids
# (cityscapesscripts.helpers.labels)
CLASSES = (
    ("road", 7),
    ("sidewalk", 8),
    ("building", 11),
    ("wall", 12),
    ("fence", 13),
    ("pole", 17),
    ("traffic light", 19),
    ("traffic sign", 20),
    ("vegetation", 21),
    ("terrain", 22),
    ("sky", 23),
    ("person", 24),
    ("rider", 25),
    ("car", 26),
    ("truck", 27),
    ("bus", 28),
    ("train", 31),
    ("motorcycle", 32),
    ("bicycle", 33),
)

_IMAGE, _MASK = "image", "semantic_segmentation"
_NUM_IDS = 34
_LICENSE_PLATE = 255  # its label id is -1, which is 255 in one byte
_FILES = {"label_ids": "labelIds", "train_ids": "labelTrainIds"}


@register("cityscapes")
def cityscapes(
    *,
    path: str | Path | None = None,
    labels: Labels = "label_ids",
    image_size: Sequence[int] = (512, 1024),
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    images: int | None = None,
    validation: float = 0.1,
    calibration: float = 0.1,
    in_memory: bool | None = None,
) -> Splits:
    """Cityscapes: 3,475 finely labelled frames of 1024 x 2048 pixels, nineteen classes.

    2,975 are the official training split, from which validation and calibration are drawn; the
    labels of the official test split are hidden, so that the 500 frames of the official validation
    split are the test part. The targets are maps, int64 [N, H, W]; what belongs to none of the
    nineteen classes is -100. They are made in ``image_size``: figures are comparable to published
    ones at 1024 x 2048 only.

    Args:
        path: the folder with the original ``leftImg8bit`` and ``gtFine``; or a local folder or hub
            id with the columns ``image`` and ``semantic_segmentation``, by default
            ``Chris1/cityscapes``.
        labels: what the masks hold: ``label_ids``, as the original files and the hub's copy do,
            or ``train_ids``, 0 to 18 and 255 (in the original folders the files
            ``*_gtFine_labelTrainIds.png``).
        image_size: height and width of inputs and maps, in pixels; whole images are squashed to it.
        mean: for normalisation; by default ImageNet's.
        std: likewise.
        seed: of what is drawn.
        images: keep so many images in train; see `offramp.data.map_parts.MapDraw`.
        validation: share of train.
        calibration: share of train.
        in_memory: hold decoded images in memory; by default where they take 2 GB at most.

    Raises:
        DataError: if the data set cannot be read, or its masks do not hold what ``labels`` says.
        MissingExtraError: if ``datasets`` or Pillow is not installed.

    Example:
        >>> create_dataset("cityscapes", path="cityscapes", image_size=(512, 1024)).num_classes
        19
    """
    if labels not in list(_FILES):  # which need not be hashable
        raise DataError(f"wanted labels as one of {list(_FILES)}, got {labels!r}")
    draw = MapDraw(seed, images, validation, calibration, in_memory=in_memory)
    prepared = Prepared(squashed(image_size, mean, std), _legend(labels))
    official = _official(path, labels)
    _check_labels(official.train, labels)
    return assemble_maps(official, [name for name, _ in CLASSES], prepared, draw)


def _legend(labels: Labels) -> Legend:
    """What the values in the masks stand for: of label ids most are no class."""
    if labels == "train_ids":
        return Legend({**{number: number for number in range(len(CLASSES))}, VOID: VOID})
    void = dict.fromkeys((*range(_NUM_IDS), _LICENSE_PLATE), VOID)
    return Legend({**void, **{own: number for number, (_, own) in enumerate(CLASSES)}})


def _check_labels(train: Pairs, labels: Labels) -> None:
    """Raise what says that masks are numbered the other way; wrong classes would not be seen."""
    found = first_values(train) - {VOID}
    if not found or max(found) >= _NUM_IDS:  # the legend tells what is wrong, with the file
        return
    other = "label_ids" if max(found) >= len(CLASSES) else "train_ids"
    if labels != other:
        raise DataError(
            f"wanted masks of {labels}, got values in {min(found)}..{max(found)}, as masks of "
            f"{other} have: give labels={other!r}"
        )


def _official(path: str | Path | None, labels: Labels) -> OfficialMaps:
    folder = None if path is None else local_folder(path)
    if folder is not None and (folder / "leftImg8bit").is_dir():
        train, validation = (_pairs(folder, name, labels) for name in ("train", "val"))
        return OfficialMaps(train, validation)
    columns = f"leftImg8bit and gtFine, or with the columns {_IMAGE} and {_MASK}"
    official = read_columns(load(path, HUB_ID, columns=columns), _IMAGE, _MASK)
    if official.validation is None:
        raise DataError("wanted the splits train and validation, got no validation")
    return official._replace(test=None)  # its masks hide the classes


def _pairs(folder: Path, name: str, labels: Labels) -> Pairs:
    images = _named(folder / "leftImg8bit" / name, "_leftImg8bit.png")
    return pair_files(images, _named(folder / "gtFine" / name, f"_gtFine_{_FILES[labels]}.png"))


def _named(folder: Path, ending: str) -> dict[str, str]:
    """Paths of the files with that ending, by city and frame."""
    files = [file for file in image_files(folder) if file.endswith(ending)]
    if not files:
        raise DataError(f"wanted files CITY/*{ending} in {folder}, got none")
    return {str(Path(file).relative_to(folder)).removesuffix(ending): file for file in files}
