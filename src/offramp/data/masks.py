"""Masks: images whose pixels say which class is there, and what the values in them stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from ..errors import DataError
from .encoded import Encoded, opened
from .preprocess import Preprocess, upright

if TYPE_CHECKING:
    from PIL.Image import Image

VOID = 255  # in memory, where a position does not count
IGNORED = -100  # of a target, where a position does not count, as in torch's cross-entropy
MOST_CLASSES = 254  # that one byte holds beside VOID and _UNKNOWN

Colour = tuple[int, int, int]

_UNKNOWN = 254
_VALUES = 2**16  # of a PNG
_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


class Pairs(NamedTuple):
    """The images of one split and their masks, both compressed, row by row."""

    images: Encoded
    masks: Encoded


@dataclass(frozen=True)
class Legend:
    """What the values in the files of masks stand for.

    A mask is an image of one channel (gray, palette or 16 bits), or of several equal ones; the
    number of a pixel is the value, which for a palette is the index. Anything that the legend does
    not have is an error, so that no class is lost in silence.

    Attributes:
        values: class number by value, 0..65535; `VOID` where the position does not count.
        colours: likewise by (red, green, blue), for masks that are pictures. None: those are
            refused.

    Example:
        >>> Legend({0: 0, 1: 1, 255: VOID}).read(PIL.Image.open("mask.png"))
    """

    values: Mapping[int, int]
    colours: Mapping[Colour, int] | None = None

    def read(self, image: Image) -> Image:
        """The mask in class numbers, an image of mode L.

        Raises:
            DataError: if the image is no mask, or holds something that the legend does not have.
        """
        from PIL import Image

        if image.format == "JPEG":
            raise DataError("wanted a mask in a format that keeps values, such as PNG, got JPEG")
        if self.colours is None:
            return Image.fromarray(self._from_values(image))
        return Image.fromarray(self._from_colours(np.asarray(image.convert("RGB"))))

    def _from_values(self, image: Image) -> Any:  # uint8 [H, W]
        if image.mode in _ONE_CHANNEL:
            values = np.asarray(image)
        elif image.mode in ("RGB", "RGBA"):
            channels = np.asarray(image)
            values = channels[..., 0]
            if any((channels[..., other] != values).any() for other in (1, 2)):
                raise DataError(
                    "wanted a mask of class numbers, gray or with a palette, got one of colours, "
                    "for which there is no table"
                )
        else:
            raise DataError(f"wanted a mask of one channel, got mode {image.mode}")
        if values.dtype == np.int32 and (values.min() < 0 or values.max() >= _VALUES):
            raise DataError(f"wanted a mask with values in 0..{_VALUES - 1}, got larger ones")
        classes = self._by_value[values.astype(np.uint8) if image.mode == "1" else values]
        unknown = classes == _UNKNOWN
        if unknown.any():
            raise DataError(_said(np.unique(values[unknown]).tolist(), sorted(self.values)))
        return classes

    def _from_colours(self, pixels: Any) -> Any:  # uint8 [H, W, 3] -> uint8 [H, W]
        wide = pixels.astype(np.int32)
        codes = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        known, classes = self._by_colour
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        unknown = known[places] != codes
        if unknown.any():
            came = [_colour(code) for code in np.unique(codes[unknown]).tolist()]
            raise DataError(_said(came, [_colour(code) for code in known.tolist()]))
        return classes[places]

    @cached_property
    def _by_value(self) -> Any:  # uint8 [65536]
        table = np.full(_VALUES, _UNKNOWN, dtype=np.uint8)
        table[list(self.values)] = list(self.values.values())
        return table

    @cached_property
    def _by_colour(self) -> tuple[Any, Any]:  # int32 [n] rising, uint8 [n]
        colours = self.colours or {}
        codes = {red << 16 | green << 8 | blue: k for (red, green, blue), k in colours.items()}
        known = sorted(codes)
        classes = [codes[code] for code in known]
        return np.array(known, dtype=np.int32), np.array(classes, dtype=np.uint8)


def decode_pair(
    pairs: Pairs, row: int, preprocess: Preprocess, legend: Legend
) -> tuple[Tensor, Tensor]:  # uint8 [C, H, W], uint8 [H, W]
    """One image and its mask, both squashed and cut in the same way.

    Raises:
        DataError: if one is missing or damaged, they differ in size, or the mask holds something
            that the legend does not have; it is named.
    """
    contents = [encoded.read([row])[0] for encoded in pairs]
    return decode_contents(pairs, row, contents, preprocess, legend)


def decode_contents(
    pairs: Pairs, row: int, contents: Sequence[bytes], preprocess: Preprocess, legend: Legend
) -> tuple[Tensor, Tensor]:  # uint8 [C, H, W], uint8 [H, W]
    """As `decode_pair`, from the contents of the two files."""
    sizes: list[tuple[int, int]] = []

    def picture(image: Image) -> Tensor:
        sizes.append(upright(image).size)
        return preprocess.pixels(image)

    def mask(image: Image) -> Tensor:
        sizes.append(image.size)
        if sizes[0] != sizes[1]:
            shown = [f"{width} x {height}" for width, height in sizes]
            raise DataError(
                f"wanted a mask as large as its image {pairs.images.name(row)}, {shown[0]} pixels, "
                f"got {shown[1]}"
            )
        return preprocess.mask(legend.read(image))

    pixels = opened(contents[0], lambda: pairs.images.name(row), picture)
    return pixels, opened(contents[1], lambda: pairs.masks.name(row), mask)


def values_of(pairs: Pairs, rows: Sequence[int]) -> set[int]:
    """The values that some masks hold, before any legend; none of masks that hold colours."""
    found: set[int] = set()
    for row in rows:
        content = pairs.masks.read([row])[0]
        found |= opened(content, lambda r=row: pairs.masks.name(r), _values)
    return found


def _values(image: Image) -> set[int]:
    pixels = np.asarray(image)
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if (pixels[..., :1] == pixels[..., 1:3]).all() else pixels[:0, 0, 0]
    return set(np.unique(pixels).tolist())


def _said(came: Sequence[Any], known: Sequence[Any]) -> str:
    """What is wrong with values that a legend does not have."""
    few = ", ".join(map(str, came[:5])) + (", ..." if len(came) > 5 else "")
    return f"wanted a mask of the values {_ranges(known)}, got {few}"


def _ranges(known: Sequence[Any]) -> str:
    """Numbers, less those between the ends of a run: 0..18, 255."""
    runs: list[list[Any]] = []
    for value in known:
        if runs and isinstance(value, int) and value == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], value]
        else:
            runs.append([value])
    return ", ".join("..".join(map(str, run)) for run in runs)


def _colour(code: int) -> str:
    return str((code >> 16, code >> 8 & 255, code & 255))
