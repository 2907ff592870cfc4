"""State dicts of the public MSDNet and BDL repositories, under the names used here.

Both name modules alike: github.com/kalviny/MSDNet-PyTorch (Huang et al. 2018) and
github.com/savertm/Block-Dependent-Losses-for-Multi-Exit-Networks (Han et al. 2023), whose networks
differ in what they compute again for a scheme, and not in their weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import CheckpointError

_NAMES = (
    (r"^blocks\.", "segments."),
    (r"^classifier\.(\d+)\.m\.(\d+)\.net\.", r"heads.\1.convs.\2."),
    (r"^classifier\.(\d+)\.linear\.", r"heads.\1.classifier."),
    (r"\.(?:layers|m)\.(\d+)\.", r".scales.\1."),
    (r"\.conv_(down|normal)\.", r".\1."),
    (r"\.net\.", "."),
)


def from_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the public repositories, under the names used here.

    Example:
        >>> list(from_public({"blocks.0.1.layers.2.conv_down.net.0.weight": weight}))
        ['segments.0.1.scales.2.down.0.weight']
    """
    return {_from_public(name): value for name, value in state.items()}


def check_size(state: Mapping[str, Tensor], num_exits: int, num_classes: int) -> None:
    """Raise what says that a renamed state dict is of a network with other exits or classes.

    With another number of exits scales are dropped elsewhere, so that hundreds of names differ, and
    none of them says why.

    Raises:
        CheckpointError: if it is.
    """
    heads = re.compile(r"heads\.\d+\.classifier\.bias")
    classes = [len(value) for name, value in state.items() if heads.fullmatch(name)]
    if classes and (len(classes), classes[-1]) != (num_exits, num_classes):
        raise CheckpointError(
            f"wanted the weights of a network with num_exits={num_exits}, "
            f"num_classes={num_classes}; got those of one with num_exits={len(classes)}, "
            f"num_classes={classes[-1]}"
        )


def _from_public(name: str) -> str:
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return name
