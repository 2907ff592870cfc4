"""Attaching exits to the networks that people have: torchvision, timm and Hugging Face."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from offramp import attach, places
from offramp.errors import OptionError, PlaceError, ValidationError
from offramp.model import MultiExitModel

SMALL, USUAL = 64, 224


def torchvision(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = pytest.importorskip("torchvision.models")
        return getattr(models, name)(**options)

    return make


def timm(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return pytest.importorskip("timm").create_model(name, **options)

    return make


# name -> (maker, side of the image, three places of which the second is cut in the quick tier)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, list[str]]] = {
    "resnet18": (torchvision("resnet18"), SMALL, ["layer1", "layer2.0", "layer3"]),
    "resnet50": (torchvision("resnet50"), SMALL, ["layer1", "layer2.1.conv2", "layer3"]),
    "densenet121": (
        torchvision("densenet121", drop_rate=0.1),
        SMALL,
        ["features.denseblock1", "features.denseblock2.denselayer3", "features.transition3"],
    ),
    "vgg11_bn": (torchvision("vgg11_bn"), SMALL, ["features.8", "features.15", "classifier.0"]),
    "mobilenet_v3_small": (
        torchvision("mobilenet_v3_small"),
        SMALL,
        ["features.2", "features.5", "features.9"],
    ),
    "efficientnet_b0": (
        torchvision("efficientnet_b0"),
        SMALL,
        ["features.2", "features.4.1", "features.6"],
    ),
    "vit_b_16": (
        torchvision("vit_b_16", image_size=SMALL, dropout=0.1),
        SMALL,
        [f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8)],
    ),
    "swin_t": (torchvision("swin_t"), SMALL, ["features.1", "features.3.1", "features.5"]),
    "convnext_tiny": (
        torchvision("convnext_tiny"),
        SMALL,
        ["features.1", "features.3.2", "features.5"],
    ),
    "timm resnet50": (timm("resnet50"), SMALL, ["layer1", "layer2.3", "layer3"]),
    "timm vit_tiny_patch16_224": (
        timm("vit_tiny_patch16_224", drop_path_rate=0.1),
        USUAL,
        ["blocks.2", "blocks.5", "blocks.8"],
    ),
    "timm swin_tiny_patch4_window7_224": (
        timm("swin_tiny_patch4_window7_224"),
        USUAL,
        ["layers.0", "layers.1", "layers.2"],
    ),
    "timm efficientnet_b0": (
        timm("efficientnet_b0", drop_path_rate=0.2),
        SMALL,
        ["blocks.1", "blocks.3.1", "blocks.5"],
    ),
    "timm mobilenetv4_conv_small": (
        timm("mobilenetv4_conv_small"),
        SMALL,
        ["blocks.0", "blocks.2.1", "blocks.3"],
    ),
}


def last(model: MultiExitModel, x: Tensor) -> Tensor:
    """The last exit's answer, early heads not run."""
    state = x
    for segment in model.segments:
        state = segment(state)
    return model.heads[-1](state).logits


