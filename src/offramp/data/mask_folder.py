"""Folders of images and masks: what people have who label every pixel."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .base import Splits, register
from .hub import for_mode, local_folder
from .map_parts import (
    MapDraw,
    OfficialMaps,
    Prepared,
    assemble_maps,
    first_values,
    pair_folders,
    squashed,
)
from .masks import MOST_CLASSES, VOID, Colour, Legend, Pairs
from .preprocess import IMAGENET_MEAN, IMAGENET_STD, Mode

_IMAGES, _MASKS = "images", "masks"
_VALIDATION = ("val", "valid", "validation", "dev")
_VOID_NAME = "void"  # of the colours that do not count

Colours = Mapping[str, Sequence[int] | Sequence[Sequence[int]]]


@register("mask_folder")
def mask_folder(
    *,
    path: str | Path,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    void: int | None = 255,
    mapping: Mapping[int, int | None] | None = None,
    colours: Colours | None = None,
    mode: Mode = "RGB",
    image_size: Sequence[int] = (256, 256),
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    images: int | None = None,
    validation: float | None = None,
    calibration: float = 0.1,
    test: float = 0.15,
    in_memory: bool | None = None,
) -> Splits:
    """Your own images with masks: a folder ``images`` and one ``masks``, with files of one name.

    A mask is a PNG or the like, gray or with a palette, whose values are class numbers; the
    extensions of the two may differ. Where the folder has a folder ``train`` with those two in it,
    that and ``val`` (or valid, validation, dev) and ``test`` are the official splits, used as
    `offramp.data.parts` says; without it the images are split in four. The targets are maps, int64
    [N, H, W], -100 where a position does not count.

    Args:
        path: the folder.
        num_classes: number of classes, C; not needed beside names or colours.
        class_names: names of the classes, by number.
        void: the value where a position does not count; None: every value is a class.
        mapping: class number by value, where values are no class numbers; None for one that does
            not count. A value that is neither here nor ``void`` is an error.
        colours: for masks that are pictures: the colour (red, green, blue) of each class by name,
            or several colours, in the order of the classes. Those of the name ``void`` do not
            count; any other is an error.
        mode: ``RGB``, or ``L`` for gray images.
        image_size: height and width of inputs and maps, in pixels; whole images are squashed to it.
        mean: for normalisation; by default ImageNet's, or their mean for gray.
        std: likewise.
        seed: of what is drawn.
        images: keep so many images in train; see `offramp.data.map_parts.MapDraw`.
        validation: share of train; by default the official split, else a tenth.
        calibration: share of train.
        test: share of train, where no official split can be the test part.
        in_memory: hold decoded images in memory; by default where they take 2 GB at most.

    Raises:
        DataError: if the folder is laid out differently, an image or mask has no partner or another
            size, or a mask holds something unknown; the file is named.
        MissingExtraError: if Pillow is not installed.

    Example:
        >>> create_dataset("mask_folder", path="cells", class_names=["plasma", "nucleus"])
    """
    draw = MapDraw(seed, images, validation, calibration, test, in_memory)
    names = _names(num_classes, class_names, colours)
    legend = _legend(names, void, mapping, colours)
    prepared = Prepared(squashed(image_size, *for_mode(mean, std, mode), mode), legend)
    official = _official(path)
    if colours is None and mapping is None and len(names) == 2:
        _check_white(official.train, void)
    return assemble_maps(official, names, prepared, draw)


# ------------------------------------------------------------------------ files
def _official(path: str | Path) -> OfficialMaps:
    folder = local_folder(path)
    if folder is None:  # a hub id has no such folders
        raise DataError(f"wanted path as a folder, got {path!r}: no such folder")
    if _has_both(folder):
        return OfficialMaps(_pairs(folder))
    if not _has_both(folder / "train"):
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        raise DataError(
            f"wanted the folders {_IMAGES} and {_MASKS} in {folder}, or train, and val and test if "
            f"there are, with those two each; got the folders {inside}"
        )
    validation = next((name for name in _VALIDATION if _has_both(folder / name)), None)
    return OfficialMaps(
        _pairs(folder / "train"),
        None if validation is None else _pairs(folder / validation),
        _pairs(folder / "test") if _has_both(folder / "test") else None,
    )


def _has_both(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in (_IMAGES, _MASKS))


def _pairs(folder: Path) -> Pairs:
    return pair_folders(folder / _IMAGES, folder / _MASKS)


# ------------------------------------------------------------------------ classes
def _names(num: int | None, given: Sequence[str] | None, colours: Colours | None) -> list[str]:
    """Names of the classes, by number."""
    if isinstance(given, str) or (given is not None and not isinstance(given, Sequence)):
        raise DataError(f"wanted class_names as a list of names, got {given!r}")
    if colours is not None and not isinstance(colours, Mapping):
        raise DataError(f"wanted colours as a mapping from names to colours, got {colours!r}")
    coloured = None if colours is None else [name for name in colours if name != _VOID_NAME]
    names = given if given is not None else coloured
    if names is None and num is None:
        raise DataError("wanted num_classes=, class_names= or colours=, got none of them")
    if names is None:
        few = num if isinstance(num, int) and num <= MOST_CLASSES else 0
        names = [str(number) for number in range(few)]
    names = [str(name) for name in names]
    if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names):
        came = num if given is None and coloured is None else names
        raise DataError(f"wanted 2 to {MOST_CLASSES} classes of different names, got {came!r}")
    if num is not None and num != len(names):
        raise DataError(f"wanted num_classes={num!r} names of classes, got {len(names)}")
    if coloured is not None and sorted(map(str, coloured)) != sorted(names):
        raise DataError(f"wanted colours for the classes {names}, got them for {coloured}")
    return names


def _legend(
    names: Sequence[str],
    void: int | None,
    mapping: Mapping[int, int | None] | None,
    colours: Colours | None,
) -> Legend:
    """What the values or the colours of the masks stand for."""
    if void is not None and (not _is_whole(void) or not 0 <= void < 2**16):
        raise DataError(f"wanted void as a value in 0..65535 or None, got {void!r}")
    if colours is not None:
        if mapping is not None:
            raise DataError("wanted mapping= for values or colours= for pictures, got both")
        return Legend({}, _by_colour(names, colours))
    if mapping is None and void is not None and void < len(names):
        raise DataError(
            f"wanted void as no class number, got {void}, the number of {names[void]!r}: say by "
            "mapping= which values stand for which classes"
        )
    values = {number: number for number in range(len(names))}
    values = values if mapping is None else _mapped(mapping, len(names))
    return Legend(values if void is None else {void: VOID, **values})


def _mapped(mapping: Mapping[int, int | None], num: int) -> dict[int, int]:
    """Class number by value; a file of options can only say values as text."""
    if not isinstance(mapping, Mapping) or not mapping:
        raise DataError(f"wanted mapping as class numbers by value, got {mapping!r}")
    values: dict[int, int] = {}
    for value, number in mapping.items():
        plain = str(value).isdecimal() and not isinstance(value, bool) and int(value) < 2**16
        if not plain or not (number is None or (_is_whole(number) and 0 <= number < num)):
            raise DataError(
                f"wanted mapping from values in 0..65535 to classes in 0..{num - 1} or None, got "
                f"{value!r}: {number!r}"
            )
        values[int(value)] = VOID if number is None else number
    return values


def _by_colour(names: Sequence[str], colours: Colours) -> dict[Colour, int]:
    """Class number by colour."""
    found: dict[Colour, int] = {}
    for name, given in colours.items():
        several = bool(given) and isinstance(given, Sequence) and isinstance(given[0], Sequence)
        for colour in given if several else [given]:
            red_green_blue: Any = colour
            if not _is_colour(colour) or tuple(red_green_blue) in found:
                raise DataError(
                    f"wanted colours (red, green, blue) in 0..255, each once, got {colour!r} for "
                    f"{name!r}"
                )
            number = VOID if name == _VOID_NAME else names.index(str(name))
            found[tuple(red_green_blue)] = number
    return found


def _check_white(train: Pairs, void: int | None) -> None:
    """Raise what says that masks in black and white would have no white."""
    if void and first_values(train) == {0, void}:
        raise DataError(
            f"wanted masks of the classes 0 and 1, got only the values 0 and {void}, which does "
            f"not count: if it is a class, give mapping={{0: 0, {void}: 1}}"
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_colour(colour: Any) -> bool:
    listed = isinstance(colour, Sequence) and not isinstance(colour, str)
    parts: list[Any] = list(colour) if listed else []
    return len(parts) == 3 and all(_is_whole(part) and 0 <= part <= 255 for part in parts)
