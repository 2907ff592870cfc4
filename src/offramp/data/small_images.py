"""The small classics, from the Hugging Face hub or a local folder with the same columns.

Mean and standard deviation are those of the official training split on a scale where white is 1, as
they are commonly published to four digits: for MNIST by PyTorch's examples, for the others by many
training programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .base import Splits, register
from .hub import Columns, check_size, joined, load, read
from .parts import Draw, assemble
from .preprocess import Mode, Preprocess, frozen


class _Known(NamedTuple):
    """A data set of the hub."""

    hub_id: str
    columns: Columns
    mode: Mode
    mean: tuple[float, ...]
    std: tuple[float, ...]
    subset: str | None = None


_MNIST = _Known(
    "ylecun/mnist",
    Columns("image", "label"),
    "L",
    mean=(0.1307,),
    std=(0.3081,),
)
_FASHION_MNIST = _Known(
    "zalando-datasets/fashion_mnist",
    Columns("image", "label"),
    "L",
    mean=(0.2860,),
    std=(0.3530,),
)
_SVHN = _Known(
    "ufldl-stanford/svhn",
    Columns("image", "label"),
    "RGB",
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    subset="cropped_digits",
)
_CIFAR10 = _Known(
    "uoft-cs/cifar10",
    Columns("img", "label"),
    "RGB",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
_CIFAR100 = _Known(
    "uoft-cs/cifar100",
    Columns("img", "fine_label"),
    "RGB",
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


@register("mnist")
def mnist(
    *,
    path: str | Path | None = None,
    image_size: int = 28,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float = 0.05,
    calibration: float = 0.05,
    in_memory: bool | None = None,
) -> Splits:
    """MNIST: 70,000 handwritten digits, gray, 28 x 28 pixels, ten classes (LeCun et al. 1998).

    60,000 are the official training split; 10,000 are the test part.

    Args:
        path: local folder or hub id; by default ``ylecun/mnist``.
        image_size: height and width of the inputs, in pixels; the images have 28.
        mean: for normalisation; by default of the training images.
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
    return _create(_MNIST, path, image_size, (mean, std), draw)


@register("fashion_mnist")
def fashion_mnist(
    *,
    path: str | Path | None = None,
    image_size: int = 28,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float = 0.05,
    calibration: float = 0.05,
    in_memory: bool | None = None,
) -> Splits:
    """Fashion-MNIST: 70,000 pieces of clothing, gray, 28 x 28, ten classes (Xiao et al. 2017).

    60,000 are the official training split; 10,000 are the test part.

    Args:
        path: local folder or hub id; by default ``zalando-datasets/fashion_mnist``.
        image_size: height and width of the inputs, in pixels; the images have 28.
        mean: for normalisation; by default of the training images.
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
    return _create(_FASHION_MNIST, path, image_size, (mean, std), draw)


@register("svhn")
def svhn(
    *,
    path: str | Path | None = None,
    image_size: int = 32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float = 0.05,
    calibration: float = 0.05,
    in_memory: bool | None = None,
    extra: bool = False,
) -> Splits:
    """Street View House Numbers: digits cut out of photographs, 32 x 32 (Netzer et al. 2011).

    73,257 are the official training split, 26,032 the test part; 531,131 more are easier.

    Args:
        path: local folder or hub id; by default ``ufldl-stanford/svhn``.
        image_size: height and width of the inputs, in pixels; the images have 32.
        mean: for normalisation; by default of the training images.
        std: likewise.
        seed: of what is drawn.
        images_per_class: keep so many images of each class in train; see `offramp.data.parts.Draw`.
        validation: share of train.
        calibration: share of train.
        in_memory: hold decoded images in memory; by default where they take 2 GB at most.
        extra: learn from the official extra split too.

    Raises:
        DataError: if the data set cannot be read.
        MissingExtraError: if ``datasets`` or Pillow is not installed.
    """
    draw = Draw(seed, images_per_class, validation, calibration, in_memory=in_memory)
    return _create(_SVHN, path, image_size, (mean, std), draw, more="extra" if extra else None)


@register("cifar10")
def cifar10(
    *,
    path: str | Path | None = None,
    image_size: int = 32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float = 0.1,
    calibration: float = 0.1,
    in_memory: bool | None = None,
) -> Splits:
    """CIFAR-10: 60,000 small photographs, 32 x 32 pixels, ten classes (Krizhevsky 2009).

    50,000 are the official training split; 10,000 are the test part.

    Args:
        path: local folder or hub id; by default ``uoft-cs/cifar10``.
        image_size: height and width of the inputs, in pixels; the images have 32.
        mean: for normalisation; by default of the training images.
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
    return _create(_CIFAR10, path, image_size, (mean, std), draw)


@register("cifar100")
def cifar100(
    *,
    path: str | Path | None = None,
    image_size: int = 32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float = 0.1,
    calibration: float = 0.1,
    in_memory: bool | None = None,
) -> Splits:
    """CIFAR-100: 60,000 small photographs, 32 x 32 pixels, a hundred classes (Krizhevsky 2009).

    50,000 are the official training split; 10,000 are the test part.

    Args:
        path: local folder or hub id; by default ``uoft-cs/cifar100``.
        image_size: height and width of the inputs, in pixels; the images have 32.
        mean: for normalisation; by default of the training images.
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
    return _create(_CIFAR100, path, image_size, (mean, std), draw)


def _create(
    known: _Known,
    path: str | Path | None,
    image_size: int,
    normal: tuple[Sequence[float] | None, Sequence[float] | None],
    draw: Draw,
    *,
    more: str | None = None,
) -> Splits:
    """The data set as asked for; `more` names a split to learn from as well."""
    check_size(image_size)
    mean, std = (
        own if given is None else frozen(given)
        for given, own in zip(normal, (known.mean, known.std), strict=True)
    )
    preprocess = Preprocess((image_size, image_size), None, mean, std, known.mode)
    columns = f"the columns {known.columns.image} and {known.columns.label}"
    found = load(path, known.hub_id, subset=known.subset, columns=columns)
    if more is not None:
        found = joined(found, more)
    official, class_names = read(found, known.columns)
    return assemble(official, class_names, preprocess, draw)
