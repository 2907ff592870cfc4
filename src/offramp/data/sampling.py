"""Where augmented pixels come from: draws per image, rectangles, windows, and reading there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import IGNORED


def uniform(images: Tensor, generator: torch.Generator, count: int) -> Tensor:  # [count, N]
    """Numbers in [0, 1) for each image, on its device, drawn where the generator is."""
    drawn = torch.rand((count, len(images)), generator=generator, device=generator.device)
    return drawn.to(images.device)


def boxes(
    images: Tensor, generator: torch.Generator, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width [N] of rectangles of whole pixels inside the images.

    A rectangle that would stick out is cut off at the image's side. Ratios are drawn evenly on a
    logarithmic scale, so that tall and wide ones are as likely.
    """
    height, width = images.shape[2:]
    area, shape, down, right = uniform(images, generator, 4)
    area = (scale[0] + (scale[1] - scale[0]) * area) * height * width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + (high - low) * shape).exp()  # width over height
    tall = (area / aspect).sqrt().round().clamp(1, height).long()
    wide = (area * aspect).sqrt().round().clamp(1, width).long()
    top = (down * (height - tall + 1)).long().clamp_max(height - 1)
    left = (right * (width - wide + 1)).long().clamp_max(width - 1)
    return top.minimum(height - tall), left.minimum(width - wide), tall, wide


def inside(start: Tensor, length: Tensor, out: int) -> Tensor:  # [N], [N] -> [N, out]
    """Where `out` pixels spread evenly over a stretch lie, and never outside its outer pixels.

    That is what bilinear resizing of the stretch by itself reads.
    """
    steps = (torch.arange(out, device=start.device) + 0.5) / out
    at = steps * length[:, None] - 0.5
    return start[:, None] + at.clamp_min(0).minimum(length[:, None] - 1.0)


def nearest(start: Tensor, length: Tensor, out: int) -> Tensor:  # [N], [N] -> int64 [N, out]
    """The pixels next to where `inside` lies; whole numbers, so that halves do not depend on bits.

    That is what ``F.interpolate(mode="nearest-exact")`` of the stretch by itself reads.
    """
    at = torch.arange(out, device=start.device)
    return start[:, None] + (2 * at + 1) * length[:, None] // (2 * out)


class Window(NamedTuple):
    """Where the pixels of a window on a scaled axis come from."""

    at: Tensor  # [N, out] float, in pixels of the axis, never outside its outer ones
    nearest: Tensor  # [N, out] int64, likewise in whole pixels
    inside: Tensor  # [N, out] bool, whether the scaled axis reaches that far


def window(factor: Tensor, chance: Tensor, length: int, out: int) -> Window:
    """A window of `out` pixels on an axis of `length` pixels that is scaled.

    Args:
        factor: by which it is scaled, [N]; the scaled axis has whole pixels, at least one.
        chance: in [0, 1), [N], where the window lies on a longer axis, or a shorter one in it.
        length: of the axis, in pixels.
        out: of the window, in pixels.
    """
    scaled = (factor * length).round().clamp_min(1).long()
    spare = scaled - out  # below 0 where the axis is shorter
    start = (chance * (spare.abs() + 1)).long().minimum(spare.abs()) * spare.sign()
    pixel = start[:, None] + torch.arange(out, device=start.device)  # [N, out], of the scaled axis
    source = (pixel + 0.5) * (length / scaled)[:, None] - 0.5
    whole = (2 * pixel + 1) * length // (2 * scaled[:, None])
    reached = (pixel >= 0) & (pixel < scaled[:, None])
    return Window(source.clamp(0, length - 1), whole.clamp(0, length - 1), reached)


def between(start: Tensor, stop: Tensor, length: int) -> Tensor:  # [N], [N] -> bool [N, length]
    """Which of so many pixels lie in a stretch."""
    at = torch.arange(length, device=start.device)
    return (at >= start[:, None]) & (at < stop[:, None])


def sample(images: Tensor, ys: Tensor, xs: Tensor) -> Tensor:  # [N, H', W'] each, in pixels
    """The images at those places, bilinearly; 0 outside."""
    height, width = images.shape[2:]
    grid = torch.stack([(2 * xs + 1) / width - 1, (2 * ys + 1) / height - 1], dim=3)
    # half precision would place pixels at multiples of an eighth
    found = F.grid_sample(images.float(), grid.float(), padding_mode="zeros", align_corners=False)
    return found.to(images.dtype)


def pick(target: Tensor, rows: Tensor, columns: Tensor) -> Tensor:  # [N, H, W] -> [N, H', W']
    """The targets at those places, int64 that broadcast to [N, H', W']; -100 outside."""
    num, height, width = target.shape
    known = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    images = torch.arange(num, device=target.device)[:, None, None]
    found = target[images, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    return found.masked_fill(~known, IGNORED)
