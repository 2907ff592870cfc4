"""The digit scans that come with scikit-learn: real data, and nothing to download."""

from __future__ import annotations

import torch

from ..errors import extra
from .base import Splits, register
from .splits import split

_FRACTIONS = (0.5, 0.1, 0.2, 0.2)  # 1797 images: calibration and test need a few hundred each


@register("digits")
def digits(*, seed: int = 0) -> Splits:
    """Handwritten digits, 1797 images [N, 1, 8, 8] of numbers in [0, 1], ten classes.

    From the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998,
    UCI), as scikit-learn ships it.

    Args:
        seed: of the draw of the four parts.

    Raises:
        MissingExtraError: if scikit-learn is not installed.
    """
    with extra("data"):
        from sklearn.datasets import load_digits
    pixels, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(pixels).float().div(16).view(-1, 1, 8, 8)  # [N, 1, 8, 8]
    targets = torch.from_numpy(labels).long()  # [N]
    parts = split(targets, fractions=_FRACTIONS, seed=seed)
    return Splits.of(inputs, targets, parts, tuple(str(digit) for digit in range(10)))
