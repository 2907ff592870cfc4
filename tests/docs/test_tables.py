"""Tables of names in the guide have every name that there is, and no other."""

from __future__ import annotations

import inspect
import re
import tomllib

from offramp.data.augment_steps import STEPS
from offramp.registry import datasets

from .pages import DOCS, ROOT


def table(page: str, first: str) -> dict[str, str]:
    """The rows of the table whose first column has that title: the first cell and the others."""
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = text.split(f"\n| {first} |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [line.strip("|").split("|", 1) for line in lines]
    return {cell.strip(): rest for cell, rest in cells}


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_augmentations_are_those_that_there_are_with_their_defaults() -> None:
    rows = table("guide/data.md", "name | options and their defaults")
    assert {name.strip("`") for name in rows} == set(STEPS)
    for name, maker in STEPS.items():
        told = [entry.partition(": ") for entry in code(rows[f"`{name}`"].split("|")[0])]
        options = {option: value for option, _, value in told}
        real = {p.name: p.default for p in inspect.signature(maker).parameters.values()}
        assert set(options) == set(real)
        for option, value in real.items():
            if isinstance(value, float | int):
                assert float(options[option]) == value


def test_data_sets_are_those_that_there_are() -> None:
    rows = table("guide/data.md", "name | where from, without `path`")
    assert {name for names in rows for name in code(names)} == set(datasets.names())


def test_extras_are_those_that_a_user_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"]) - {"docs", "dev"}
    assert {name.strip("`") for name in table("install.md", "extra")} == extras
