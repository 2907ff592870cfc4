"""VGG networks with batch norm for 32 x 32 images (Simonyan and Zisserman 2015).

Module names are those of torchvision's VGG, which public code for CIFAR has kept, so weights load
by name: those of github.com/chenyaofo/pytorch-cifar-models with ``hidden=512``, those of
github.com/huyvnphan/PyTorch_CIFAR10 with ``hidden=4096``. LEENet takes the latter's VGG-11 for
CIFAR-10 and the former's for CIFAR-100. Networks without batch norm are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ValidationError
from ..heads.build import HeadSpecs
from ..placement import At
from .base import Parts, register
from .cut import cut
from .library import check_sizes

# convolutions between two poolings, for each of the five resolutions
_CONVS = {11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


@register("vgg_cifar")
def vgg_cifar(
    *,
    depth: int = 11,
    hidden: int = 512,
    num_classes: int = 10,
    in_channels: int = 3,
    at: At | None = None,
    head: HeadSpecs = "auto",
    gate: bool = False,
) -> Parts:
    """A VGG with batch norm for CIFAR, cut where exits go.

    Takes images [N, in_channels, H, W] of at least 32 x 32. A convolution, its batch norm and its
    ReLU are three entries of ``features``, a pooling is one: those of VGG-11 are ``features.3``,
    ``.7``, ``.14``, ``.21`` and ``.28``.

    Args:
        depth: layers with weights: 11, 13, 16 or 19.
        hidden: width of the two hidden layers of the classifier.
        num_classes: number of classes, C.
        in_channels: channels of the images: 3, or 1 for shades of grey.
        at: names of modules after which early exits go, or an `offramp.placement`; by default the
            second, third and fourth pooling, an empty list gives the plain network.
        head: kind of the early heads, see `offramp.attach`.
        gate: give each early exit a gate.

    Raises:
        ValidationError: if there is no such network.
        PlaceError: if an exit cannot go to one of the places.

    Example:
        >>> model = offramp.create_model("vgg_cifar", num_classes=100)
        >>> [tuple(out.logits.shape) for out in model(torch.zeros(8, 3, 32, 32))]
        [(8, 100), (8, 100), (8, 100), (8, 100)]
    """
    network = CifarVgg(depth, num_classes, hidden=hidden, in_channels=in_channels)
    places = network.poolings()[1:4] if at is None else at
    example = torch.zeros(2, in_channels, 32, 32)
    return cut(network, places, example, num_classes=num_classes, head=head, gate=gate)


class CifarVgg(nn.Module):
    """The plain network: images [N, in_channels, H, W] to logits [N, C].

    Args:
        depth, num_classes, hidden, in_channels: see `vgg_cifar`.

    Raises:
        ValidationError: if there is no such network.
    """

    def __init__(
        self, depth: int = 11, num_classes: int = 10, *, hidden: int = 512, in_channels: int = 3
    ) -> None:
        super().__init__()
        if not isinstance(depth, int) or depth not in _CONVS:
            raise ValidationError(f"wanted depth as one of {list(_CONVS)}, got {depth!r}")
        check_sizes(num_classes=num_classes, hidden=hidden, in_channels=in_channels)
        self.features = _features(_CONVS[depth], in_channels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)  # nothing to average where images have 32 pixels
        self.classifier = nn.Sequential(
            nn.Linear(_WIDTHS[-1], hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, in_channels, H, W] -> [N, C]."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))

    def poolings(self) -> list[str]:
        """Names of the five poolings, each the end of a resolution."""
        numbered = enumerate(self.features)
        return [f"features.{i}" for i, layer in numbered if isinstance(layer, nn.MaxPool2d)]


# --------------------------------------------------------------------------- helpers
def _features(convs: Sequence[int], n_in: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, num in zip(_WIDTHS, convs, strict=True):
        for _ in range(num):
            conv = nn.Conv2d(n_in, width, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            n_in = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    """As torchvision; batch norms start as 1 and 0 by themselves."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
