"""Images whose targets are maps of classes: in memory as bytes, or decoded when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from .encoded import Advance
from .masks import IGNORED, VOID, Legend, Pairs, decode_contents, decode_pair
from .preprocess import Preprocess

_CHUNK = 16  # pairs read at a time: street scenes have megabytes


class Maps(Dataset[Any]):
    """Decoded images and masks in memory, one byte per channel; normalised when they are read.

    Args:
        pixels: uint8 [N, C, H, W].
        masks: uint8 [N, H, W], class numbers; 255 where a position does not count.
        preprocess: what normalises the images; its shape is that of the pixels.

    Raises:
        DataError: if the parts do not fit together.

    Example:
        >>> inputs, targets = maps.batch(torch.arange(8))
        >>> inputs.shape, targets.shape
        (torch.Size([8, 3, 180, 240]), torch.Size([8, 180, 240]))
    """

    def __init__(self, pixels: Tensor, masks: Tensor, preprocess: Preprocess) -> None:
        num, (_, height, width) = len(masks), preprocess.shape
        for name, came, wanted in (
            ("pixels", pixels, (num, *preprocess.shape)),
            ("masks", masks, (num, height, width)),
        ):
            if came.dtype != torch.uint8 or tuple(came.shape) != wanted:
                raise DataError(
                    f"wanted {name} torch.uint8 {wanted}, got {came.dtype} {tuple(came.shape)}"
                )
        self.pixels, self.masks, self.preprocess = pixels, masks, preprocess

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:  # float32 [C, H, W], int64 [H, W]
        """One image, normalised, and its classes; -100 where a position does not count."""
        return self.preprocess.normalise(self.pixels[row]), _targets(self.masks[row])

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:  # float32 [n, C, H, W], [n, H, W]
        """Some images, normalised at once, and their classes; -100 where it does not count."""
        rows = torch.as_tensor(rows)
        return self.preprocess.normalise(self.pixels[rows]), _targets(self.masks[rows])

    def raw(self, rows: Tensor | Sequence[int]) -> Tensor:  # uint8 [n, C, H, W]
        """Some images, for display."""
        return self.pixels[torch.as_tensor(rows)]

    def take(self, rows: Tensor | Sequence[int]) -> Maps:
        """Some of the images, as a data set of its own; `rows` are indices [n] or a mask [N]."""
        rows = torch.as_tensor(rows)
        return Maps(self.pixels[rows], self.masks[rows], self.preprocess)


class MapFiles(Dataset[Any]):
    """Images and masks that are decoded each time they are read, always to the same values.

    For those that do not fit into memory; a DataLoader with workers reads them.

    Args:
        pairs: compressed images and masks.
        rows: which of them these are, [N].
        preprocess: what the images become; masks are squashed and cut likewise.
        legend: what the values of the masks stand for.

    Raises:
        DataError: on reading, if an image or a mask is missing, damaged or of another size than the
            other, or a mask holds an unknown value, with its name.
    """

    def __init__(self, pairs: Pairs, rows: Tensor, preprocess: Preprocess, legend: Legend) -> None:
        self.pairs, self.rows = pairs, rows
        self.preprocess, self.legend = preprocess, legend

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:  # float32 [C, H, W], int64 [H, W]
        """One image, normalised, and its classes; -100 where a position does not count."""
        pixels, mask = decode_pair(self.pairs, int(self.rows[row]), self.preprocess, self.legend)
        return self.preprocess.normalise(pixels), _targets(mask)

    @property
    def masks(self) -> Tensor:  # uint8 [N, H, W]
        """All masks, decoded now; 255 where a position does not count. Take some rows first."""
        return self.decoded().masks

    def raw(self, rows: Tensor | Sequence[int]) -> Tensor:  # uint8 [n, C, H, W]
        """Some images, for display."""
        return self.take(rows).decoded().pixels

    def take(self, rows: Tensor | Sequence[int]) -> MapFiles:
        """Some of the images, as a data set of its own; `rows` are indices [n] or a mask [N]."""
        chosen = self.rows[torch.as_tensor(rows)]
        return MapFiles(self.pairs, chosen, self.preprocess, self.legend)

    def decoded(self, advance: Advance = lambda num: None) -> Maps:
        """The same images and masks in memory.

        Args:
            advance: told how many more are decoded.

        Raises:
            DataError: as on reading.
        """
        channels, height, width = self.preprocess.shape
        pixels = torch.empty((len(self), channels, height, width), dtype=torch.uint8)
        masks = torch.empty((len(self), height, width), dtype=torch.uint8)
        for start in range(0, len(self), _CHUNK):
            chunk = self.rows[start : start + _CHUNK].tolist()
            contents = zip(*[encoded.read(chunk) for encoded in self.pairs], strict=True)
            for i, (row, both) in enumerate(zip(chunk, contents, strict=True), start):
                pixels[i], masks[i] = decode_contents(
                    self.pairs, row, both, self.preprocess, self.legend
                )
            advance(len(chunk))
        return Maps(pixels, masks, self.preprocess)


def _targets(masks: Tensor) -> Tensor:  # uint8 [*, H, W] -> int64 of the same shape
    return masks.long().masked_fill_(masks == VOID, IGNORED)
