"""Augmentation of whole batches, as tensors: no loop over rows, every draw from one generator.

The images are normalised before they come here, so 0 is the mean: what is cut away or moved in
from outside is filled with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError, UnknownNameError, ValidationError
from ..trees import State

Augment = Callable[[State, torch.Generator], State]
Step = Callable[[Tensor, torch.Generator], Tensor]
Spec = Sequence[str | Mapping[str, Mapping[str, Any]]]


def augmentation(spec: Spec) -> Augment:
    """A function that changes the images of a batch, [N, C, H, W], each in its own way.

    It draws from the generator it is given and from nothing else, as often for every batch of that
    size; the memory format of the images is kept.

    Args:
        spec: names, or mappings from one name to its options, in the order in which they act:
            ``crop`` (padding=4): moved by up to so many pixels in each direction;
            ``flip`` (probability=0.5): mirrored, left to right;
            ``resized_crop`` (scale=(0.08, 1), ratio=(3/4, 4/3), size=None): a rectangle of that
            share of the area and that ratio of width to height, brought to ``size`` (height,
            width) or back to the size it came from, bilinearly (Szegedy et al. 2015);
            ``erase`` (probability=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3)): a rectangle replaced
            by the mean (Zhong et al. 2020);
            ``rotate`` (degrees=10): turned around the middle by up to so much.

    Raises:
        UnknownNameError: if there is no augmentation of that name.
        OptionError: if one does not take an option.
        ValidationError: if the spec or the value of an option is not as described.

    Example:
        >>> augment = augmentation(["crop", {"erase": {"probability": 0.25}}, "flip"])
        >>> augment(images, torch.Generator().manual_seed(0)).shape
        torch.Size([128, 3, 32, 32])
    """
    if isinstance(spec, str | Mapping) or not isinstance(spec, Sequence):
        raise ValidationError(f"wanted a list of augmentations, got {spec!r}")
    steps = [_step(entry) for entry in spec]

    def augment(inputs: State, generator: torch.Generator) -> State:
        if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not inputs.is_floating_point():
            shape = tuple(getattr(inputs, "shape", ()))
            raise ValidationError(
                f"wanted images as floating-point numbers [N, C, H, W] to augment, got "
                f"{getattr(inputs, 'dtype', type(inputs).__name__)} {shape}"
            )
        last = torch.channels_last
        kept = not inputs.is_contiguous() and inputs.is_contiguous(memory_format=last)
        for step in steps:
            inputs = step(inputs, generator)
        return inputs.contiguous(memory_format=last if kept else torch.contiguous_format)

    return augment


# ------------------------------------------------------------------------ each by itself
def crop(*, padding: int = 4) -> Step:
    """Moved by up to ``padding`` pixels in each direction, the rest filled with the mean."""
    if not isinstance(padding, int) or isinstance(padding, bool) or padding < 1:
        raise ValidationError(f"crop: wanted padding as a whole number from 1, got {padding!r}")

    def step(images: Tensor, generator: torch.Generator) -> Tensor:
        num, (height, width) = len(images), images.shape[2:]
        moves = torch.randint(
            2 * padding + 1, (2, num), generator=generator, device=generator.device
        ).to(images.device)  # [2, N], from the top and from the left
        rows = torch.arange(num, device=images.device)
        # every window is a view; picking one per row copies whole lines: 6 times faster than gather
        windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        return windows[rows, :, moves[0], moves[1]]  # [N, C, H, W]

    return step


def flip(*, probability: float = 0.5) -> Step:
    """Mirrored, left to right."""
    _check_share("flip", "probability", probability)

    def step(images: Tensor, generator: torch.Generator) -> Tensor:
        chosen = _uniform(images, generator, 1)[0] < probability  # [N]
        return torch.where(chosen[:, None, None, None], images.flip(3), images)

    return step


def resized_crop(
    *,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    size: Sequence[int] | None = None,
) -> Step:
    """A rectangle, brought to a size: no two images show the same part."""
    _check_range("resized_crop", "scale", scale, top=1.0)
    _check_range("resized_crop", "ratio", ratio)
    if size is not None and not _is_size(size):
        raise ValidationError(f"resized_crop: wanted size (height, width), got {size!r}")

    def step(images: Tensor, generator: torch.Generator) -> Tensor:
        top, left, height, width = _boxes(images, generator, scale, ratio)  # [N] each
        out = tuple(images.shape[2:]) if size is None else tuple(size)
        ys, xs = _inside(top, height, out[0]), _inside(left, width, out[1])  # [N, H'], [N, W']
        return _sample(images, *torch.broadcast_tensors(ys[:, :, None], xs[:, None, :]))

    return step


def erase(
    *,
    probability: float = 0.5,
    scale: Sequence[float] = (0.02, 0.33),
    ratio: Sequence[float] = (0.3, 3.3),
) -> Step:
    """A rectangle replaced by the mean."""
    _check_share("erase", "probability", probability)
    _check_range("erase", "scale", scale, top=1.0)
    _check_range("erase", "ratio", ratio)

    def step(images: Tensor, generator: torch.Generator) -> Tensor:
        chosen = _uniform(images, generator, 1)[0] < probability  # [N]
        top, left, height, width = _boxes(images, generator, scale, ratio)  # [N] each
        rows = _between(top, top + height, images.shape[2]) & chosen[:, None]  # [N, H]
        hidden = rows[:, :, None] & _between(left, left + width, images.shape[3])[:, None, :]
        return images.masked_fill(hidden[:, None], 0.0)

    return step


def rotate(*, degrees: float = 10.0) -> Step:
    """Turned around the middle, bilinearly, the corners filled with the mean."""
    if not _is_number(degrees) or not 0 < degrees <= 180:
        raise ValidationError(f"rotate: wanted degrees in (0, 180], got {degrees!r}")

    def step(images: Tensor, generator: torch.Generator) -> Tensor:
        angle = (2 * _uniform(images, generator, 1)[0] - 1) * math.radians(degrees)  # [N]
        cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
        height, width = images.shape[2:]
        y = (torch.arange(height, device=images.device) - (height - 1) / 2)[None, :, None]
        x = (torch.arange(width, device=images.device) - (width - 1) / 2)[None, None, :]
        ys = cos * y - sin * x + (height - 1) / 2  # [N, H, W]
        return _sample(images, ys, sin * y + cos * x + (width - 1) / 2)

    return step


_STEPS: Mapping[str, Callable[..., Step]] = {
    maker.__name__: maker for maker in (crop, flip, resized_crop, erase, rotate)
}


# ------------------------------------------------------------------------ draws
def _uniform(images: Tensor, generator: torch.Generator, count: int) -> Tensor:  # [count, N]
    drawn = torch.rand((count, len(images)), generator=generator, device=generator.device)
    return drawn.to(images.device)


def _boxes(
    images: Tensor, generator: torch.Generator, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width [N] of rectangles of whole pixels inside the images.

    A rectangle that would stick out is cut off at the image's side. Ratios are drawn evenly on a
    logarithmic scale, so that tall and wide ones are as likely.
    """
    height, width = images.shape[2:]
    area, shape, down, right = _uniform(images, generator, 4)
    area = (scale[0] + (scale[1] - scale[0]) * area) * height * width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + (high - low) * shape).exp()  # width over height
    tall = (area / aspect).sqrt().round().clamp(1, height).long()
    wide = (area * aspect).sqrt().round().clamp(1, width).long()
    top = (down * (height - tall + 1)).long().clamp_max(height - 1)
    left = (right * (width - wide + 1)).long().clamp_max(width - 1)
    return top.minimum(height - tall), left.minimum(width - wide), tall, wide


