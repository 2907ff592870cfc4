"""Attaching exits to a network that is there already."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .backbones.blocks import resolve
from .backbones.cut import cut
from .backbones.encoder import cut_stack, is_stack
from .errors import PlaceError, ValidationError
from .examples import describe
from .heads.build import HeadSpecs
from .model import MultiExitModel, Recipe
from .placement import At, Placement
from .trees import State


def attach(
    network: nn.Module,
    at: At,
    *,
    example: State,
    num_classes: int | None = None,
    head: HeadSpecs = "auto",
    gate: bool = False,
) -> MultiExitModel:
    """Turn a network into a multi-exit model that shares its parameters.

    Exit k reads the output of the module named ``at[k]``; the network's own classifier is the last
    exit, so there are ``len(at) + 1``. Training the model trains the network.

    Args:
        network: any network that torch.fx can trace around these places, or a Hugging Face encoder.
        at: names of modules, in the order in which they run; `places` lists them. Or an
            `offramp.placement`, such as ``pareto(6)``, which goes by cost.
        example: inputs of the network, batch first: a tensor, a tuple or a dict of tensors.
        num_classes: number of classes, C, checked against the network's own answer.
        head: ``auto``, ``linear``, ``conv``, ``dense``, ``pooler`` or ``flat``; a kind with its
            options, as ``{"kind": "flat", "pool": 4}``; a function from the shape of the value to a
            module on that value; or one of these per early exit.
        gate: give each early exit a gate, the logit of "leave here".

    Raises:
        PlaceError: if an exit cannot go to one of the places; the message lists valid ones. Or if
            not all exits of a placement fit; the message says how many do.
        ValidationError: if the network, the example or an option does not fit.

    Example:
        >>> network = torchvision.models.resnet18(num_classes=10)
        >>> x = torch.zeros(2, 3, 64, 64)
        >>> model = attach(network, ["layer1", "layer2", "layer3"], example=x)
        >>> model(torch.zeros(8, 3, 64, 64))[0].logits.shape
        torch.Size([8, 10])
    """
    if not isinstance(network, nn.Module):
        raise ValidationError(
            f"wanted a torch.nn.Module to attach exits to, got {type(network).__name__}"
        )
    if not isinstance(at, Placement | Mapping) and not at:
        raise PlaceError(
            "wanted at least one place for an early exit, got none: see offramp.places"
        )
    make = cut_stack if is_stack(network) else cut
    with torch.inference_mode(False):  # heads made in inference mode could not be trained
        names = resolve(network, at, example)
        parts = make(network, names, example, num_classes=num_classes, head=head, gate=gate)
    model = MultiExitModel(
        parts.segments, parts.heads, network=parts.network, compact=parts.compact
    )
    options = {"at": list(names), "num_classes": num_classes, "head": head, "gate": gate}
    model.recipe = Recipe("attach", {**options, "example": describe(example)})
    return model
