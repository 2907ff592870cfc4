"""Placements: the published targets, the first block that reaches each, in any network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import offramp
from offramp.backbones.blocks import find_blocks
from offramp.config import load_config
from offramp.errors import ConfigError, PlaceError, ValidationError
from offramp.placement import (
    RULES,
    Placement,
    as_placement,
    at_costs,
    fine,
    gold_ratio,
    linear,
    pareto,
)


# ------------------------------------------------------------------------- targets
@pytest.mark.parametrize("n", [1, 2, 6, 8])
def test_placement_shares_are_the_published_targets(n: int) -> None:
    phi = 1.61803398875
    for i in range(1, n + 1):
        assert fine(n).shares[i - 1] == pytest.approx(1 - 0.95**i, rel=1e-12)
        assert pareto(n).shares[i - 1] == pytest.approx(1 - 0.8**i, rel=1e-12)
        assert linear(n).shares[i - 1] == pytest.approx(i / (n + 1), rel=1e-12)
        assert gold_ratio(n).shares[i - 1] == pytest.approx(phi ** (i - 1 - n), rel=1e-9)
    assert all(len(rule(n).shares) == n for rule in RULES.values())


@pytest.mark.parametrize("rule", RULES)
def test_placement_takes_up_to_a_hundred_exits(rule: str) -> None:
    shares = RULES[rule](100).shares
    assert all(0 < a < b < 1 for a, b in pairwise(shares))


def scan(targets: list[float], costs: list[float]) -> list[int]:
    """As the paper says it: block by block, the exit that is due where its target is reached."""
    chosen: list[int] = []
    for block in range(len(costs)):
        if len(chosen) == len(targets):
            break
        if costs[block] >= targets[len(chosen)]:
            chosen.append(block)
    return chosen


@pytest.mark.parametrize("seed", range(20))
def test_placement_chooses_as_a_scan_over_the_blocks(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    costs = torch.rand(30, generator=source).cumsum(0)
    costs = (costs / costs[-1] * 0.98).tolist()
    for placement in (fine(5), pareto(4), linear(7), gold_ratio(6), at_costs(0.5)):
        wanted = scan(list(placement.shares), costs)
        if len(wanted) == len(placement.shares):
            assert placement.choose(costs) == wanted
        else:
            with pytest.raises(PlaceError, match=f"; {len(wanted)} fit"):
                placement.choose(costs)


def test_no_block_gets_two_exits() -> None:
    assert at_costs(0.1, 0.2, 0.3).choose([0.35, 0.5, 0.9]) == [0, 1, 2]


def test_placement_that_does_not_fit_says_how_many_do() -> None:
    with pytest.raises(PlaceError, match=r"for 3 early exits, at 0.2, 0.36, 0.488 .*; 1 fit.*0.3"):
        pareto(3).choose([0.1, 0.3])
    with pytest.raises(PlaceError, match="0 fit, as blocks end at none"):
        pareto(1).choose([])


# ------------------------------------------------------------------------- plain data
@pytest.mark.parametrize(
    ("plain", "wanted"),
    [
        ({"pareto": 6}, pareto(6)),
        ({"gold_ratio": 2}, gold_ratio(2)),
        ({"at_costs": [0.1, 0.4]}, at_costs(0.1, 0.4)),
        (linear(3), linear(3)),
        (["layer1"], None),
        ("layer1", None),
        (None, None),
    ],
)
def test_placement_can_be_said_in_plain_data(plain: object, wanted: Placement | None) -> None:
    assert as_placement(plain) == wanted


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "wanted a placement as one of fine, pareto, .*got {}"),
        ({"parteo": 3}, "one of fine, pareto, linear, gold_ratio .*got {'parteo': 3}"),
        ({"pareto": 3, "fine": 2}, "wanted a placement as one of"),
        ({"pareto": 0}, "pareto as a whole number from 1 to 100, got 0"),
        ({"pareto": True}, "got True"),
        ({"fine": 101}, "got 101"),
        ({"linear": 2.0}, "got 2.0"),
        ({"at_costs": 0.5}, "a list of shares for at_costs, got 0.5"),
        ({"at_costs": "0.5"}, "a list of shares for at_costs, got '0.5'"),
        ({"at_costs": []}, "shares of the network's cost between 0 and 1.*got none"),
        ({"at_costs": [0.2, 0.2]}, "got 0.2, 0.2"),
        ({"at_costs": [0.2, 1]}, "got 0.2, 1"),
        ({"at_costs": ["a"]}, "got 'a'"),
        ({"at_costs": [float("nan")]}, "got nan"),
    ],
)
def test_plain_data_that_say_no_placement_are_refused(plain: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        as_placement(plain)


def test_config_takes_a_placement_and_tells_its_faults() -> None:
    config = load_config("digits", ["model.at={pareto: 2}"])
    assert config.model.options["at"] == {"pareto": 2}
    for given, wanted in (
        ("model.at={parteo: 2}", "model.at: wanted a placement as one of fine, pareto"),
        ("model.at={linear: 0}", "model.at: wanted the number of early exits of linear"),
        ("model={name: ee_resnet, placement: {fine: -1}}", "model.placement: wanted the number"),
        ("model={name: ee_resnet, placement: middle}", "model.placement: got 'middle'"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config("digits", [given])
        [told] = caught.value.faults
        assert told.startswith(wanted)


# ------------------------------------------------------------------------- blocks
class Residual(nn.Module):
    """Two convolutions and a squeeze between, of two as well, around which the input is added."""

    def __init__(self, width: int, skip: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.squeeze = Squeeze(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.squeeze(self.conv1(x)))
        return y + x if self.skip else y


class Squeeze(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Stage(nn.Module):
    """Blocks with a norm at their end, as an encoder of a transformer has."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks, self.norm = nn.Sequential(*blocks), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(x))


