"""A command line for tests, and small runs made with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from offramp.cli import app

SMALL = [
    "digits",
    "model.depth=8",
    "model.at=[layer1, layer2]",
    "train.epochs=1",
    "budgets=[0.5]",
    "policies=[max_prob]",
]


class Said(NamedTuple):
    """What a command left: exit code, standard output and error."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


def offramp(*words: str | Path) -> Said:
    """Run a command in this process; a bug in it is raised here."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Said(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def command() -> Command:
    return offramp


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    said = offramp("train", *SMALL, "--quiet", "--out", out)
    assert said.code == 0, said.err
    return out


@pytest.fixture
def trained(_trained: Path, tmp_path: Path) -> Path:
    """A run that is trained and no more, one's own copy."""
    return Path(shutil.copytree(_trained, tmp_path / "trained"))


@pytest.fixture(scope="session")
def _scored(_trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Path(shutil.copytree(_trained, tmp_path_factory.mktemp("scored") / "digits"))
    for words in (("fit", out), ("eval", out, "--quiet")):
        said = offramp(*words)
        assert said.code == 0, said.err
    return out


@pytest.fixture
def scored(_scored: Path, tmp_path: Path) -> Path:
    """A run with fitted policies and results, one's own copy."""
    return Path(shutil.copytree(_scored, tmp_path / "scored"))
