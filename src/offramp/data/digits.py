"""The digit scans that come with scikit-learn: real data, and nothing to download."""

from __future__ import annotations

import torch

from ..errors import extra
from .base import Splits, register
from .parts import Draw, drawn
from .preprocess import Preprocess


@register("digits")
def digits(
    *,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float = 0.1,
    calibration: float = 0.2,
    test: float = 0.2,
) -> Splits:
    """Handwritten digits, 1797 images [N, 1, 8, 8] of numbers in [0, 1], ten classes.

    From the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998,
    UCI), as scikit-learn ships it. They are few, so that calibration and test take a fifth each.

    Args:
        seed: of the draw of the four parts.
        images_per_class: keep so many images of each class in train; see `offramp.data.parts.Draw`.
        validation: share of all.
        calibration: share of all.
        test: share of all.

    Raises:
        DataError: if an option is out of range.
        MissingExtraError: if scikit-learn is not installed.
    """
    draw = Draw(seed, images_per_class, validation, calibration, test)
    with extra("data"):
        from sklearn.datasets import load_digits
    pixels, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(pixels).float().div(16).view(-1, 1, 8, 8)  # [N, 1, 8, 8]
    targets = torch.from_numpy(labels).long()  # [N]
    names = [str(digit) for digit in range(10)]
    parts = drawn(targets, (validation, calibration, test), names, draw)
    preprocess = Preprocess((8, 8), None, (0.0,), (1.0,), "L")
    return Splits.of(inputs, targets, parts, names, preprocess=preprocess)