def check(make: Callable[[], nn.Module], side: int, at: list[str]) -> None:
    """What attach promises: the same answers in both modes, any batch size, the same parameters."""
    torch.manual_seed(0)
    network = make()
    twin = copy.deepcopy(network)
    model = attach(network, at, example=torch.randn(1, 3, side, side))
    assert model.num_exits == len(at) + 1
    x = torch.randn(3, 3, side, side)
    for training in (False, True):
        model.train(training), twin.train(training)
        torch.manual_seed(1)
        with torch.no_grad():
            expected = twin(x)
        torch.manual_seed(1)
        with torch.set_grad_enabled(training):
            answer = last(model, x)
        assert torch.equal(answer, expected), f"training={training}"
    answer.square().mean().backward()
    untouched = [name for name, p in network.named_parameters() if p.grad is None]
    assert not untouched
    for ours, theirs in zip(network.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    outputs = model.eval()(x)
    assert [tuple(out.logits.shape) for out in outputs] == [tuple(expected.shape)] * len(outputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_attach_keeps_the_network_as_it_was(name: str) -> None:
    make, side, at = NETWORKS[name]
    check(make, side, at[1:2])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_attach_keeps_the_network_as_it_was_at_three_places(name: str) -> None:
    check(*NETWORKS[name])


def test_training_through_offramp_trains_the_original_network() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model = attach(network, ["1"], example=torch.zeros(2, 4))
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    sum(out.logits.square().sum() for out in model(torch.randn(8, 4))).backward()
    optimizer.step()
    assert list(network.state_dict()) == list(before)
    assert all(not torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_network_that_is_no_module_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"wanted a torch.nn.Module.*got str"):
        attach("resnet18", ["layer1"], example=torch.zeros(1, 3, 8, 8))


def test_attached_model_knows_its_recipe_and_nothing_of_the_example_but_its_shape() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model = attach(network, ("1",), example=torch.full((5, 4), 7.5), gate=True)
    assert model.recipe is not None
    assert model.recipe.name == "attach"
    assert model.recipe.options == {
        "at": ["1"],
        "num_classes": None,
        "head": "auto",
        "gate": True,
        "example": {"shape": [4], "dtype": "float32"},
    }


def test_linear_head_on_tokens_leaves_padding_out_however_it_is_asked_for() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=50, num_hidden_layers=2, num_labels=3, **sizes)
    network = transformers.BertForSequenceClassification(config).eval()
    place, ids = ["bert.encoder.layer.0"], torch.randint(1, 50, (2, 6))
    example = {"input_ids": ids, "attention_mask": torch.ones(2, 6).long()}
    model = attach(network, place, example=example, head={"kind": "linear"}).eval()
    padded = {name: nn.functional.pad(value, (0, 3)) for name, value in example.items()}
    with torch.no_grad():
        torch.testing.assert_close(model(padded)[0].logits, model(example)[0].logits)
    with pytest.raises(OptionError, match=r"linear head on tokens takes no options, got ..norm"):
        attach(network, place, example=example, head={"kind": "linear", "norm": True})


# --------------------------------------------------------------------------- maps
class Segmenter(nn.Module):
    """Answers with a dict of maps, at the resolution of the image, as torchvision's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.classifier, self.other = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.second(self.first(x).relu()).relu()
        size = x.shape[-2:]
        out = nn.functional.interpolate(self.classifier(features), size, mode="bilinear")
        return {"aux": self.other(features), "out": out}


@pytest.mark.parametrize("size", [(64, 64), (45, 61), (180, 240)])
def test_network_that_answers_with_a_dict_of_maps_keeps_its_answer(size: tuple[int, int]) -> None:
    network = Segmenter().eval()
    model = attach(network, ["first"], example=torch.randn(1, 3, 36, 44)).eval()
    images = torch.randn(3, 3, *size)
    first, second = model(images)
    assert first.logits.shape == (3, 4, -(-size[0] // 2), -(-size[1] // 2))
    assert torch.equal(second.logits, network(images)["out"])


def segformer() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"depths": [1] * 4, "num_attention_heads": [1] * 4, "hidden_sizes": [8, 16, 24, 32]}
    config = transformers.SegformerConfig(**sizes, decoder_hidden_size=16, num_labels=5)
    return transformers.SegformerForSemanticSegmentation(config)


def mobilenet() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(num_labels=5, depth_multiplier=0.35)
    return transformers.MobileNetV2ForSemanticSegmentation(config)


@pytest.mark.parametrize(
    ("make", "at"),
    [
        (segformer, ["segformer.stages.0", "segformer.stages.2"]),  # its decoder reads all stages
        (mobilenet, ["mobilenet_v2.layer.5"]),
    ],
)
def test_transformers_network_for_maps_keeps_its_answer(
    make: Callable[[], nn.Module], at: list[str]
) -> None:
    network = make()
    example = torch.randn(2, 3, 45, 60)
    assert set(at) <= {place.name for place in places(network, example)}
    model = attach(network, at, example=example).eval()
    images = torch.randn(3, 3, 64, 80)
    with torch.no_grad():
        outputs, wanted = model(images), network(images).logits
    assert torch.equal(outputs[-1].logits, wanted)
    assert all(out.logits.shape[:2] == (3, 5) and out.logits.dim() == 4 for out in outputs)


def test_network_that_tracing_loses_something_of_is_refused() -> None:
    class Remembers(nn.Module):
        """Reads what a hook has kept, which nothing keeps while it is traced."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
            self.first.register_forward_hook(lambda *given: self.kept.append(given[-1]))

        def forward(self, x: Tensor) -> Tensor:
            self.kept = []
            self.first(x)
            return self.second(*self.kept)

    with pytest.raises(PlaceError, match=r"torch.fx cannot follow Remembers.*fails with TypeError"):
        attach(Remembers(), ["first"], example=torch.zeros(2, 4))
