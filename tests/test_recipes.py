"""Every recipe that ships: it says how it is run, and what it names is there and within reach."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

import offramp
from offramp.config import Config, load_config
from offramp.errors import UnknownNameError
from offramp.recipes import list_recipes, recipe_path, recipe_summary

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
}
CLASSES = {"cifar100": 100}


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
        *("cifar100_msdnet", "cifar100_msdnet_small", "cifar10_resnet56"),
        *("digits", "folder", "mnist", "resnet50_folder"),
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


def test_recipe_that_is_not_there_is_told() -> None:
    with pytest.raises(UnknownNameError, match=r"no recipe is named 'nope'; valid: cifar100_"):
        recipe_path("nope")


def test_recipes_are_inside_the_package() -> None:
    package = Path(offramp.__file__).parent
    assert all(recipe_path(name).is_relative_to(package) for name in list_recipes())
