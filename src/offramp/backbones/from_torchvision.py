"""Classifiers and segmentation networks of torchvision, by name, cut where exits go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError, OptionError, ValidationError, extra
from ..heads.build import HeadSpecs
from ..placement import At
from .base import Parts, read_weights, register
from .library import (
    check_image_size,
    check_name,
    check_options,
    check_sizes,
    cut_images,
    first_conv,
    load_weights,
    spread,
)

_TAKEN = (
    *("num_classes", "weights", "weights_backbone", "progress", "pretrained", "image_size"),
    "aux_loss",  # an early exit does what it is for, and answers too
)
_TRIED = 64  # pixels a side at most that a network for maps is tried on; it takes any size


@register("torchvision")
def from_torchvision(
    *,
    network: str,
    at: At,
    num_classes: int = 1000,
    pretrained: bool = False,
    weights: str | Path | None = None,
    image_size: int | Sequence[int] = 224,
    in_channels: int = 3,
    network_options: Mapping[str, Any] | None = None,
    head: HeadSpecs = "auto",
    gate: bool = False,
) -> Parts:
    """A classifier or a segmentation network of torchvision, cut where exits go.

    Takes images [N, in_channels, *image_size]; convolutional networks take other sizes.

    A segmentation network (``deeplabv3_*``, ``fcn_*``, ``lraspp_*``) answers at its classifier's
    own resolution, an eighth of the image's. Torchvision enlarges that bilinearly to the image's,
    and so do losses and metrics here, so the answer is the same, and 64 times smaller to keep.
    Its auxiliary head, which helps in training alone, is left out.

    Args:
        network: name in torchvision: ``resnet50``, ``vit_b_16``, ``deeplabv3_resnet50``.
        at: names of modules after which early exits go, see `offramp.places`; none gives the plain
            network. Or an `offramp.placement`.
        num_classes: number of classes, C.
        pretrained: fetch torchvision's default weights; the classifier starts anew where there are
            other classes than theirs, 1000 of ImageNet or, of segmentation networks, 21 of VOC.
        weights: a file with a state dict of the network, safetensors or torch, in their place.
        image_size: side of the images, or their height and width.
        in_channels: channels of the images; other than 3 changes the first convolution.
        network_options: more options of torchvision's own factory, such as ``dropout``.
        head: kind of the early heads, see `offramp.attach`.
        gate: give each early exit a gate.

    Raises:
        UnknownNameError: if torchvision has no such network; the message has near matches.
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
    for_maps = models.list_models(module=models.segmentation)
    check_name(name, [*models.list_models(module=models), *for_maps], "torchvision")
    check_sizes(num_classes=num_classes, in_channels=in_channels)
    sides = check_image_size(image_size)
    options = check_options(network_options, _TAKEN)
    if name.startswith("vit_"):  # the only ones whose weights depend on it
        options["image_size"] = _square(sides, name)
    made = _make(models, name, {"num_classes": num_classes, **options})
    if name in for_maps:
        made, sides = AtOwnSize(made), (min(sides[0], _TRIED), min(sides[1], _TRIED))
    if in_channels != 3:
        _change_channels(made, in_channels)
    if weights is not None:
        load_weights(made, _without_aux(read_weights(weights)), num_classes, str(weights))
    elif pretrained:
        origin = f"the weights of torchvision's {name!r}"
        load_weights(made, _without_aux(_fetch(models, name)), num_classes, origin)
    shape = in_channels, *sides
    return cut_images(made, at, shape, num_classes=num_classes, head=head, gate=gate)


class AtOwnSize(nn.Module):
    """A segmentation network of torchvision that answers at its classifier's own resolution.

    Its modules keep their names; the auxiliary head is left out.

    Args:
        network: a network of ``torchvision.models.segmentation``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = network.backbone
        self.classifier: Any = network.classifier
        # all but LRASPP classify one map of the backbone's
        self.reads = None if type(network).__name__ == "LRASPP" else "out"

    def forward(self, images: Tensor) -> Tensor:
        """Logits, [N, 3, H, W] -> [N, C, h, w]."""
        features: Any = self.backbone(images)
        return self.classifier(features if self.reads is None else features[self.reads])


def _without_aux(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: v for name, v in state.items() if not name.startswith("aux_classifier.")}


def _square(sides: tuple[int, int], name: str) -> int:
    if sides[0] != sides[1]:
        raise ValidationError(f"wanted one side as image_size of {name!r}, got {sides}")
    return sides[0]


def _make(models: Any, name: str, options: dict[str, Any]) -> nn.Module:
    if name in ("googlenet", "inception_v3"):  # they warn where nothing is said
        options = {"init_weights": True, **options}
    if name in models.list_models(module=models.segmentation):
        options = {"weights_backbone": None, **options}  # by default they would be fetched
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
