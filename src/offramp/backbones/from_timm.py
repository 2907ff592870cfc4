"""Networks of timm (Wightman), by name, cut where exits go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError, OptionError, extra
from ..heads.build import HeadSpecs
from ..placement import At
from .base import Parts, read_weights, register
from .library import (
    check_image_size,
    check_name,
    check_options,
    check_sizes,
    cut_images,
    load_weights,
)

# options of timm.create_model that say where weights come from, or that have a place here
_TAKEN = (
    *("model_name", "num_classes", "in_chans", "pretrained", "pretrained_cfg", "cache_dir"),
    *("pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "features_only"),
    *("scriptable", "exportable", "no_jit"),
)


@register("timm")
def from_timm(
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
    """A network of timm, cut where exits go.

    Takes images [N, in_channels, *image_size]; convolutional networks take other sizes.

    Args:
        network: name in timm, with or without a tag: ``resnet50``, ``vit_tiny_patch16_224``.
        at: names of modules after which early exits go, see `offramp.places`; none gives the plain
            network. Or an `offramp.placement`.
        num_classes: number of classes, C.
        pretrained: fetch timm's weights for that name; the classifier starts anew where there are
            not 1000 classes.
        weights: a file with a state dict of the network, safetensors or torch, in their place.
        image_size: side of the images, or their height and width.
        in_channels: channels of the images.
        network_options: more options of timm's own factory, such as ``drop_path_rate``.
        head: kind of the early heads, see `offramp.attach`.
        gate: give each early exit a gate.

    Raises:
        UnknownNameError: if timm has no such network; the message has near matches.
        OptionError: if the network does not take an option.
        CheckpointError: if weights cannot be fetched, or do not fit.
        MissingExtraError: if timm is not installed.

    Example:
        >>> places = ["layer1", "layer2", "layer3"]
        >>> model = offramp.create_model("timm", network="resnet50", at=places, num_classes=10)
        >>> model.num_exits
        4
    """
    with extra("vision"):
        import timm
    name = str(network)
    check_name(name.partition(".")[0], timm.list_models(), "timm")
    check_sizes(num_classes=num_classes, in_channels=in_channels)
    sides = check_image_size(image_size)
    options = check_options(network_options, _TAKEN)
    given: Any = timm.models.get_pretrained_cfg(name)
    if given is not None and given.fixed_input_size and tuple(given.input_size[1:]) != sides:
        options = {"img_size": sides, **options}
    options |= {"num_classes": num_classes, "in_chans": in_channels}
    made = make_network(timm, name, pretrained and weights is None, options)
    if weights is not None:
        load_weights(made, read_weights(weights), num_classes, str(weights))
    shape = in_channels, *sides
    return cut_images(made, at, shape, num_classes=num_classes, head=head, gate=gate)


def make_network(timm: Any, name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """A network of timm by name.

    Raises:
        OptionError: if it does not take an option.
        CheckpointError: if weights are asked for and cannot be fetched.
    """
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, AssertionError) as error:
        raise OptionError(f"timm's {name!r} does not take {options}: {error}") from error
    except Exception as error:
        if not pretrained:
            raise OptionError(f"timm cannot make {name!r} with {options}: {error}") from error
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise CheckpointError(
            f"the weights of timm's {name!r} cannot be fetched ({why}); "
            "a file with them can be given as weights=path"
        ) from error
