from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offramp.config import load_config

Command = Callable[..., Any]


def test_copy_writes_the_recipe_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    said = command("copy", "digits")
    assert said == (0, "Wrote digits.yaml\nNext: offramp train digits.yaml\n", "")
    assert load_config(tmp_path / "digits.yaml") == load_config("digits")


def test_copy_takes_a_path_and_changes(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "mine.yaml"
    assert command("copy", "digits", path, "train.epochs=3", "name=mine").code == 0
    config = load_config(path)
    assert (config.name, config.train.options["epochs"]) == ("mine", 3)


def test_copy_takes_changes_without_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("copy", "digits", "name=mine").out.startswith("Wrote mine.yaml\n")
    assert load_config(tmp_path / "mine.yaml").name == "mine"


def test_copy_force_replaces(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("old", "utf-8")
    assert command("copy", "digits", path).code == 2
    assert path.read_text("utf-8") == "old"
    assert command("copy", "digits", path, "--force").code == 0
    assert load_config(path).data.name == "digits"
