"""DenseNets for CIFAR: sizes from the layer formula, and what their names say they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.backbones.densenet_cifar import CifarDenseNet
from offramp.costs import count_macs
from offramp.errors import CheckpointError, OptionError, PlaceError, ValidationError
from offramp.model import create_model

SMALL: dict[str, Any] = {"growth": 4, "blocks": (2, 1, 3, 1), "num_classes": 7}


def _formula(growth: int, blocks: tuple[int, ...], classes: int) -> tuple[int, int]:
    """Weights, and multiply-accumulates for 32 x 32 pixels: Huang et al. 2017, section 3."""
    width, area = 2 * growth, 32 * 32
    params, macs = 27 * width, 27 * width * area
    for number, layers in enumerate(blocks):
        for _ in range(layers):
            convs = width * 4 * growth + 9 * 4 * growth * growth
            params, macs = params + convs + 2 * width + 8 * growth, macs + convs * area
            width += growth
        if number < 3:
            conv = width * (width // 2)
            params, macs = params + conv + 2 * width, macs + conv * area
            width, area = width // 2, area // 4
    return params + 2 * width + (width + 1) * classes, macs + width * classes


# --------------------------------------------------------------------------- sizes
@pytest.mark.parametrize(
    ("growth", "exact"), [(12, 1_000_618), (32, 6_956_298)]
)  # as github.com/kuangliu/pytorch-cifar has them, ten classes
def test_densenet_cifar_has_the_published_parameters(growth: int, exact: int) -> None:
    with torch.device("meta"):
        network = CifarDenseNet(growth=growth)
    found = sum(p.numel() for p in network.parameters())
    assert found == exact == _formula(growth, (6, 12, 24, 16), 10)[0]


def test_densenet_cifar_costs_what_its_layers_do() -> None:
    model = create_model("densenet_cifar", **SMALL, gate=True).eval()
    pieces = count_macs(model, torch.zeros(1, 3, 32, 32))
    assert int(pieces.segments.sum()) == _formula(4, SMALL["blocks"], 7)[1]
    assert pieces.heads.tolist() == [8 * 8, 6 * 8, 9 * 8, 0]  # channels times classes and gate


# --------------------------------------------------------------------------- what it computes
def _by_hand(state: dict[str, Tensor], images: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """Logits from the public names alone."""

    def norm(name: str, x: Tensor) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in parts)).relu()

    x = F.conv2d(images, state["conv1.weight"], padding=1)
    for block, layers in enumerate(blocks, 1):
        for i in range(layers):
            at = f"dense{block}.{i}"
            y = F.conv2d(norm(f"{at}.bn1", x), state[f"{at}.conv1.weight"])
            y = F.conv2d(norm(f"{at}.bn2", y), state[f"{at}.conv2.weight"], padding=1)
            x = torch.cat([y, x], 1)
        if block < 4:
            x = F.conv2d(norm(f"trans{block}.bn", x), state[f"trans{block}.conv.weight"])
            x = F.avg_pool2d(x, 2)
    x = norm("bn", x).flatten(2).mean(2)
    return F.linear(x, state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("size", [(32, 32), (33, 40)])
def test_densenet_cifar_computes_what_its_names_say(size: tuple[int, int]) -> None:
    network = CifarDenseNet(**SMALL, in_channels=2).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    images = torch.randn(3, 2, *size)
    with torch.no_grad():
        ours = network(images)
        theirs = _by_hand(network.state_dict(), images, SMALL["blocks"])
    assert ours.shape == (3, 7)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_densenet_cifar_last_exit_is_the_plain_network() -> None:
    model = create_model("densenet_cifar", **SMALL, gate=True).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        outputs, plain = model(images), model.network(images)
    assert torch.equal(outputs[-1].logits, plain)
    assert [tuple(out.logits.shape) for out in outputs] == [(3, 7)] * 4
    assert [out.gate is not None for out in outputs] == [True, True, True, False]
    within = create_model("densenet_cifar", **SMALL, at=["dense1.0", "dense3.1"])
    assert [head.classifier.in_features for head in within.heads[:-1]] == [12, 14]


# --------------------------------------------------------------------------- weights and errors
def test_densenet_cifar_takes_public_weights_by_name_and_no_others(tmp_path: Path) -> None:
    public = CifarDenseNet(**SMALL)
    torch.save({"state_dict": public.state_dict()}, tmp_path / "w.pth")
    model = create_model("densenet_cifar", **SMALL, at=(), checkpoint=tmp_path / "w.pth")
    own = model.network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in public.state_dict().items())
    with pytest.raises(CheckpointError, match="names are missing"):
        other = {**SMALL, "blocks": (2, 2, 3, 1)}
        create_model("densenet_cifar", **other, at=(), checkpoint=tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"growth": 0}, ValidationError, "wanted growth as a whole number .* got 0"),
        ({"blocks": (6, 12, 24)}, ValidationError, r"four whole numbers .* got \(6, 12, 24\)"),
        ({"blocks": (6, 12, 24, 0)}, ValidationError, "four whole numbers"),
        ({"blocks": 121}, ValidationError, "four whole numbers of at least 1, got 121"),
        ({"num_classes": "10"}, ValidationError, "wanted num_classes .* got '10'"),
        ({"at": ["trans4"]}, PlaceError, "trans4"),
        ({"depth": 121}, OptionError, "it takes"),
    ],
)
def test_densenet_cifar_says_what_it_wanted(options, error, message) -> None:
    with pytest.raises(error, match=message):
        create_model("densenet_cifar", **{**SMALL, **options})
