"""Classifiers of torchvision, by name, cut where exits go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError, OptionError, ValidationError, extra
from ..heads.build import HeadSpecs
from .base import Parts, read_weights, register
from .library import (
    check_name,
    check_options,
    check_sizes,
    cut_images,
    first_conv,
    load_weights,
    spread,
)

_TAKEN = ("num_classes", "weights", "progress", "pretrained", "image_size")


@register("torchvision")
def from_torchvision(
    *,
    network: str,
    at: Sequence[str],
    num_classes: int = 1000,
    pretrained: bool = False,
    weights: str | Path | None = None,
    image_size: int = 224,
    in_channels: int = 3,
    network_options: Mapping[str, Any] | None = None,
    head: HeadSpecs = "auto",
    gate: bool = False,
) -> Parts:
    """A classifier of torchvision, cut where exits go.

    Takes images [N, in_channels, image_size, image_size]; convolutional networks take other sizes.

    Args:
        network: name in torchvision: ``resnet50``, ``vit_b_16``.
        at: names of modules after which early exits go, see `offramp.places`; none gives the plain
            network.
        num_classes: number of classes, C.
        pretrained: fetch torchvision's default weights; the classifier starts anew where there are
            not 1000 classes.
        weights: a file with a state dict of the network, safetensors or torch, in their place.
        image_size: side of the images.
        in_channels: channels of the images; other than 3 changes the first convolution.
        network_options: more options of torchvision's own factory, such as ``dropout``.
        head: kind of the early heads, see `offramp.attach`.
        gate: give each early exit a gate.

    Raises:
        UnknownNameError: if torchvision has no such classifier; the message has near matches.
        OptionError: if the network does not take an option.
        CheckpointError: if weights cannot be fetched, or do not fit.
        MissingExtraError: if torchvision is not installed.

    Example:
        >>> places = ["layer1", "layer2", "layer3"]
        >>> model = offramp.create_model(
        ...     "torchvision", network="resnet50", at=places, num_classes=10
        ... )
        >>> model.num_exits
        4
    """
    with extra("vision"):
        from torchvision import models
    name = str(network)
    check_name(name, models.list_models(module=models), "torchvision")
    check_sizes(num_classes=num_classes, image_size=image_size, in_channels=in_channels)
    options = check_options(network_options, _TAKEN)
    if name.startswith("vit_"):  # the only ones whose weights depend on it
        options["image_size"] = image_size
    made = _make(models, name, {"num_classes": num_classes, **options})
    if in_channels != 3:
        _change_channels(made, in_channels)
    if weights is not None:
        load_weights(made, read_weights(weights), num_classes, str(weights))
    elif pretrained:
        origin = f"the weights of torchvision's {name!r}"
        load_weights(made, _fetch(models, name), num_classes, origin)
    shape = in_channels, image_size
    return cut_images(made, at, shape, num_classes=num_classes, head=head, gate=gate)


def _make(models: Any, name: str, options: dict[str, Any]) -> nn.Module:
    if name in ("googlenet", "inception_v3"):  # they warn where nothing is said
        options = {"init_weights": True, **options}
    try:
        return models.get_model(name, weights=None, **options)
    except Exception as error:
        raise OptionError(f"torchvision cannot make {name!r} with {options}: {error}") from error


def _fetch(models: Any, name: str) -> Mapping[str, Tensor]:
    try:
        return models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise CheckpointError(
            f"the weights of torchvision's {name!r} cannot be fetched ({why}); "
            "a file with them can be given as weights=path"
        ) from error


def _change_channels(network: nn.Module, channels: int) -> None:
    """Put a convolution that reads so many channels in the first one's place."""
    name = first_conv(network)
    old = None if name is None else network.get_submodule(name)
    if name is None or not isinstance(old, nn.Conv2d) or old.in_channels != 3 or old.groups != 1:
        raise ValidationError(
            f"wanted in_channels=3: {type(network).__name__} begins with no plain convolution"
        )
    weight = nn.Parameter(spread(old.weight.detach(), channels))
    old.in_channels, old.weight = channels, weight