def _inside(start: Tensor, length: Tensor, out: int) -> Tensor:  # [N], [N] -> [N, out]
    """Where `out` pixels spread evenly over a stretch lie, and never outside its outer pixels.

    That is what bilinear resizing of the stretch by itself reads.
    """
    steps = (torch.arange(out, device=start.device) + 0.5) / out
    at = steps * length[:, None] - 0.5
    return start[:, None] + at.clamp_min(0).minimum(length[:, None] - 1.0)


def _between(start: Tensor, stop: Tensor, length: int) -> Tensor:  # [N], [N] -> bool [N, length]
    at = torch.arange(length, device=start.device)
    return (at >= start[:, None]) & (at < stop[:, None])


def _sample(images: Tensor, ys: Tensor, xs: Tensor) -> Tensor:  # [N, H', W'] each, in pixels
    """The images at those places, bilinearly; 0 outside."""
    height, width = images.shape[2:]
    grid = torch.stack([(2 * xs + 1) / width - 1, (2 * ys + 1) / height - 1], dim=3)
    # half precision would place pixels at multiples of an eighth
    found = F.grid_sample(images.float(), grid.float(), padding_mode="zeros", align_corners=False)
    return found.to(images.dtype)


# ------------------------------------------------------------------------ checks
def _step(entry: str | Mapping[str, Mapping[str, Any]]) -> Step:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValidationError(f"wanted a name or one name with its options, got {entry!r}")
    name, options = next(iter(entry.items()))
    if name not in _STEPS:
        raise UnknownNameError(f"no augmentation is named {name!r}; valid: {', '.join(_STEPS)}")
    if options is None:
        options = {}
    valid = _STEPS[name].__kwdefaults__ or {}
    if not isinstance(options, Mapping) or not set(options) <= set(valid):
        came = sorted(map(str, options)) if isinstance(options, Mapping) else options
        raise OptionError(f"augmentation {name!r} takes the options {list(valid)}, got {came!r}")
    return _STEPS[name](**options)


def _check_share(owner: str, name: str, value: float) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValidationError(f"{owner}: wanted {name} in [0, 1], got {value!r}")


def _check_range(owner: str, name: str, pair: Sequence[float], top: float = math.inf) -> None:
    plain = isinstance(pair, Sequence) and len(pair) == 2 and all(map(_is_number, pair))
    if not plain or not 0 < pair[0] <= pair[1] <= top or not math.isfinite(pair[1]):
        bound = f", at most {top:g}" if math.isfinite(top) else ""
        raise ValidationError(
            f"{owner}: wanted {name} as two rising positive numbers{bound}, got {pair!r}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size(size: Any) -> bool:
    pair = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2
    return pair and all(isinstance(side, int) and side > 0 for side in size)
