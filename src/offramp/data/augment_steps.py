"""What augmentations do to images, and to the maps of targets that move with them.

Each function makes a step from its options. A step draws as often with targets as without, so that
the images are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ValidationError
from .masks import IGNORED
from .sampling import between, boxes, inside, nearest, pick, sample, uniform, window

Both = tuple[Tensor, Tensor | None]  # images [N, C, H, W], and their maps of targets [N, H, W]
Step = Callable[[Tensor, Tensor | None, torch.Generator], Both]


def crop(*, padding: int = 4) -> Step:
    """Moved by up to ``padding`` pixels in each direction, the rest filled with the mean."""
    if not isinstance(padding, int) or isinstance(padding, bool) or padding < 1:
        raise ValidationError(f"crop: wanted padding as a whole number from 1, got {padding!r}")

    def step(images: Tensor, target: Tensor | None, generator: torch.Generator) -> Both:
        num, (height, width) = len(images), images.shape[2:]
        moves = torch.randint(
            2 * padding + 1, (2, num), generator=generator, device=generator.device
        ).to(images.device)  # [2, N], from the top and from the left
        rows = torch.arange(num, device=images.device)

        def moved(maps: Tensor, fill: float) -> Tensor:  # [N, C, H, W]
            # every window is a view; picking one per row copies whole lines: 6 times faster than
            # gather
            padded = F.pad(maps, (padding,) * 4, value=fill)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)
            return windows[rows, :, moves[0], moves[1]]

        if target is not None:
            target = moved(target[:, None], IGNORED)[:, 0]
        return moved(images, 0.0), target

    return step


def flip(*, probability: float = 0.5) -> Step:
    """Mirrored, left to right."""
    _check_share("flip", "probability", probability)

    def step(images: Tensor, target: Tensor | None, generator: torch.Generator) -> Both:
        chosen = uniform(images, generator, 1)[0] < probability  # [N]
        if target is not None:
            target = torch.where(chosen[:, None, None], target.flip(2), target)
        return torch.where(chosen[:, None, None, None], images.flip(3), images), target

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
    _check_size("resized_crop", size)

    def step(images: Tensor, target: Tensor | None, generator: torch.Generator) -> Both:
        top, left, height, width = boxes(images, generator, scale, ratio)  # [N] each
        out = tuple(images.shape[2:]) if size is None else tuple(size)
        ys, xs = inside(top, height, out[0]), inside(left, width, out[1])  # [N, H'], [N, W']
        if target is not None:
            rows, columns = nearest(top, height, out[0]), nearest(left, width, out[1])
            target = pick(target, rows[:, :, None], columns[:, None, :])
        return sample(images, *torch.broadcast_tensors(ys[:, :, None], xs[:, None, :])), target

    return step


def scale_crop(*, scales: Sequence[float] = (0.5, 2.0), size: Sequence[int] | None = None) -> Step:
    """Made larger or smaller, then a window; where the image ends, the mean and no target.

    A larger image is cut, a smaller one is placed somewhere in the window, each axis by itself.
    Bilinear, without antialiasing.
    """
    _check_range("scale_crop", "scales", scales)
    _check_size("scale_crop", size)

    def step(images: Tensor, target: Tensor | None, generator: torch.Generator) -> Both:
        out = tuple(images.shape[2:]) if size is None else tuple(size)
        factor, down, right = uniform(images, generator, 3)  # [N] each
        factor = scales[0] + (scales[1] - scales[0]) * factor
        rows = window(factor, down, images.shape[2], out[0])
        columns = window(factor, right, images.shape[3], out[1])
        outside = ~(rows.inside[:, :, None] & columns.inside[:, None, :])  # [N, H', W']
        grid = torch.broadcast_tensors(rows.at[:, :, None], columns.at[:, None, :])
        if target is not None:
            target = pick(target, rows.nearest[:, :, None], columns.nearest[:, None, :])
            target = target.masked_fill(outside, IGNORED)
        return sample(images, *grid).masked_fill(outside[:, None], 0.0), target

    return step


def erase(
    *,
    probability: float = 0.5,
    scale: Sequence[float] = (0.02, 0.33),
    ratio: Sequence[float] = (0.3, 3.3),
) -> Step:
    """A rectangle replaced by the mean; what it hides does not count in a map."""
    _check_share("erase", "probability", probability)
    _check_range("erase", "scale", scale, top=1.0)
    _check_range("erase", "ratio", ratio)

    def step(images: Tensor, target: Tensor | None, generator: torch.Generator) -> Both:
        chosen = uniform(images, generator, 1)[0] < probability  # [N]
        top, left, height, width = boxes(images, generator, scale, ratio)  # [N] each
        rows = between(top, top + height, images.shape[2]) & chosen[:, None]  # [N, H]
        hidden = rows[:, :, None] & between(left, left + width, images.shape[3])[:, None, :]
        if target is not None:
            target = target.masked_fill(hidden, IGNORED)
        return images.masked_fill(hidden[:, None], 0.0), target

    return step


def rotate(*, degrees: float = 10.0) -> Step:
    """Turned around the middle, bilinearly, the corners filled with the mean."""
    if not _is_number(degrees) or not 0 < degrees <= 180:
        raise ValidationError(f"rotate: wanted degrees in (0, 180], got {degrees!r}")

    def step(images: Tensor, target: Tensor | None, generator: torch.Generator) -> Both:
        angle = (2 * uniform(images, generator, 1)[0] - 1) * math.radians(degrees)  # [N]
        cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
        height, width = images.shape[2:]
        y = (torch.arange(height, device=images.device) - (height - 1) / 2)[None, :, None]
        x = (torch.arange(width, device=images.device) - (width - 1) / 2)[None, None, :]
        ys = cos * y - sin * x + (height - 1) / 2  # [N, H, W]
        xs = sin * y + cos * x + (width - 1) / 2  # [N, H, W]
        if target is not None:
            target = pick(target, (ys + 0.5).floor().long(), (xs + 0.5).floor().long())
        return sample(images, ys, xs), target

    return step


def jitter(*, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2) -> Step:
    """Brighter or darker, with more or less contrast and colour; nothing moves."""
    for name, value in (("contrast", contrast), ("saturation", saturation)):
        _check_share("jitter", name, value)
    if not _is_number(brightness) or not 0 <= brightness < math.inf:
        raise ValidationError(f"jitter: wanted brightness from 0, got {brightness!r}")

    def step(images: Tensor, target: Tensor | None, generator: torch.Generator) -> Both:
        drawn = (2 * uniform(images, generator, 3) - 1).to(images.dtype)
        light, spread, colour = drawn[..., None, None, None]  # [N, 1, 1, 1] each
        gray = images.mean(1, keepdim=True)
        images = gray + (images - gray) * (1 + saturation * colour)
        middle = images.mean((1, 2, 3), keepdim=True)
        return middle + (images - middle) * (1 + contrast * spread) + brightness * light, target

    return step


STEPS: Mapping[str, Callable[..., Step]] = {
    maker.__name__: maker for maker in (crop, flip, resized_crop, scale_crop, erase, rotate, jitter)
}


# ------------------------------------------------------------------------ checks
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


def _check_size(owner: str, size: Any) -> None:
    pair = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2
    if size is not None and not (pair and all(isinstance(s, int) and s > 0 for s in size)):
        raise ValidationError(f"{owner}: wanted size (height, width), got {size!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
