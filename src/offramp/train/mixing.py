"""Inputs mixed in pairs: mixup (Zhang et al. 2018, eq. 1) and cutmix (Yun et al. 2019, eq. 1-2).

The objective is asked twice, about each input's own target and about its partner's, and its terms
are mixed: for cross-entropy that is exactly the loss of the mixed target. Maps of targets are cut
as their images are, and need no mixing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ValidationError
from ..objectives.base import Objective
from ..trees import State, map_tensors, tensors
from ..types import Batch, Costs, ExitOutput, Term


class Partner(NamedTuple):
    """What a batch was mixed with."""

    batch: Batch  # the mixed inputs, with the partners' targets and rows
    share: float  # of the own target


class Mixing(NamedTuple):
    """The parameters of the Beta distributions; 0 is without."""

    mixup: float = 0.0
    cutmix: float = 0.0

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def check(self, inputs: State, target: Tensor) -> None:
        """Check that these inputs [N, ...] can be mixed.

        Raises:
            ValidationError: if they cannot.
        """
        if self.mixup and not all(t.is_floating_point() for t in tensors(inputs)):
            kinds = sorted({str(t.dtype) for t in tensors(inputs)})
            raise ValidationError(f"wanted inputs of real numbers for mixup, got {kinds}")
        images = isinstance(inputs, Tensor) and inputs.dim() == 4
        if self.cutmix and not images:
            shapes = [tuple(t.shape) for t in tensors(inputs)]
            raise ValidationError(f"wanted images [N, C, H, W] for cutmix, got inputs {shapes}")
        if self.cutmix and target.dim() > 1 and target.shape[1:] != inputs.shape[2:]:
            raise ValidationError(
                f"wanted maps of targets as large as the images, {tuple(inputs.shape[2:])}, for "
                f"cutmix; got {tuple(target.shape[1:])}"
            )

    def __call__(self, batch: Batch, seed: int) -> tuple[Batch, Partner | None]:
        """A mixed batch, and its partner where terms are to be mixed."""
        self.check(batch.inputs, batch.target)
        chance = random.Random(seed)
        cut = self.cutmix > 0 and (self.mixup == 0 or chance.random() < 0.5)
        strength = self.cutmix if cut else self.mixup
        share = chance.betavariate(strength, strength)
        order = torch.randperm(
            len(batch.target), generator=torch.Generator().manual_seed(chance.getrandbits(63))
        )
        there = order.to(batch.target.device, non_blocking=batch.target.device.type != "cpu")
        other = batch._replace(target=batch.target[there], index=batch.index[order])
        if cut:
            return _cut(batch, other, there, box(chance, share, *batch.inputs.shape[2:]))
        inputs = map_tensors(lambda t: t.lerp(t[there], 1 - share), batch.inputs)
        return batch._replace(inputs=inputs), Partner(other._replace(inputs=inputs), share)


def ask(
    objective: Objective,
    outputs: Sequence[ExitOutput],
    batch: Batch,
    costs: Costs,
    partner: Partner | None = None,
) -> list[Term]:
    """The terms of a batch; where it is mixed, those of both targets, mixed as they are.

    Raises:
        ValidationError: if the two do not have the same names.
    """
    if partner is None:
        return objective(outputs, batch, costs)
    share = partner.share
    own = objective(outputs, batch._replace(share=share), costs)
    others = objective(outputs, partner.batch._replace(share=1 - share), costs)
    return blend(own, others, share)


def blend(terms: Sequence[Term], others: Sequence[Term], share: float) -> list[Term]:
    """Mix the terms of one name: ``share`` of the first, the rest of the second.

    Raises:
        ValidationError: if the two do not have the same names.
    """
    if [term.name for term in terms] != [term.name for term in others]:
        raise ValidationError(
            "wanted an objective whose terms do not depend on the targets, to mix inputs; got "
            f"{[term.name for term in terms]} and {[term.name for term in others]}"
        )
    return [
        one._replace(value=share * one.value + (1 - share) * two.value)
        for one, two in zip(terms, others, strict=True)
    ]


def box(chance: random.Random, share: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box of about ``1 - share`` of the image's area.

    Its centre is drawn evenly; what lies outside the image is cut off.
    """
    side = math.sqrt(1 - share)
    high, wide = int(height * side), int(width * side)
    row, column = chance.randrange(height), chance.randrange(width)
    top, left = row - high // 2, column - wide // 2
    return max(0, top), min(height, top + high), max(0, left), min(width, left + wide)


def _cut(
    batch: Batch, other: Batch, order: Tensor, edges: tuple[int, int, int, int]
) -> tuple[Batch, Partner | None]:
    """Put a box of each image's partner into it."""
    top, bottom, left, right = edges
    inside = (..., slice(top, bottom), slice(left, right))
    inputs = batch.inputs.clone()  # [N, C, H, W], in its layout
    inputs[inside] = batch.inputs[order][inside]
    if batch.target.dim() > 1:
        target = batch.target.clone()
        target[inside] = other.target[inside]
        return batch._replace(inputs=inputs, target=target), None
    share = 1 - (bottom - top) * (right - left) / (inputs.shape[2] * inputs.shape[3])
    return batch._replace(inputs=inputs), Partner(other._replace(inputs=inputs), share)
