"""Augmentation of whole batches, as tensors: no loop over rows, every draw from one generator.

The images are normalised before they come here, so 0 is the mean: what is cut away or moved in
from outside is filled with it. Where targets are maps they move with their images: the nearest
target where the image is sampled bilinearly, and -100, which does not count, where the image ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..errors import OptionError, UnknownNameError, ValidationError
from ..trees import State
from .augment_steps import STEPS, Both, Step

Augment = Callable[[State, torch.Generator], State]
Spec = Sequence[str | Mapping[str, Any]]


class PairedAugment(Protocol):
    """Changes the inputs of a batch, and its targets with them where they are maps."""

    def __call__(self, inputs: State, generator: torch.Generator, /) -> State:
        """The inputs, changed."""
        ...

    def paired(
        self, inputs: State, target: Tensor, generator: torch.Generator, /
    ) -> tuple[State, Tensor]:
        """The inputs and the targets, changed together; labels [N] stay as they are."""
        ...


def augmentation(spec: Spec) -> PairedAugment:
    """A function that changes the images of a batch, [N, C, H, W], each in its own way.

    It draws from the generator it is given and from nothing else, as often for every batch of that
    size; the memory format of the images is kept. Its method ``paired`` moves maps of targets,
    [N, H, W], in the same way.

    Args:
        spec: names, or mappings from one name to its options, or of options and a ``name``, in the
            order in which they act:
            ``crop`` (padding=4): moved by up to so many pixels in each direction;
            ``flip`` (probability=0.5): mirrored, left to right;
            ``resized_crop`` (scale=(0.08, 1), ratio=(3/4, 4/3), size=None): a rectangle of that
            share of the area and that ratio of width to height, brought to ``size`` (height,
            width) or back to the size it came from, bilinearly (Szegedy et al. 2015);
            ``scale_crop`` (scales=(0.5, 2), size=None): made larger or smaller by a factor of that
            range, then a window of ``size`` (height, width), or of the size it came from, which
            reaches over the edge only where the image is smaller;
            ``erase`` (probability=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3)): a rectangle replaced
            by the mean (Zhong et al. 2020);
            ``rotate`` (degrees=10): turned around the middle by up to so much;
            ``jitter`` (brightness=0.2, contrast=0.2, saturation=0.2): brightness moved by up to so
            many standard deviations, contrast and saturation by up to that share.

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

    def changed(inputs: State, target: Tensor | None, generator: torch.Generator) -> Both:
        _check_images(inputs)
        last = torch.channels_last
        kept = not inputs.is_contiguous() and inputs.is_contiguous(memory_format=last)
        for step in steps:
            inputs, target = step(inputs, target, generator)
        layout = last if kept else torch.contiguous_format
        return inputs.contiguous(memory_format=layout), target

    def augment(inputs: State, generator: torch.Generator) -> State:
        return changed(inputs, None, generator)[0]

    def paired(
        inputs: State, target: Tensor, generator: torch.Generator
    ) -> tuple[State, Tensor | None]:
        if target.dim() == 1:
            return augment(inputs, generator), target
        _check_images(inputs, target)
        signed = target.long() if target.dtype == torch.uint8 else target  # -100 fits into no byte
        return changed(inputs, signed, generator)

    augment.paired = paired  # pyright: ignore[reportFunctionMemberAccess]
    return cast(PairedAugment, augment)


def augmented(
    augment: Augment | PairedAugment, inputs: State, target: Tensor, generator: torch.Generator
) -> tuple[State, Tensor]:
    """Inputs and targets [N, *S] of a training batch, augmented.

    Raises:
        ValidationError: if the targets are maps and ``augment`` cannot move them.
    """
    check_augment(augment, target)
    paired = getattr(augment, "paired", None)
    if paired is None:
        return augment(inputs, generator), target
    return paired(inputs, target, generator)


def check_augment(augment: Augment | PairedAugment, target: Tensor) -> None:
    """Check that an augmentation moves the targets with the inputs, where these are maps.

    Raises:
        ValidationError: if it has no way to.
    """
    if target.dim() > 1 and not callable(getattr(augment, "paired", None)):
        name = getattr(augment, "__qualname__", type(augment).__qualname__)
        raise ValidationError(
            f"wanted an augment with a method paired(inputs, target, generator) for targets "
            f"[N, *S] of shape {tuple(target.shape)}, as those of offramp.data.augmentation have; "
            f"got {name}, which would leave the targets where they are. One that moves no pixels "
            "returns the target as it came"
        )


# ------------------------------------------------------------------------ checks
def _step(entry: str | Mapping[str, Any]) -> Step:
    name, options = _named(entry)
    if name not in STEPS:
        raise UnknownNameError(f"no augmentation is named {name!r}; valid: {', '.join(STEPS)}")
    if options is None:
        options = {}
    valid = STEPS[name].__kwdefaults__ or {}
    if not isinstance(options, Mapping) or not set(options) <= set(valid):
        came = sorted(map(str, options)) if isinstance(options, Mapping) else options
        raise OptionError(f"augmentation {name!r} takes the options {list(valid)}, got {came!r}")
    return STEPS[name](**options)


def _named(entry: Any) -> tuple[Any, Any]:
    """Name and options, of ``name``, ``{name: options}`` or ``{"name": name, option: value}``."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and "name" in entry:
        return entry["name"], {key: value for key, value in entry.items() if key != "name"}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValidationError(f"wanted a name or one name with its options, got {entry!r}")
    return next(iter(entry.items()))


def _check_images(inputs: State, target: Tensor | None = None) -> None:
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not inputs.is_floating_point():
        shape = tuple(getattr(inputs, "shape", ()))
        raise ValidationError(
            f"wanted images as floating-point numbers [N, C, H, W] to augment, got "
            f"{getattr(inputs, 'dtype', type(inputs).__name__)} {shape}"
        )
    wanted = (len(inputs), *inputs.shape[2:])
    if target is not None and tuple(target.shape) != wanted:
        raise ValidationError(
            f"wanted maps of targets as large as the images to augment, {wanted}, got "
            f"{tuple(target.shape)}"
        )
