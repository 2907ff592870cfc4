"""Every offramp command in the documentation parses, and every piece of a recipe loads."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from offramp.cli import app
from offramp.config import load_config
from offramp.errors import OfframpError
from offramp.recipes import list_recipes

from .pages import PAGES, ROOT, blocks, modules_of


class Command(NamedTuple):
    """A command line of a page."""

    page: str
    line: int
    words: list[str]  # after "offramp"


def commands(page: str) -> list[Command]:
    """Every offramp command of a page, those that a launcher starts included."""
    found = []
    for block in blocks(page, "sh"):
        for number, line in enumerate(block.code.splitlines(), block.line):
            words = shlex.split(line, comments=True)
            starts = [i for i, word in enumerate(words) if word == "offramp"]
            if starts:
                found.append(Command(page, number, words[starts[0] + 1 :]))
    return found


COMMANDS = [c for page in (*PAGES, "../README.md") for c in commands(page)]
MAIN: Any = typer.main.get_command(app)


def parsed(command: Any, words: list[str], *, interspersed: bool) -> tuple[dict[str, Any], list]:
    """The options and the rest, with an error for what is unknown; no callback runs."""
    context = command.make_context(command.name or "offramp", [], resilient_parsing=True)
    context.resilient_parsing = False  # from here on, what is wrong is an error
    parser = command.make_parser(context)
    parser.allow_interspersed_args = interspersed
    options, rest, _ = parser.parse_args(list(words))
    return options, rest


def complaint(words: list[str]) -> str | None:
    """What is wrong with a command line, None where nothing is."""
    try:
        _, rest = parsed(MAIN, words, interspersed=False)
        if not rest:
            return None
        verb = MAIN.commands.get(rest[0])
        if verb is None:
            return f"no verb {rest[0]!r}; valid: {', '.join(MAIN.commands)}"
        options, more = parsed(verb, rest[1:], interspersed=True)
    except Exception as error:  # the parser's own, whichever package it comes from
        return f"{type(error).__name__}: {error}"
    if more:
        return f"{rest[0]} does not take {more}"
    given = {name for name, value in options.items() if isinstance(value, str | list | tuple)}
    needed = [p.name for p in verb.params if p.required and p.name not in given]
    return f"{rest[0]} lacks {needed}" if needed else None


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: f"{c.page}:{c.line}")
def test_command_parses(command: Command) -> None:
    assert complaint(command.words) is None


@pytest.mark.parametrize(
    "words",
    [
        ["trian", "digits"],
        ["fit", "runs/photos", "--polcy", "max_prob"],
        ["copy"],
        ["demo", "too", "much"],
        ["--plugins", "x", "list"],
    ],
)
def test_wrong_command_is_noticed(words: list[str]) -> None:
    assert complaint(words) is not None


def test_guide_has_the_five_commands_in_order_and_readme_the_same() -> None:
    five = [command.words for command in commands("guide/folder.md")][:5]
    assert [words[0] for words in five] == ["copy", "train", "fit", "eval", "report"]
    assert [command.words for command in commands("../README.md")] == five


def recipe(words: list[str]) -> tuple[str, list[str]] | None:
    """The recipe that a command names and what it changes; None where it names none."""
    while words and words[0] == "--plugin":
        words = words[2:]
    if words[:1] == ["copy"]:
        return words[1], [word for word in words[2:] if "=" in word]
    if words[:1] == ["train"] and not Path(words[1]).suffix and "/" not in words[1]:
        return words[1], [word for word in words[2:] if "=" in word and word[0] != "-"]
    return None


RECIPES = [(command, named) for command in COMMANDS if (named := recipe(command.words))]


@pytest.mark.parametrize(
    ("command", "named"), RECIPES, ids=[f"{c.page}:{c.line}" for c, _ in RECIPES]
)
def test_recipe_is_there_and_takes_the_changes(
    command: Command, named: tuple[str, list[str]], tmp_path: Path
) -> None:
    name, changes = named
    assert name in list_recipes()
    with modules_of(command.page, tmp_path) as modules:
        for module in modules:
            importlib.import_module(module)
        load_config(name, changes)


def test_wrong_change_is_noticed() -> None:
    with pytest.raises(OfframpError):
        load_config("digits", ["train.epoch=3"])


PIECES = [block for page in PAGES for block in blocks(page, "yaml")]


@pytest.mark.parametrize("block", PIECES, ids=lambda b: f"{b.page}:{b.line}")
def test_piece_of_a_recipe_loads(block: Any, tmp_path: Path) -> None:
    shipped = (ROOT / "src" / "offramp" / "recipes" / "digits.yaml").read_text(encoding="utf-8")
    whole = {**yaml.safe_load(shipped), **yaml.safe_load(block.code)}
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(whole), encoding="utf-8")
    load_config(file)
