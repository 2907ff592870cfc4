"""From the splits that a data set comes with to the four parts of offramp.

Test is the official test split. Where that is absent or its labels are hidden, the official
validation split is the test part, as the literature does for ImageNet and Tiny-ImageNet; where
there is neither, test is drawn from train too. Validation is the official one where a test split is
there as well, else drawn from train. Calibration is always drawn from train. What is drawn is drawn
by seed, and every class keeps its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import DataError
from .base import Splits
from .encoded import Encoded, progress
from .images import ImageFiles, Images, fit_in_memory
from .preprocess import Preprocess
from .splits import Parts, first_per_class, split

T = TypeVar("T")
Shares = tuple[float, float, float]  # of train, that are validation, calibration and test

VALIDATION = 0.1  # of train, where a data set says nothing else


class Labelled(NamedTuple):
    """The images of one official split, compressed, and their classes."""

    images: Encoded
    targets: Tensor  # [N]


class Official(NamedTuple):
    """The splits that a data set comes with; None where there is none, or without labels."""

    train: Labelled
    validation: Labelled | None = None
    test: Labelled | None = None


@dataclass(frozen=True)
class Draw:
    """Which images of the official splits go where, and how they are held.

    Attributes:
        seed: of what is drawn.
        images_per_class: keep so many images of each class in the training part, the first by
            seed, so that a larger number keeps those of a smaller one. The other parts stay as they
            are, whatever it is. None keeps all.
        validation: share of the official training split that becomes the validation part. None:
            the official validation split where that is free, else a tenth.
        calibration: likewise.
        test: likewise, where no official split can be the test part.
        in_memory: hold decoded images in memory. None: where they take 2 GB at most.

    Raises:
        DataError: if a value is not as described.
    """

    seed: int = 0
    images_per_class: int | None = None
    validation: float | None = None
    calibration: float = 0.1
    test: float = 0.15
    in_memory: bool | None = None

    def __post_init__(self) -> None:
        check_draw(self, "images_per_class")


def check_draw(draw: Any, images: str) -> None:
    """Raise what says that an option of a draw is not as it should be.

    Args:
        draw: has the attributes ``seed``, ``validation``, ``calibration``, ``test``, ``in_memory``.
        images: name of the attribute that says how many images are kept.

    Raises:
        DataError: if one is not as it should be.
    """
    for name in ("validation", "calibration", "test"):
        share = getattr(draw, name)
        if share is not None and not (isinstance(share, float) and 0 < share < 1):
            raise DataError(f"wanted {name} as a share of train in (0, 1), got {share!r}")
    if not isinstance(draw.seed, int) or isinstance(draw.seed, bool):
        raise DataError(f"wanted seed as a whole number, got {draw.seed!r}")
    num = getattr(draw, images)
    if num is not None and (not isinstance(num, int) or isinstance(num, bool) or num < 1):
        raise DataError(f"wanted {images} as a whole number from 1, got {num!r}")
    if not (draw.in_memory is None or isinstance(draw.in_memory, bool)):
        raise DataError(f"wanted in_memory as True, False or None, got {draw.in_memory!r}")


def used(validation: T | None, test: T | None, draw: Any) -> tuple[T | None, T | None, Shares]:
    """The official splits that become the parts validation and test, and what is drawn from train.

    Args:
        validation: the official split, where there is one.
        test: likewise.
        draw: has the attributes ``validation``, ``calibration`` and ``test``.

    Returns:
        The two parts, None where they are drawn, and the shares of train that are validation,
        calibration and test; 0 where there is an official split.
    """
    if test is None:
        test, validation = validation, None
    if draw.validation is not None:
        validation = None
    shares = (
        0.0 if validation is not None else draw.validation or VALIDATION,
        draw.calibration,
        0.0 if test is not None else draw.test,
    )
    return validation, test, shares


def rest_of(shares: Shares) -> float:
    """The share of the official training split that is left to learn from.

    Raises:
        DataError: if nothing is.
    """
    rest = 1 - sum(shares)
    if rest <= 1e-9:
        raise DataError(f"wanted shares of train that leave something to learn from, got {shares}")
    return rest


def assemble(
    official: Official, class_names: Sequence[str], preprocess: Preprocess, draw: Draw
) -> Splits:
    """The four parts of a data set of images.

    Args:
        official: the splits that it comes with.
        class_names: names of the classes, by number.
        preprocess: what the images become; the same in every part.
        draw: which images go where.

    Raises:
        DataError: if a class has too few images for the parts, or an image cannot be read.
    """
    train = official.train
    validation, test, shares = used(official.validation, official.test, draw)
    parts = drawn(train.targets, shares, class_names, draw)
    chosen = [
        _files(train, parts.train, preprocess),
        _files(*_own(train, parts.validation, validation), preprocess),
        _files(train, parts.calibration, preprocess),
        _files(*_own(train, parts.test, test), preprocess),
    ]
    for part, name in zip(chosen, Parts._fields, strict=True):
        _check_labels(part.targets, len(class_names), name)
    held = _held(chosen, draw.in_memory)
    return Splits(*held, class_names=tuple(class_names), preprocess=preprocess)


def drawn(targets: Tensor, shares: Shares, class_names: Sequence[str], draw: Draw) -> Parts:
    """Rows of a training split for each part.

    Args:
        targets: class numbers of its images, [N].
        shares: of validation, calibration and test; 0 where there is an official split.
        class_names: names of the classes, by number.
        draw: the seed, and how many images of each class are kept in train.

    Raises:
        DataError: if a class has too few images.
    """
    _check_labels(targets, len(class_names), "train")
    rest = rest_of(shares)
    wanted = 1 + sum(share > 0 for share in shares)
    counts = targets.bincount(minlength=len(class_names))
    _check_counts(counts, class_names, wanted, f"{wanted} images, one for each part drawn,")
    parts = split(targets, fractions=(rest, *shares), seed=draw.seed)
    num = draw.images_per_class
    if num is None:
        return parts
    labels = targets[parts.train]
    counts = labels.bincount(minlength=len(class_names))
    _check_counts(counts, class_names, num, f"images_per_class={num} in the training part,")
    return parts._replace(train=parts.train[first_per_class(labels, num, seed=draw.seed)])


def _check_counts(counts: Tensor, class_names: Sequence[str], least: int, wanted: str) -> None:
    k = int(counts.argmin())
    if counts[k] < least:
        raise DataError(
            f"wanted {wanted} for every class; class {class_names[k]!r} has {counts[k]}"
        )


def _own(train: Labelled, rows: Tensor, own: Labelled | None) -> tuple[Labelled, Tensor]:
    """The official split whole, or the rows drawn from train."""
    return (train, rows) if own is None else (own, torch.arange(len(own.targets)))


def _files(source: Labelled, rows: Tensor, preprocess: Preprocess) -> ImageFiles:
    return ImageFiles(source.images, rows, source.targets[rows], preprocess)


def _held(parts: Sequence[ImageFiles], in_memory: bool | None) -> list[Images | ImageFiles]:
    total = sum(map(len, parts))
    fits = fit_in_memory(total, parts[0].preprocess) if in_memory is None else in_memory
    if not fits:
        return list(parts)
    with progress(total) as advance:
        return [part.decoded(advance) for part in parts]


def _check_labels(targets: Tensor, num_classes: int, name: str) -> None:
    if not len(targets):
        raise DataError(f"wanted at least one image in the {name} part, got none")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"wanted labels in 0..{num_classes - 1} in the {name} part, got {low}..{high}"
        )