IMAGE = torch.zeros(2, 3, 8, 8)


def answer() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]


def test_blocks_are_the_outermost_modules_with_weights_that_are_no_stages() -> None:
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    stages = [Stage(Residual(4, skip=False), Residual(4)), Stage(Residual(4)), Residual(4)]
    network = nn.Sequential(stem, *stages, *answer())
    found = find_blocks(network, IMAGE)
    assert [b.name for b in found] == ["1.blocks.0", "1.blocks.1", "2.blocks.0"]
    costs = {place.name: place.cost for place in offramp.places(network, IMAGE)}
    assert [b.cost for b in found] == [costs[b.name] for b in found]


def test_layers_are_the_blocks_of_a_plain_chain_each_with_what_follows_at_no_cost() -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3), nn.ReLU(), *answer()),
    )
    assert [b.name for b in find_blocks(network, IMAGE)] == ["3"]
    deeper = nn.Sequential(*network[:6], nn.Conv2d(4, 4, 1), nn.Dropout(), *answer())
    assert [b.name for b in find_blocks(deeper, IMAGE)] == ["3", "5"]


def torchvision(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("torchvision.models").get_model(name, **options)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "resnet18": (
        torchvision("resnet18"),
        ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0"],
    ),
    "densenet121": (torchvision("densenet121"), [f"features.denseblock{i}" for i in (1, 2, 3)]),
    "vgg11_bn": (
        torchvision("vgg11_bn"),
        [*(f"features.{i}" for i in (3, 7, 10, 14, 17, 21, 24)), "avgpool", "classifier.2"],
    ),
    "vit_b_16": (
        torchvision("vit_b_16", image_size=32),
        [f"encoder.layers.encoder_layer_{i}" for i in range(11)],
    ),
    "mobilenet_v2": (torchvision("mobilenet_v2"), [f"features.{i}" for i in range(1, 18)]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_of_known_networks_are_what_they_are_called(name: str) -> None:
    make, wanted = NETWORKS[name]
    found = find_blocks(make(), torch.zeros(1, 3, 32, 32))
    assert [block.name for block in found] == wanted
    costs = [block.cost for block in found]
    assert costs == sorted(costs) and costs[0] > 0 and costs[-1] < 1


def test_layers_of_the_densenet_for_cifar_are_blocks() -> None:
    network: Any = offramp.create_model("densenet_cifar", blocks=(2, 2, 2, 2), at=[]).network
    names = [block.name for block in find_blocks(network, torch.zeros(1, 3, 32, 32))]
    assert names == [f"dense{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)][:-1]


# ------------------------------------------------------------------------- in use
def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=50, num_hidden_layers=6, num_labels=3, **sizes)
    return transformers.BertForSequenceClassification(config)


def test_layers_of_a_hugging_face_encoder_cost_what_places_says() -> None:
    network = bert().train()
    example = {"input_ids": torch.ones(2, 7).long(), "attention_mask": torch.ones(2, 7).long()}
    found, listed = find_blocks(network, example), offramp.places(network, example)
    assert [block.name for block in found] == [f"bert.encoder.layer.{i}" for i in range(5)]
    assert [b.cost for b in found] == pytest.approx([place.cost for place in listed], rel=1e-9)
    assert network.training


@pytest.mark.parametrize("at", [at_costs(0.3, 0.6), {"at_costs": [0.3, 0.6]}])
def test_attach_puts_exits_where_a_placement_says(at: Any) -> None:
    network, example = bert(), torch.ones(2, 7).long()
    model = offramp.attach(network, at=at, example=example)
    assert model.num_exits == 3
    assert model.recipe is not None
    names = [f"bert.encoder.layer.{i}" for i in (1, 3)]
    assert model.recipe.options["at"] == names
    costs = {place.name: place.cost for place in offramp.places(network, example)}
    before = costs["bert.encoder.layer.0"], costs["bert.encoder.layer.2"]
    assert before[0] < 0.3 <= costs[names[0]] and before[1] < 0.6 <= costs[names[1]]


MODELS: dict[str, tuple[dict[str, Any], Any, list[str]]] = {
    "resnet_cifar": ({"depth": 14}, pareto(2), ["layer1.1", "layer2.0"]),
    "resnet20_cifar": ({}, {"at_costs": [0.5]}, ["layer2.1"]),
    "torchvision": ({"network": "resnet18", "image_size": 32}, linear(1), ["layer2.1"]),
    "timm": ({"network": "resnet18", "image_size": 32}, {"linear": 1}, ["layer2.1"]),
    "hrnet": ({}, linear(1), ["stage2"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_take_places_take_a_placement_and_keep_the_names(name: str) -> None:
    options, at, wanted = MODELS[name]
    if name in ("torchvision", "timm", "hrnet"):
        pytest.importorskip("torchvision" if name == "torchvision" else "timm")
    model = offramp.create_model(name, **options, num_classes=3, at=at)
    assert model.recipe is not None
    assert model.recipe.options == {**options, "num_classes": 3, "at": wanted}
    assert model.num_exits == len(wanted) + 1


def test_model_of_a_placement_comes_back_from_a_bundle(tmp_path: Path) -> None:
    model = offramp.create_model("resnet_cifar", depth=8, at=linear(1)).eval()
    loaded = offramp.load(offramp.save(tmp_path / "bundle", model)).model
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for ours, theirs in zip(model(x), loaded(x), strict=True):
            assert torch.equal(ours.logits, theirs.logits)
    assert loaded.recipe == model.recipe


def test_placement_that_does_not_fit_a_network_names_its_last_blocks() -> None:
    with pytest.raises(
        PlaceError, match=r"; 2 fit.*the last of them: layer1.0, layer2.0\).*places"
    ):
        offramp.create_model("resnet_cifar", depth=8, at=pareto(5))
