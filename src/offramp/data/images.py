"""Images with their classes: in memory as bytes, or decoded when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from .encoded import Advance, Encoded, decode, decode_all
from .preprocess import Preprocess

_IN_MEMORY = 2_000_000_000  # bytes of a whole data set up to which it is held decoded


class Images(Dataset[Any]):
    """Decoded images in memory, one byte per channel; normalised when they are read.

    Args:
        pixels: uint8 [N, C, H, W].
        targets: class numbers [N].
        preprocess: what normalises them; its shape is that of the pixels.

    Raises:
        DataError: if the parts do not fit together.

    Example:
        >>> inputs, targets = images.batch(torch.arange(32))
        >>> inputs.shape, targets.shape
        (torch.Size([32, 3, 32, 32]), torch.Size([32]))
    """

    def __init__(self, pixels: Tensor, targets: Tensor, preprocess: Preprocess) -> None:
        wanted = (len(targets), *preprocess.shape)
        if pixels.dtype != torch.uint8 or tuple(pixels.shape) != wanted:
            came = f"{pixels.dtype} {tuple(pixels.shape)}"
            raise DataError(f"wanted pixels torch.uint8 {wanted}, got {came}")
        self.pixels, self.targets, self.preprocess = pixels, _labels(targets), preprocess

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:  # float32 [C, H, W]
        """One image, normalised, and its class."""
        return self.preprocess.normalise(self.pixels[row]), int(self.targets[row])

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:  # float32 [n, C, H, W], [n]
        """Some images, normalised at once, and their classes."""
        rows = torch.as_tensor(rows)
        return self.preprocess.normalise(self.pixels[rows]), self.targets[rows]

    def raw(self, rows: Tensor | Sequence[int]) -> Tensor:  # uint8 [n, C, H, W]
        """Some images, for display."""
        return self.pixels[torch.as_tensor(rows)]

    def take(self, rows: Tensor | Sequence[int]) -> Images:
        """Some of the images, as a data set of its own; `rows` are indices [n] or a mask [N]."""
        rows = torch.as_tensor(rows)
        return Images(self.pixels[rows], self.targets[rows], self.preprocess)


class ImageFiles(Dataset[Any]):
    """Images that are decoded each time they are read, always to the same pixels.

    For those that do not fit into memory; a DataLoader with workers reads them.

    Args:
        encoded: compressed images.
        rows: which of them these are, [N].
        targets: class numbers [N].
        preprocess: what they become.

    Raises:
        DataError: if rows and targets differ in number; on reading, if an image is missing or
            damaged, with its name.
    """

    def __init__(
        self, encoded: Encoded, rows: Tensor, targets: Tensor, preprocess: Preprocess
    ) -> None:
        if len(rows) != len(targets):
            raise DataError(f"wanted one target per row, got {len(rows)} and {len(targets)}")
        self.encoded, self.rows = encoded, rows
        self.targets, self.preprocess = _labels(targets), preprocess

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:  # float32 [C, H, W]
        """One image, normalised, and its class."""
        pixels = decode(self.encoded, int(self.rows[row]), self.preprocess)
        return self.preprocess.normalise(pixels), int(self.targets[row])

    def raw(self, rows: Tensor | Sequence[int]) -> Tensor:  # uint8 [n, C, H, W]
        """Some images, for display."""
        return decode_all(self.encoded, self.rows[torch.as_tensor(rows)], self.preprocess)

    def take(self, rows: Tensor | Sequence[int]) -> ImageFiles:
        """Some of the images, as a data set of its own; `rows` are indices [n] or a mask [N]."""
        rows = torch.as_tensor(rows)
        return ImageFiles(self.encoded, self.rows[rows], self.targets[rows], self.preprocess)

    def decoded(self, advance: Advance = lambda num: None) -> Images:
        """The same images in memory.

        Args:
            advance: told how many more are decoded.

        Raises:
            DataError: if an image is missing or damaged; it is named.
        """
        pixels = decode_all(self.encoded, self.rows, self.preprocess, advance)
        return Images(pixels, self.targets, self.preprocess)


def fit_in_memory(num: int, preprocess: Preprocess) -> bool:
    """Whether so many decoded images are small enough to be held: 2 GB at most."""
    channels, height, width = preprocess.shape
    return num * channels * height * width <= _IN_MEMORY


def _labels(targets: Tensor) -> Tensor:  # int64 [N]
    if targets.dim() != 1 or targets.dtype.is_floating_point or targets.dtype.is_complex:
        came = f"{targets.dtype} {tuple(targets.shape)}"
        raise DataError(f"wanted targets [N] of class numbers, got {came}")
    return targets.long()
