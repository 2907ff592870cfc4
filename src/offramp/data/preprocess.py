"""What is done to an image before a network sees it, and how that is undone for display."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, extra

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["RGB", "L"]

# of the training images of ILSVRC 2012, as torchvision and timm publish them
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CHANNELS = {"RGB": 3, "L": 1}
_SIXTEEN = ("PNG", "PPM")  # formats of 16 bits at most, which Pillow may hold as 32
_MAX_SIDE = 8192  # a size read from a file must not make a computer run out of memory
_MAX_ASPECT = 100  # nor must an image of one pixel by a million


@dataclass(frozen=True)
class Preprocess:
    """From an image to what a network takes: size, channels and normalisation; nothing is random.

    Called on a PIL image it gives float32 [C, H, W]. The image is turned upright where its file
    says how it was held; what is transparent becomes white; 16 bits of gray become 8; colours
    become gray where the mode is ``L``.

    Attributes:
        size: height and width of what comes out, in pixels.
        resize: length of the shorter side before the middle of ``size`` is cut out; None squashes
            the image to ``size``. Both filter bilinearly, with antialiasing, as torchvision does.
        mean: one number per channel, on the scale where white is 1.
        std: likewise; must be positive.
        mode: ``RGB`` or ``L``, which has one channel of gray.

    Raises:
        DataError: if a field is not as described.

    Example:
        >>> preprocess = Preprocess((224, 224), 256, IMAGENET_MEAN, IMAGENET_STD)
        >>> preprocess(PIL.Image.open("cat.jpg")).shape
        torch.Size([3, 224, 224])
    """

    size: tuple[int, int]
    resize: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    mode: Mode = "RGB"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return _CHANNELS[self.mode]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one input, (C, H, W)."""
        return (self.channels, *self.size)

    def __call__(self, image: Image) -> Tensor:  # float32 [C, H, W]
        """The image as a network takes it.

        Raises:
            DataError: if it is no PIL image, or one that cannot be brought to 8 bits.
        """
        return self.normalise(self.pixels(image))

    def pixels(self, image: Image) -> Tensor:  # uint8 [C, H, W]
        """The image in its final size and channels, before normalisation.

        Raises:
            DataError: if it is no PIL image, or one that cannot be brought to 8 bits.
        """
        with extra("data"):
            from PIL import Image
        if not isinstance(image, Image.Image):
            raise DataError(f"wanted a PIL image, got {type(image).__name__}")
        image = self._resized(_converted(upright(image), self.mode), smooth=True)
        pixels = torch.from_numpy(np.array(image)).view(*self.size, self.channels)  # [H, W, C]
        return pixels.permute(2, 0, 1)

    def mask(self, image: Image) -> Tensor:  # uint8 [H, W]
        """An image of one byte per pixel, squashed and cut as `pixels` does; no values are mixed.

        Where an image is made larger or smaller, each pixel gets the value of the nearest one.

        Raises:
            DataError: if it is no PIL image of one byte per pixel.
        """
        with extra("data"):
            from PIL import Image
        if not isinstance(image, Image.Image) or image.mode not in ("L", "P"):
            came = getattr(image, "mode", type(image).__name__)
            raise DataError(f"wanted a PIL image of mode L or P as a mask, got {came}")
        return torch.from_numpy(np.array(self._resized(image, smooth=False)))

    def normalise(self, pixels: Tensor) -> Tensor:
        """From uint8 [*, C, H, W] to float32 of the same shape."""
        mean, std = self._constants(pixels.device)
        return pixels.float().div_(255).sub_(mean).div_(std)

    def display(self, inputs: Tensor) -> Tensor:
        """From what a network takes, [*, C, H, W], back to uint8: the inverse of `normalise`."""
        mean, std = self._constants(inputs.device)
        return inputs.float().mul(std).add_(mean).mul_(255).round_().clamp_(0, 255).byte()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, fit for JSON."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_dict`.

        Raises:
            DataError: if a field is missing, unknown or of another kind.
        """
        if not isinstance(plain, Mapping):
            raise DataError(f"wanted preprocessing as a mapping, got {type(plain).__name__}")
        names = set(cls.__dataclass_fields__)
        if set(plain) != names:
            came = sorted(map(str, plain))
            raise DataError(f"wanted preprocessing with the fields {sorted(names)}, got {came}")
        return cls(**{name: frozen(value) for name, value in plain.items()})

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:  # each [C, 1, 1]
        mean = torch.tensor(self.mean, device=device).view(-1, 1, 1)
        return mean, torch.tensor(self.std, device=device).view(-1, 1, 1)

    def _resized(self, image: Image, *, smooth: bool) -> Image:
        from PIL import Image

        how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
        height, width = self.size
        if image.size == (width, height) and self.resize is None:
            return image
        short, long = min(image.size), max(image.size)
        if self.resize is None:
            return image.resize((width, height), how)
        if long > _MAX_ASPECT * short:
            raise DataError(
                f"wanted an image with sides of at most 1 : {_MAX_ASPECT}, got {image.size}"
            )
        other = int(self.resize * long / short)
        wide = image.width > image.height
        sides = (other, self.resize) if wide else (self.resize, other)
        image = image.resize(sides, how)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


def frozen(value: Any) -> Any:
    """A sequence as a tuple, as the fields of `Preprocess` are; it tells what anything else is."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


# ------------------------------------------------------------------------ images
def upright(image: Image) -> Image:
    """Turn a photograph as its file says it was held."""
    if "exif" not in image.info:  # a cheap question; most images have none
        return image
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _converted(image: Image, mode: Mode) -> Image:
    from PIL import Image

    if image.mode == "I" and image.format in _SIXTEEN:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"wanted an image of 8 or 16 bits, got one of 32 bits, mode {image.mode}")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


# ------------------------------------------------------------------------ checks
def _check(given: Preprocess) -> None:
    if given.mode not in _CHANNELS:
        raise DataError(f"wanted mode 'RGB' or 'L', got {given.mode!r}")
    size = given.size
    if not isinstance(size, tuple) or len(size) != 2 or not all(map(_is_side, size)):
        raise DataError(f"wanted size (height, width), each in 1..{_MAX_SIDE}, got {size!r}")
    resize = given.resize
    if resize is not None and not (_is_side(resize) and resize >= max(size)):
        raise DataError(
            f"wanted resize None or in {max(size)}..{_MAX_SIDE}, so that {size} can be cut out, "
            f"got {resize!r}"
        )
    num = _CHANNELS[given.mode]
    for name, low in (("mean", -math.inf), ("std", 0.0)):
        values = getattr(given, name)
        if not _are_numbers(values, num) or not all(v > low for v in values):
            kind = "positive numbers" if name == "std" else "numbers"
            raise DataError(f"wanted {name} as {num} {kind} for {given.mode}, got {values!r}")


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_SIDE


def _are_numbers(values: object, num: int) -> bool:
    if not isinstance(values, tuple) or len(values) != num:
        return False
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return plain and all(math.isfinite(v) for v in values)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
