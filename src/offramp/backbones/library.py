"""Networks of other libraries: found by name, given weights, cut where exits go."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, OptionError, UnknownNameError, ValidationError
from ..heads.build import HeadSpecs
from ..placement import At
from .base import Parts
from .cut import cut


def check_name(name: str, valid: Collection[str], library: str) -> None:
    """Check the name of a network.

    Raises:
        UnknownNameError: if the library has none of that name; the message has near matches.
    """
    if name not in valid:
        near = difflib.get_close_matches(str(name), valid, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(map(repr, near))}? " if near else ""
        raise UnknownNameError(
            f"{library} has no network named {str(name)[:80]!r}; {hint}it has {len(valid)} of them"
        )


def check_sizes(**sizes: int) -> None:
    """Check whole numbers from 1.

    Raises:
        ValidationError: if one is something else.
    """
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValidationError(f"wanted {name} as a whole number of at least 1, got {value!r}")


def check_image_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of images, given as one side or as both.

    Raises:
        ValidationError: if it is something else.
    """
    sides = [image_size] * 2 if isinstance(image_size, int) else image_size
    whole = isinstance(sides, Sequence) and all(
        isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides
    )
    if not whole or isinstance(sides, str) or len(sides) != 2:
        raise ValidationError(
            "wanted image_size as a whole number of at least 1, or as height and width, got "
            f"{image_size!r}"
        )
    return int(sides[0]), int(sides[1])


def check_options(options: Mapping[str, Any] | None, taken: Collection[str]) -> dict[str, Any]:
    """The options for the library's own factory.

    Raises:
        OptionError: if one is given here that has another place, or is for loading weights.
    """
    given = dict(options or {})
    wrong = [name for name in given if name in taken]
    if wrong:
        raise OptionError(
            f"network_options cannot have {wrong}: give num_classes, in_channels, image_size, "
            "pretrained and weights as options of the model"
        )
    return given


def load_weights(
    network: nn.Module, state: Mapping[str, Tensor], num_classes: int, origin: str
) -> None:
    """Load weights by name; a classifier for other classes stays as it is.

    Where the network's first convolution reads another number of channels, its weights are spread
    over them so that a grey image gives what it gave before.

    Args:
        network: takes the weights.
        state: names and values, those of the network.
        num_classes: number of classes, C; weights of another number are left out.
        origin: where the weights come from, for the message.

    Raises:
        CheckpointError: if a name or shape does not fit.
    """
    own = network.state_dict()
    first = first_conv(network)
    given = {n: v for n, v in own.items() if n.endswith(".num_batches_tracked")} | dict(state)
    for name, value in list(given.items()):
        wanted = own.get(name)
        if wanted is None or wanted.shape == value.shape:
            continue
        if name == f"{first}.weight" and value.dim() == 4 and len(value) == len(wanted):
            given[name] = spread(value, wanted.shape[1])
        elif wanted.dim() and len(wanted) == num_classes and wanted.shape[1:] == value.shape[1:]:
            given[name] = wanted
    wrong = {
        "missing": [n for n in own if n not in given],
        "unknown": [n for n in given if n not in own],
        "of another shape": [n for n in own if n in given and own[n].shape != given[n].shape],
    }
    told = [
        f"{len(names)} names are {what}, as {names[0]}" for what, names in wrong.items() if names
    ]
    if told:
        raise CheckpointError(f"{origin} does not fit {type(network).__name__}: {'; '.join(told)}")
    network.load_state_dict(given)


def first_conv(network: nn.Module) -> str | None:
    """Name of the first two-dimensional convolution, which reads the image."""
    return next((n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)), None)


def spread(weight: Tensor, channels: int) -> Tensor:
    """Weights of a convolution for another number of channels, [A, B, *S] -> [A, channels, *S]."""
    total = weight.sum(1, keepdim=True) / channels
    return total.expand(-1, channels, *weight.shape[2:]).contiguous()


def cut_images(
    network: nn.Module,
    at: At,
    shape: tuple[int, int, int],
    *,
    num_classes: int,
    head: HeadSpecs,
    gate: bool,
) -> Parts:
    """Cut a network that takes images; ``shape`` is (channels, height, width) of one."""
    source = torch.Generator().manual_seed(0)
    example = torch.randn(2, *shape, generator=source)
    return cut(network, at, example, num_classes=num_classes, head=head, gate=gate)
