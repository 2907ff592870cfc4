import json

import pytest
from typer.testing import CliRunner

from offramp.cli import app
from offramp.recipes import list_recipes, recipe_summary
from offramp.registry import datasets, models, objectives, policies

REGISTRIES = {
    "models": models,
    "objectives": objectives,
    "policies": policies,
    "datasets": datasets,
}


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["list", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_list_json_is_the_registries() -> None:
    registered = {kind: registry.names() for kind, registry in REGISTRIES.items()}
    assert json.loads(run("--json")) == {"recipes": list_recipes(), **registered}


@pytest.mark.parametrize("kind", REGISTRIES)
def test_list_shows_every_name_of_a_kind(kind: str) -> None:
    shown = [line.split()[0] for line in run(kind).splitlines()[1:]]
    assert shown == REGISTRIES[kind].names()


def test_list_shows_every_recipe_and_what_it_says_of_itself() -> None:
    shown = [line.strip().split(maxsplit=1) for line in run("recipes").splitlines()[1:]]
    assert shown == [[name, recipe_summary(name)] for name in list_recipes()]
    assert list(json.loads(run("recipes", "cifar*", "--json"))["recipes"]) == list_recipes("cifar*")


def test_list_filters_by_pattern() -> None:
    assert json.loads(run("policies", "ma*", "--json")) == {"policies": ["margin", "max_prob"]}


def test_list_shows_what_an_entry_says_of_itself() -> None:
    assert "Leave once several exits in a row agree." in run("policies", "patience")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            ["polices"],
            "did you mean 'policies'? valid: recipes, models, objectives, policies, datasets",
        ),
        (["policies", "zz*"], "got 'zz*'"),
    ],
)
def test_list_refuses_what_is_not_there(words: list[str], wanted: str) -> None:
    done = CliRunner().invoke(app, ["list", *words])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert wanted in done.stderr and done.stderr.count("\n") == 1
