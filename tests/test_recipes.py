"""Every recipe that ships: it says how it is run, and what it names is there and within reach."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch

import offramp
from offramp.config import Config, load_config
from offramp.errors import DataError, UnknownNameError
from offramp.recipes import list_recipes, recipe_path, recipe_summary
from offramp.train import route_table
from offramp.train.gate_data import linear_gates
from offramp.train.parts import trainable
from offramp.train.schedules import factor, find

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "svhn": (3, 32, 32),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "camvid": (3, 180, 240),
    "cityscapes": (3, 1024, 2048),
    "tiny_imagenet": (3, 64, 64),
}
CLASSES = {"cifar100": 100, "imagenet": 1000, "camvid": 11, "cityscapes": 19, "tiny_imagenet": 200}


def example_of(config: Config) -> torch.Tensor:
    side = config.data.options.get("image_size", 0)
    return torch.zeros(2, *SHAPES.get(config.data.name, (3, side, side)), device="meta")


def model_of(config: Config) -> offramp.MultiExitModel:
    options = {**config.model.options, "num_classes": CLASSES.get(config.data.name, 10)}
    if "pretrained" in options:
        options["pretrained"] = False
    return offramp.create_model(config.model.name, **options)


def test_recipes_are_those_that_the_guide_names() -> None:
    assert list_recipes() == [
        *("bdl_camvid", "bdl_cifar100", "bdl_cifar100_small", "bdl_cityscapes", "bdl_imagenet"),
        *("cifar100_msdnet", "cifar100_msdnet_small", "cifar10_resnet56"),
        *("digits", "eenets_cifar10", "eenets_cifar10_small", "eenets_mnist", "eenets_mnist_small"),
        *("eenets_svhn", "eenets_tiny_imagenet", "folder"),
        *("leenet_cifar10", "leenet_cifar100", "leenet_cifar100_small", "leenet_cifar10_small"),
        *("leenet_imagenette", "leenet_imagenette_small", "mnist", "resnet50_folder"),
    ]
    assert list_recipes("cifar100*") == ["cifar100_msdnet", "cifar100_msdnet_small"]


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_opens_with_the_command_that_runs_it(name: str) -> None:
    first = recipe_path(name).read_text("utf-8").splitlines()[0]
    marker, command, verb, recipe, *overrides = shlex.split(first, comments=False)
    assert (marker, command, verb, recipe) == ("#", "offramp", "train", name)
    assert load_config(name, overrides).name == name


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_says_what_it_is_in_one_line(name: str) -> None:
    summary = recipe_summary(name)
    assert summary.endswith(".")
    assert 20 < len(summary) <= 98


@pytest.mark.parametrize("name", list_recipes("*_*"))
def test_recipe_takes_the_changes_that_its_comments_tell_of(name: str) -> None:
    changes = [
        shlex.split(match[1])[0]
        for line in recipe_path(name).read_text("utf-8").splitlines()
        if (match := re.match(r"#   ((?:data|model|objective|train|gates)[a-z_.]*=.*)", line))
    ]
    told = ("bdl_cifar100", "bdl_imagenet", "eenets_cifar10", "leenet_cifar10", "leenet_imagenette")
    assert changes or name not in told
    for change in changes:
        assert load_config(name, [change]).plain() != load_config(name).plain(), change


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_makes_a_model_whose_exits_its_budgets_can_pay_for(name: str) -> None:
    config = load_config(name)
    model = model_of(config).to("meta")  # where counting needs no computing
    costs = offramp.measure(model, example_of(config), latency=False).relative()
    assert all(float(costs[0]) < budget < float(costs[-1]) + 1e-3 for budget in config.budgets)
    assert config.budgets == sorted(config.budgets)


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_makes_its_objectives_and_policies(name: str) -> None:
    config = load_config(name)
    for phase in [{}, *config.train.phases]:
        named = dict(phase.get("objective", config.objective.plain()))
        assert isinstance(offramp.create_objective(named.pop("name"), **named), offramp.Objective)
    for policy in config.policies:
        offramp.create_policy(policy.name, num_exits=3, **policy.options)


def test_published_msdnet_is_the_published_one() -> None:
    config = load_config("cifar100_msdnet")
    costs = offramp.measure(model_of(config), torch.zeros(1, 3, 32, 32), latency=False)
    assert costs.params is not None
    published = [0.434, 0.877, 1.275, 1.696, 2.178, 2.603, 3.068]  # million, cumulative
    assert (costs.params / 1e6).tolist() == pytest.approx(published, abs=1e-3)
    train = config.train.options
    assert (train["epochs"], train["batch_size"], train["optimizer"]) == (300, 64, "sgd")
    assert (train["lr"], train["momentum"], train["nesterov"]) == (0.1, 0.9, False)
    assert (train["weight_decay"], train["schedule"]) == (1e-4, "step")
    assert (train["milestones"], train["gamma"]) == ([0.5, 0.75], 0.1)
    assert config.objective.plain() == {"name": "joint"}
    assert config.data.augment == ["crop", "flip"]


# bdl.md's windows, the segments that each exit trains, counted from 0
WINDOWS = {
    "bdl_camvid": [{0}, {0, 1}, {1, 2}, {2, 3}, set(range(5))],
    "bdl_cityscapes": [{0}, {0, 1}, {1, 2}, set(range(4))],
    "bdl_cifar100": [{0}, {0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3, 4}, {3, 4, 5}, set(range(7))],
    "bdl_cifar100_small": [{0}, {0, 1}, {0, 1, 2}, {1, 2, 3}, set(range(5))],
    "bdl_imagenet": [{0}, {0, 1}, {1, 2}, {2, 3}, set(range(5))],
}


@pytest.mark.parametrize("name", WINDOWS)
def test_bdl_recipe_trains_by_each_exit_the_segments_that_the_paper_says(name: str) -> None:
    config = load_config(name)
    objective = offramp.create_objective(**config.objective.plain())
    table = route_table(objective, len(WINDOWS[name]))
    assert [set(row.nonzero().squeeze(1).tolist()) for row in table] == WINDOWS[name]


def test_bdl_cifar100_differs_from_the_published_msdnet_in_its_objective_alone() -> None:
    ours, theirs = (load_config(name).plain() for name in ("bdl_cifar100", "cifar100_msdnet"))
    assert {key for key in ours if ours[key] != theirs[key]} == {"name", "objective", "budgets"}


def test_bdl_imagenet_has_the_published_network_and_rates() -> None:
    config = load_config("bdl_imagenet")
    model = model_of(config).to("meta")
    costs = offramp.measure(model, torch.zeros(1, 3, 224, 224, device="meta"), latency=False)
    assert costs.params is not None
    published = [4.239, 8.772, 13.073, 16.748, 23.958]  # million, cumulative
    assert (costs.params / 1e6).tolist() == pytest.approx(published, abs=1e-3)
    train = config.train.options
    assert (train["epochs"], train["batch_size"], train["lr"]) == (90, 256, 0.1)
    schedule = find(train["schedule"], milestones=train["milestones"], gamma=train["gamma"])
    for steps in (7, 4805):  # of an epoch
        rates = [factor(schedule, epoch * steps, 90 * steps) for epoch in (0, 30, 60)]
        before = [factor(schedule, epoch * steps - 1, 90 * steps) for epoch in (30, 60, 90)]
        assert rates == before == pytest.approx([1, 0.1, 0.01])


def test_bdl_imagenet_takes_so_many_images_of_each_class_or_says_who_has_fewer(
    tmp_path: Path,
) -> None:
    image = pytest.importorskip("PIL.Image").new("RGB", (8, 8))
    for part, counts in {"train": (60, 50, 73), "val": (3, 3, 3)}.items():
        for number, count in enumerate(counts):
            (tmp_path / part / f"n0{number}").mkdir(parents=True)
            for row in range(count):
                image.save(tmp_path / part / f"n0{number}" / f"{row}.png")

    def drawn(*changes: str) -> offramp.data.Splits:
        options = load_config("bdl_imagenet", [f"data.path={tmp_path}", *changes]).data.options
        return offramp.create_dataset("imagenet", in_memory=False, **options)

    parts = {num: drawn(f"data.images_per_class={num}") for num in (10, 20, 48)}
    whole = drawn()
    rows = {num: set(splits.train.rows.tolist()) for num, splits in parts.items()}
    for num, splits in parts.items():
        assert Counter(splits.train.targets.tolist()) == {0: num, 1: num, 2: num}
        for part in ("validation", "calibration", "test"):
            assert torch.equal(getattr(splits, part).rows, getattr(whole, part).rows)
    assert rows[10] < rows[20] < rows[48] < set(whole.train.rows.tolist())
    held = len(whole.validation) + len(whole.calibration)
    assert len(whole.train) + held == 183 and 4 <= held <= 9
    with pytest.raises(DataError, match=r"images_per_class=1200 .* for every class; .* has 48"):
        drawn("data.images_per_class=1200")


# ------------------------------------------------------------------------ EENets and LEENet
@pytest.mark.parametrize("name", list_recipes("eenets_*"))
def test_eenets_recipe_has_gates_and_a_target_cost_within_reach(name: str) -> None:
    config = load_config(name)
    model, example = model_of(config).to("meta"), example_of(config)
    costs = offramp.measure(model, example, latency=False).relative()
    target = config.objective.options["target_cost"]
    assert float(costs[0]) < target < float(costs[-1])
    assert [out.gate is not None for out in model.eval()(example)][:-1] == [True] * (len(costs) - 1)
    assert config.policies[0].name == "gate"
    assert config.train.monitor is None and config.gates is None


@pytest.mark.parametrize("name", ["cifar10", "mnist", "svhn", "tiny_imagenet"])
def test_eenets_recipe_has_the_published_settings(name: str) -> None:
    config = load_config(f"eenets_{name}")
    train, model = config.train.options, config.model
    assert [phase["epochs"] for phase in config.train.phases] == [25, 125]
    assert config.train.phases[0]["objective"]["name"] == "joint"
    assert (train["batch_size"], train["optimizer"]) == (32, "adam")
    assert (train["lr"], train["weight_decay"], train["schedule"]) == (1e-3, 1e-4, "constant")
    assert config.objective.plain() == {"name": "suffix_mixture", "target_cost": 0.2}
    assert (model.name, model.options["placement"]) == ("ee_resnet", "fine")
    augment = {"cifar10": ["crop", "flip"], "tiny_imagenet": ["flip"]}
    assert config.data.augment == augment.get(name, [])
    half = [0.5, 0.5, 0.5] if name in ("svhn", "tiny_imagenet") else None
    assert (config.data.options.get("mean"), config.data.options.get("std")) == (half, half)


@pytest.mark.parametrize("name", list_recipes("leenet_*"))
def test_leenet_recipe_trains_each_part_once_and_the_gates_for_a_cost_within_reach(
    name: str,
) -> None:
    config = load_config(name)
    model = model_of(config).to("meta")
    costs = offramp.measure(model, example_of(config), latency=False).relative()
    assert config.gates is not None and config.gates.target == "budget"
    assert float(costs[0]) < config.gates.value < float(costs[-1])
    linear_gates(model)
    every = {id(p) for p in model.parameters()}
    early = {id(p) for head in list(model.heads)[:-1] for p in head.parameters()}
    parts = [
        {id(p) for p in trainable(model, phase.get("train", config.train.options["train"]))}
        for phase in config.train.phases or [{}]
    ]
    if name.startswith("leenet_imagenette"):  # the network is trained already
        [new] = parts
        fc = dict(model.named_parameters())["network.fc.weight"]
        assert early < new and id(fc) in new and len(new) == len(early) + 2
    else:
        assert parts == [every - early, early]
        first = offramp.create_objective(**config.train.phases[0]["objective"])
        assert [*first.weights] == [0] * (len(costs) - 1) + [1]


def test_recipe_that_is_not_there_is_told() -> None:
    with pytest.raises(UnknownNameError, match=r"no recipe is named 'nope'; valid: bdl_camvid, "):
        recipe_path("nope")


def test_recipes_are_inside_the_package() -> None:
    package = Path(offramp.__file__).parent
    assert all(recipe_path(name).is_relative_to(package) for name in list_recipes())
