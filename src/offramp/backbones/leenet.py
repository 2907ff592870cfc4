"""LEENet's networks: exits at the published places, with a gate each (github afxwong/EarlyExitNet).

LEENet wraps a module of a network that is trained already: its exit sits on the input of that
module. Here an exit is named by the module that comes before, whose output is the same value:

=====================  ================================================  ===========================
network                LEENet's exits are on the input of                here they are after
=====================  ================================================  ===========================
``resnet50``           layer1, layer2, layer3                            maxpool, layer1, layer2
``densenet121``        denseblock2, denseblock3, denseblock4             transition1 to transition3
``vgg11_bn``           features.8, .15, .22, avgpool                     features.7, .14, .21, .28
``densenet121_cifar``  dense2, dense3, dense4                            trans1, trans2, trans3
``vgg11_bn_cifar``     features.8, .15, .22, avgpool (or classifier.0)   features.7, .14, .21, .28
=====================  ================================================  ===========================

On CIFAR-100 its last early exit is on the input of ``classifier.0``, which for images of 32 pixels
is that of ``avgpool`` without the two dimensions of size 1. The first three networks are
torchvision's, for 224 pixels, of which LEENet has the first alone. Its VGG for CIFAR-10 has
``hidden=4096``.

Its heads read a flattened map. Here they read its mean over positions, which is no less a published
choice (EENets) and far smaller: for 224 pixels, after ``layer1``, 256 numbers in place of 802,816,
so that the classifier of 1000 classes has 257 thousand weights in place of 803 million (the network
has 26), images may have another size than those it was made with, and what a gate reads can be kept
for a whole data set, at 1 kilobyte per image in place of 3 megabytes. For the flattened map,
``head={"kind": "flat"}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ..errors import OptionError, ValidationError
from ..heads.build import HeadSpecs
from ..placement import At
from .base import Parts, read_weights, register
from .densenet_cifar import CifarDenseNet
from .from_torchvision import from_torchvision
from .library import check_image_size, check_options, check_sizes, cut_images, load_weights
from .vgg_cifar import CifarVgg

_TAKEN = ("num_classes", "in_channels", "pretrained", "weights", "image_size")


class Preset(NamedTuple):
    """A network of LEENet's and where its exits go."""

    at: tuple[str, ...]  # names of modules after which early exits go
    make: Callable[..., nn.Module] | None  # None: torchvision makes it


_POOLINGS = tuple(f"features.{i}" for i in (7, 14, 21, 28))
_PRESETS = {
    "resnet50": Preset(("maxpool", "layer1", "layer2"), None),
    "densenet121": Preset(tuple(f"features.transition{i}" for i in (1, 2, 3)), None),
    "vgg11_bn": Preset(_POOLINGS, None),
    "densenet121_cifar": Preset(("trans1", "trans2", "trans3"), CifarDenseNet),
    "vgg11_bn_cifar": Preset(_POOLINGS, partial(CifarVgg, 11)),
}


@register("leenet")
def leenet(
    *,
    network: str = "resnet50",
    num_classes: int = 10,
    pretrained: bool = False,
    weights: str | Path | None = None,
    image_size: int | Sequence[int] | None = None,
    in_channels: int = 3,
    network_options: Mapping[str, Any] | None = None,
    at: At | None = None,
    head: HeadSpecs = "linear",
    gate: bool = True,
) -> Parts:
    """A network of LEENet's with exits at the published places and a gate each.

    Takes images [N, in_channels, *image_size]. The network is meant to be trained already: give its
    weights, train the heads, then the gates.

    Args:
        network: ``resnet50``, ``densenet121``, ``vgg11_bn``, or for 32 pixels
            ``densenet121_cifar``, with a growth of 12, or ``vgg11_bn_cifar``.
        num_classes: number of classes, C.
        pretrained: fetch torchvision's weights for ImageNet; the classifier starts anew where there
            are not 1000 classes. There are none for CIFAR.
        weights: a file with a state dict of the network, safetensors or torch, in their place; for
            the names see `offramp.backbones.densenet_cifar` and `offramp.backbones.vgg_cifar`.
        image_size: side of the images, or their height and width; by default 224, for CIFAR 32.
        in_channels: channels of the images; other than 3 changes the first convolution.
        network_options: more options of the network: torchvision's own, ``growth`` and ``blocks``
            of ``densenet121_cifar``, ``hidden`` of ``vgg11_bn_cifar``.
        at: names of modules after which early exits go, or an `offramp.placement`; by default the
            published places.
        head: kind of the early heads, see `offramp.attach`; ``{"kind": "flat"}`` is LEENet's own.
        gate: give each early exit a gate.

    Raises:
        ValidationError: if there is no such network, or no weights to fetch for it.
        OptionError: if the network does not take an option.
        CheckpointError: if weights cannot be fetched, or do not fit.
        MissingExtraError: if torchvision is needed and not installed.

    Example:
        >>> model = offramp.create_model("leenet", network="vgg11_bn_cifar", num_classes=10)
        >>> model.num_exits
        5
    """
    preset = _PRESETS.get(network) if isinstance(network, str) else None
    if preset is None:
        raise ValidationError(f"wanted network as one of {', '.join(_PRESETS)}, got {network!r}")
    places = preset.at if at is None else at
    if preset.make is None:
        return from_torchvision(
            network=network,
            at=places,
            num_classes=num_classes,
            pretrained=pretrained,
            weights=weights,
            image_size=224 if image_size is None else image_size,
            in_channels=in_channels,
            network_options=network_options,
            head=head,
            gate=gate,
        )
    if pretrained and weights is None:
        raise ValidationError(
            f"wanted weights=path for {network!r}, as none are fetched for it; got pretrained=True"
        )
    check_sizes(num_classes=num_classes, in_channels=in_channels)
    shape = in_channels, *check_image_size(32 if image_size is None else image_size)
    options = check_options(network_options, _TAKEN)
    made = _make(preset.make, network, num_classes, {"in_channels": in_channels, **options})
    if weights is not None:
        load_weights(made, read_weights(weights), num_classes, str(weights))
    return cut_images(made, places, shape, num_classes=num_classes, head=head, gate=gate)


def _make(
    make: Callable[..., nn.Module], network: str, num_classes: int, options: dict[str, Any]
) -> nn.Module:
    try:
        return make(num_classes=num_classes, **options)
    except TypeError as error:
        raise OptionError(f"{network!r} cannot be made with {options}: {error}") from error
