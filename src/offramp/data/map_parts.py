"""From the splits of images and masks that a data set comes with to the four parts of offramp.

Which split becomes which part is as for labels, see `offramp.data.parts`. A map has no class of its
own, so what is drawn from train is drawn by seed alone: images one by one, or stretches of those
that follow one another, as the frames of a video do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from .base import Splits
from .encoded import Paths, progress
from .folder import image_files
from .hub import Column, split_names
from .images import fit_in_memory
from .maps import MapFiles, Maps
from .masks import Legend, Pairs, values_of
from .parts import Shares, check_draw, rest_of, used
from .preprocess import Mode, Preprocess, frozen
from .splits import Parts, first_per_class, split

_LOOKED_AT = 8


class OfficialMaps(NamedTuple):
    """The splits that a data set comes with; None where there is none, or without masks."""

    train: Pairs
    validation: Pairs | None = None
    test: Pairs | None = None


class Prepared(NamedTuple):
    """What images and masks become."""

    preprocess: Preprocess
    legend: Legend


@dataclass(frozen=True)
class MapDraw:
    """Which images of the official splits go where, and how they are held.

    Attributes:
        seed: of what is drawn.
        images: keep so many images in the training part, the first by seed, so that a larger
            number keeps those of a smaller one. The other parts stay as they are. None keeps all.
        validation: share of the official training split that becomes the validation part. None:
            the official validation split where that is free, else a tenth.
        calibration: likewise.
        test: likewise, where no official split can be the test part.
        in_memory: hold decoded images in memory. None: where they take 2 GB at most.
        together: how many images that follow one another in train go into the same part. 1 draws
            them one by one; frames of a video are alike, and drawn so, calibration would be of
            images that the weights have all but seen.

    Raises:
        DataError: if a value is not as described.
    """

    seed: int = 0
    images: int | None = None
    validation: float | None = None
    calibration: float = 0.1
    test: float = 0.15
    in_memory: bool | None = None
    together: int = 1

    def __post_init__(self) -> None:
        check_draw(self, "images")


def assemble_maps(
    official: OfficialMaps, class_names: Sequence[str], prepared: Prepared, draw: MapDraw
) -> Splits:
    """The four parts of a data set of images and masks.

    Args:
        official: the splits that it comes with.
        class_names: names of the classes, by number.
        prepared: what images and masks become; the same in every part.
        draw: which images go where.

    Raises:
        DataError: if there are too few images for the parts, or a pair cannot be read.
    """
    train = official.train
    validation, test, shares = used(official.validation, official.test, draw)
    parts = _drawn(len(train.images), shares, draw)
    chosen = [
        MapFiles(train, parts.train, *prepared),
        MapFiles(*_own(train, parts.validation, validation), *prepared),
        MapFiles(train, parts.calibration, *prepared),
        MapFiles(*_own(train, parts.test, test), *prepared),
    ]
    for part, name in zip(chosen, Parts._fields, strict=True):
        if not len(part):
            raise DataError(f"wanted at least one image with a mask in the {name} part, got none")
    held = _held(chosen, draw.in_memory)
    return Splits(*held, class_names=tuple(class_names), preprocess=prepared.preprocess)


def squashed(
    image_size: Sequence[int], mean: Sequence[float], std: Sequence[float], mode: Mode = "RGB"
) -> Preprocess:
    """Preprocessing of images with masks: the whole image, squashed to (height, width).

    Raises:
        DataError: if a value is not as `Preprocess` wants it.
    """
    if isinstance(image_size, str) or not isinstance(image_size, Sequence):
        raise DataError(f"wanted image_size as (height, width) in pixels, got {image_size!r}")
    return Preprocess(frozen(image_size), None, frozen(mean), frozen(std), mode)


def read_columns(found: Mapping[str, Any], image: str, mask: str) -> OfficialMaps:
    """The official splits of a table with a column of images and one of masks.

    Args:
        found: the splits by name, as `offramp.data.hub.load` gives them.
        image: the column of images.
        mask: the column of masks.

    Raises:
        DataError: if a column or the training split is missing.
    """
    train, validation, test = split_names(found)
    others = [
        None if name is None else _columns(found[name], image, mask, name)
        for name in (validation, test)
    ]
    return OfficialMaps(_columns(found[train], image, mask, train), *others)


def pair_files(images: Mapping[str, str], masks: Mapping[str, str]) -> Pairs:
    """Image files with their masks, in the order of what names them.

    Args:
        images: path by name.
        masks: likewise, under the same names.

    Raises:
        DataError: if one has no partner; it is named.
    """
    for what, other, own, partners in (
        ("mask", "image", images, masks),
        ("image", "mask", masks, images),
    ):
        alone = sorted(set(own) - set(partners))
        if alone:
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            raise DataError(
                f"wanted a {what} for every {other}, got none for {own[alone[0]]}{more}"
            )
    names = sorted(images)
    return Pairs(Paths([images[name] for name in names]), Paths([masks[name] for name in names]))


def pair_folders(images: Path, masks: Path) -> Pairs:
    """The images below a folder with those below another, by path without extension.

    Raises:
        DataError: if there are none, one has no partner, or two have one name.
    """
    pairs = pair_files(_named(images), _named(masks))
    if not len(pairs.images):
        raise DataError(f"wanted images in {images}, got none")
    return pairs


def first_values(pairs: Pairs) -> set[int]:
    """The values in a few masks, evenly spread: enough to see by what numbers they go."""
    num = len(pairs.masks)
    return values_of(pairs, torch.linspace(0, num - 1, min(num, _LOOKED_AT)).long().tolist())


def _named(folder: Path) -> dict[str, str]:
    """Paths of the images below a folder, at any depth, by path without extension."""
    found: dict[str, str] = {}
    for file in image_files(folder):
        name = str(Path(file).relative_to(folder).with_suffix(""))
        if name in found:
            raise DataError(f"wanted one file of a name, got {found[name]} and {file}")
        found[name] = file
    return found


def _columns(table: Any, image: str, mask: str, split: str) -> Pairs:
    if missing := {image, mask} - set(table.features):
        raise DataError(
            f"wanted the columns {image!r} and {mask!r} in the split {split!r}, got "
            f"{list(table.features)}, without {sorted(missing)}"
        )
    return Pairs(Column(table, image, split), Column(table, mask, split))


def _drawn(num: int, shares: Shares, draw: MapDraw) -> Parts:
    """Rows of the training split for each part; shares of validation, calibration and test."""
    rest = rest_of(shares)
    wanted = 1 + sum(share > 0 for share in shares)
    if num < wanted:
        raise DataError(
            f"wanted {wanted} images with masks in train, one for each part drawn, got {num}"
        )
    sizes = map(len, split(torch.zeros(num, dtype=torch.long), fractions=(rest, *shares)))
    parts = _in_stretches(list(sizes), draw)
    if draw.images is None:
        return parts
    if draw.images > len(parts.train):
        raise DataError(f"wanted images={draw.images} in the training part, got {len(parts.train)}")
    kept = first_per_class(torch.zeros(len(parts.train)), draw.images, seed=draw.seed)
    return parts._replace(train=parts.train[kept])


def _in_stretches(sizes: list[int], draw: MapDraw) -> Parts:
    """Parts of these sizes, of stretches in an order drawn by seed; two parts may share one."""
    stretches = torch.arange(sum(sizes)).split(draw.together)
    generator = torch.Generator().manual_seed(draw.seed)
    order = torch.randperm(len(stretches), generator=generator).tolist()
    rows = torch.cat([stretches[number] for number in order])
    return Parts(*[part.sort().values for part in rows.split(sizes)])


def _own(train: Pairs, rows: Tensor, own: Pairs | None) -> tuple[Pairs, Tensor]:
    """The official split whole, or the rows drawn from train."""
    return (train, rows) if own is None else (own, torch.arange(len(own.images)))


def _held(parts: Sequence[MapFiles], in_memory: bool | None) -> list[Maps | MapFiles]:
    total, preprocess = sum(map(len, parts)), parts[0].preprocess
    channels = preprocess.channels  # and a mask is one more
    fits = fit_in_memory(-(-total * (channels + 1) // channels), preprocess)
    if not (fits if in_memory is None else in_memory):
        return list(parts)
    with progress(total) as advance:
        return [part.decoded(advance) for part in parts]
