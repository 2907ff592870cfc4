import json

import pytest
from typer.testing import CliRunner

from offramp.cli import app
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
    assert json.loads(run("--json")) == {kind: r.names() for kind, r in REGISTRIES.items()}


@pytest.mark.parametrize("kind", REGISTRIES)
def test_list_shows_every_name_of_a_kind(kind: str) -> None:
    shown = [line.split()[0] for line in run(kind).splitlines()[1:]]
    assert shown == REGISTRIES[kind].names()


def test_list_filters_by_pattern() -> None:
    assert json.loads(run("policies", "ma*", "--json")) == {"policies": ["margin", "max_prob"]}


def test_list_shows_what_an_entry_says_of_itself() -> None:
    assert "Leave once several exits in a row agree." in run("policies", "patience")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["polices"], "did you mean 'policies'? valid: models, objectives, policies, datasets"),
        (["policies", "zz*"], "got 'zz*'"),
    ],
)
def test_list_refuses_what_is_not_there(words: list[str], wanted: str) -> None:
    done = CliRunner().invoke(app, ["list", *words])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert wanted in done.stderr and done.stderr.count("\n") == 1
