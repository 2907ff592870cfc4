"""A bundle gives back what was saved: every model family, attached networks, every policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import offramp
from offramp.data.preprocess import Preprocess
from offramp.errors import BundleError
from offramp.policies import Control
from offramp.registry import policies

from .conftest import Made, fitted, mlp, scramble

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
SMALL = {"num_classes": 3, "image_size": 32}

# every registered model -> options that make a small one
FAMILIES: dict[str, list[dict[str, Any]]] = {
    "msdnet": [
        {"num_classes": 4, "num_exits": 3, "base": 1, "step": 1, "growth_factors": (1, 2, 4)}
    ],
    "resnet_cifar": [
        {"depth": 11, "block": "bottleneck", "shortcut": "B", "gate": True, "head": "conv"},
        {"depth": 8, "in_channels": 1, "at": ("layer1.0", "layer2"), "head": ["linear", "conv"]},
    ],
    **{f"resnet{d}_cifar": [{"at": ["layer1"]}] for d in (20, 32, 44, 56, 110)},
    "timm": [
        {"network": "resnet18", "at": ["layer1", "layer3"], "in_channels": 1, **SMALL},
        {
            "network": "vit_tiny_patch16_224.augreg_in21k",
            "at": ["blocks.1"],
            "network_options": {"depth": 3, "drop_path_rate": 0.1},
            **SMALL,
        },
    ],
    "torchvision": [
        {"network": "mobilenet_v3_small", "at": ["features.2"], "in_channels": 1, **SMALL},
        {"network": "squeezenet1_1", "at": ["features.4"], "head": "conv", "gate": True, **SMALL},
    ],
    "small_fcn": [{"num_classes": 4, "num_exits": 3, "width": 8}],
    "ee_resnet": [
        {"exits": 2, "placement": "linear", "head": ["plain", "bnpool"], "depth": 8},
        {"depth": 18, "image_size": 32, "placement": {"at_costs": [0.5]}, "in_channels": 1},
    ],
    "eenet8": [{"num_classes": 4, "in_channels": 3}],
    "leenet": [{"network": "densenet121_cifar", "network_options": {"growth": 4}}],
    "densenet_cifar": [{"growth": 4, "blocks": [2, 1, 3, 1], "in_channels": 1}],
    "vgg_cifar": [{"hidden": 32, "at": ["features.7"]}],
    "hrnet": [{"num_classes": 4, "at": ["stage2"]}],
}

# as resnet20_cifar, only slower; and a large one
LARGE = {*(f"resnet{d}_cifar" for d in (32, 44, 56, 110)), "hrnet"}


def test_every_registered_model_has_a_round_trip_here() -> None:
    plug_ins = {name for name in offramp.list_models() if "." in name or "test" in name}
    assert set(offramp.list_models()) - plug_ins == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(n, o, marks=[pytest.mark.slow] if n in LARGE else [])
        for n, many in FAMILIES.items()
        for o in many
    ],
)
def test_built_in_model_comes_back_bit_by_bit(
    name: str, options: dict[str, Any], tmp_path: Path, check_same: Callable[..., None]
) -> None:
    model = offramp.create_model(name, **options)
    scramble(model)
    path = offramp.save(tmp_path / "bundle", model)
    state = torch.get_rng_state()
    bundle = offramp.load(path)
    assert torch.equal(torch.get_rng_state(), state)
    check_same(model, bundle.model, IMAGES[:, : options.get("in_channels", 3)])
    assert bundle.recipe is not None and bundle.recipe.name == name
    assert offramp.save(tmp_path / "again", bundle.model).is_dir()
    assert _document(tmp_path / "again")["recipe"] == _document(tmp_path / "bundle")["recipe"]


# --------------------------------------------------------------------------- attached networks
def torchvision_resnet() -> nn.Module:
    return pytest.importorskip("torchvision.models").resnet18(num_classes=3)


def torchvision_vit() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    sizes = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    return models.VisionTransformer(32, **sizes, num_classes=3)


def timm_mobilenet() -> nn.Module:
    return pytest.importorskip("timm").create_model("mobilenetv4_conv_small", num_classes=3)


def tied() -> nn.Module:
    network = mlp()
    network.append(nn.Linear(3, 8)).append(nn.Linear(8, 8)).append(nn.Linear(8, 3))
    network[7].weight = network[3].weight
    return network


ATTACHED: dict[str, tuple[Callable[[], nn.Module], list[str], torch.Tensor]] = {
    "torchvision resnet18": (torchvision_resnet, ["layer1", "layer2.0"], IMAGES),
    "torchvision vit, named heads": (torchvision_vit, ["encoder.layers.encoder_layer_0"], IMAGES),
    "timm mobilenetv4": (timm_mobilenet, ["blocks.1", "blocks.2"], IMAGES),
    "shared parameters": (tied, ["2", "4"], torch.randn(5, 4)),
}


@pytest.mark.parametrize("name", ATTACHED)
def test_attached_network_comes_back_bit_by_bit(
    name: str, tmp_path: Path, check_same: Callable[..., None]
) -> None:
    make, at, inputs = ATTACHED[name]
    model = offramp.attach(make(), at, example=inputs, gate=True)
    scramble(model)
    path = offramp.save(tmp_path / "bundle", model)
    fresh = make()
    bundle = offramp.load(path, network=fresh)
    assert bundle.model.network is fresh
    check_same(model, bundle.model, inputs)
    stored = load_file(path / "model.safetensors")
    # whoever has no offramp reads the network's tensors by the network's own names
    plain = make()
    missing, unknown = plain.load_state_dict(stored, strict=False)
    doubled = set() if name != "shared parameters" else {"7.weight"}
    assert set(missing) == doubled
    assert all(n.startswith(("heads.", "exit_heads.")) for n in unknown)
    assert all(torch.equal(v, model.network.state_dict()[n]) for n, v in plain.state_dict().items())
    assert len(stored) == len(model.state_dict()) - len(doubled)


def bert(**options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=40, intermediate_size=32, num_labels=3, **sizes)
    return transformers.BertForSequenceClassification(config)


def roberta() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    more = {"intermediate_size": 32, "num_labels": 3, "type_vocab_size": 1, "pad_token_id": 1}
    config = transformers.RobertaConfig(vocab_size=40, **sizes, **more)
    return transformers.RobertaForSequenceClassification(config)


def vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.ViTConfig(image_size=32, intermediate_size=32, num_labels=3, **sizes)
    return transformers.ViTForImageClassification(config)


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (bert, "bert.encoder.layer.0"),
        (roberta, "roberta.encoder.layer.1"),
        (vit, "vit.layers.0"),
    ],
)
def test_hugging_face_network_comes_back_bit_by_bit(
    make: Callable[[], nn.Module], place: str, tmp_path: Path, check_same: Callable[..., None]
) -> None:
    torch.manual_seed(1)
    network = make()
    if make is vit:
        inputs: Any = {"pixel_values": IMAGES}
        (place,) = [p.name for p in offramp.places(network, inputs)][:1]
    else:
        mask = (torch.arange(7)[None] < torch.tensor([[3], [7], [5], [2]])).long()
        ids = torch.randint(2, 40, (4, 7))
        inputs = {"input_ids": torch.where(mask > 0, ids, 1), "attention_mask": mask}
    model = offramp.attach(network, [place], example=inputs)
    scramble(model)
    path = offramp.save(tmp_path / "bundle", model)
    bundle = offramp.load(path, network=make())
    check_same(model, bundle.model, inputs)
    assert bundle.model._compact is model._compact  # trims padding where the saved one did
    words = (path / "bundle.json").read_text(encoding="utf-8")
    assert str(ids.tolist()[0]) not in words if make is not vit else True


# --------------------------------------------------------------------------- policies and facts
@pytest.mark.parametrize("temperature", [False, True])
@pytest.mark.parametrize("name", offramp.list_policies())
def test_every_policy_comes_back_or_is_refused(
    name: str, temperature: bool, tmp_path: Path
) -> None:
    inputs = torch.randn(60, 4)
    model = offramp.attach(mlp(), ["2", "4"], example=inputs, gate=True)
    if issubclass(policies.get(name), Control):  # type: ignore[arg-type]
        control = offramp.create_policy(name, 3)
        with pytest.raises(BundleError, match="offline control"):
            offramp.save(tmp_path / "bundle", model, policy=control)
        assert not list(tmp_path.iterdir())
        return
    policy, _ = fitted(model, inputs, name, temperature=temperature, reduce="quantile")
    path = offramp.save(tmp_path / "bundle", model, policy=policy)
    came = offramp.load(path, network=mlp()).policy
    assert type(came) is type(policy)
    assert came.options() == policy.options()
    assert list(came.points) == ["fast", "b. 2", "slow"]
    for point in [None, *policy.points]:
        if point is not None:
            policy.use(point), came.use(point)
        for key, value in policy.state_dict().items():
            assert torch.equal(value, came.state_dict()[key])
        wanted, got = (offramp.run(model.eval(), p, inputs) for p in (policy, came))
        assert torch.equal(wanted.exits, got.exits)
        assert torch.equal(wanted.logits, got.logits)


def test_fixed_policy_keeps_its_exit(tmp_path: Path) -> None:
    model = offramp.attach(mlp(), ["2", "4"], example=torch.randn(4, 4))
    path = offramp.save(tmp_path / "b", model, policy=offramp.create_policy("fixed", 3, exit=1))
    bundle = offramp.load(path, network=mlp())
    assert offramp.run(bundle.model, bundle.policy, torch.randn(5, 4)).exits.tolist() == [1] * 5


def test_facts_come_back(attached: Made) -> None:
    bundle = offramp.load(attached.path, network=mlp())
    assert bundle.class_names == ("class 0", "class 1", "class 2")
    assert bundle.info == {"runs": [1, 2]}
    assert bundle.preprocess is None
    assert bundle.costs is not None
    assert bundle.costs.to_dict() == attached.costs.to_dict()
    assert bundle.policy is not None and not bundle.policy.training


def test_preprocessing_comes_back_as_ours_or_as_plain_data(tmp_path: Path) -> None:
    model = offramp.attach(mlp(), ["2"], example=torch.randn(4, 4))
    ours = Preprocess(size=(32, 48), resize=None, mean=(0.5,), std=(0.25,), mode="L")

    class Tokens:
        def to_dict(self) -> dict[str, Any]:
            return {"length": 128, "lower": True}

    for given, wanted in ((ours, ours), (Tokens(), Tokens().to_dict())):
        path = offramp.save(tmp_path / "b", model, preprocess=given)
        first = offramp.load(path, network=mlp())
        assert first.preprocess == wanted
        offramp.save(path, first.model, preprocess=first.preprocess)
        assert offramp.load(path, network=mlp()).preprocess == wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precision_comes_back(dtype: torch.dtype, tmp_path: Path, check_same: Any) -> None:
    for model, network in (
        (offramp.create_model("resnet_cifar", depth=8), None),
        (offramp.attach(mlp(), ["2"], example=torch.randn(4, 4)), mlp().to(dtype)),
    ):
        scramble(model.to(dtype))
        path = offramp.save(tmp_path / "b", model)
        inputs = IMAGES if network is None else torch.randn(6, 4)
        check_same(model, offramp.load(path, network=network).model, inputs.to(dtype))


def test_heads_made_by_a_function_are_given_again(tmp_path: Path, check_same: Any) -> None:
    def wide(shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Linear(shape[1], 5), nn.Tanh(), nn.Linear(5, 3))

    inputs = torch.randn(6, 4)
    for spec in (wide, ["linear", wide]):
        model = offramp.attach(mlp(), ["2", "4"], example=inputs, head=spec)
        path = offramp.save(tmp_path / "b", model)
        with pytest.raises(BundleError, match=r"heads made by a function \(.*wide\).*head=\.\.\."):
            offramp.load(path, network=mlp())
        check_same(model, offramp.load(path, network=mlp(), head=wide).model, inputs)
        check_same(model, offramp.load(path, network=mlp(), head=spec).model, inputs)
    missing = r"does not fit this bundle: 4 tensors are missing, as heads.1.module"
    with pytest.raises(BundleError, match=missing):
        offramp.load(path, network=mlp(), head=["linear", "linear"])


def test_heads_that_are_tied_come_back(tmp_path: Path, check_same: Any) -> None:
    inputs = torch.randn(6, 4)
    model = offramp.attach(mlp(), ["2", "4"], example=inputs)
    model.heads[1].classifier = model.heads[0].classifier
    path = offramp.save(tmp_path / "b", model)
    check_same(model, offramp.load(path, network=mlp()).model, inputs)


def test_bundle_in_training_mode_is_saved_as_it_is_and_loaded_to_answer(
    attached: Made, check_same: Any, tmp_path: Path
) -> None:
    model = attached.model.train()
    path = offramp.save(tmp_path / "b", model)
    assert model.training
    check_same(model, offramp.load(path, network=mlp().train()).model, attached.inputs)


def test_attached_model_can_be_trained_on_after_loading(attached: Made) -> None:
    network = mlp()
    model = offramp.load(attached.path, network=network).model.train()
    sum(out.logits.square().sum() for out in model(torch.randn(8, 4))).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_pretrained_weights_are_no_part_of_the_recipe(tmp_path: Path) -> None:
    network = offramp.create_model("torchvision", network="squeezenet1_1", at=[], **SMALL).network
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    options = {"network": "squeezenet1_1", "at": [], "weights": str(tmp_path / "weights.pt")}
    model = offramp.create_model("torchvision", **options, **SMALL)
    path = offramp.save(tmp_path / "bundle", model)
    (tmp_path / "weights.pt").unlink()
    assert str(tmp_path) not in (path / "bundle.json").read_text(encoding="utf-8")
    ours, theirs = offramp.load(path).model.network.features[0], network.features[0]
    assert torch.equal(ours.weight, theirs.weight)


def _document(path: Path) -> dict[str, Any]:
    return json.loads((path / "bundle.json").read_text(encoding="utf-8"))
