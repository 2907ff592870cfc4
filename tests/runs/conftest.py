"""One small study for all tests of this folder; each test gets a copy of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from offramp.config import load_config
from offramp.runs import Run, fit_policies, score, train

SMALL = (
    "train.epochs=2",
    "model.depth=8",
    "model.at=[layer1]",
    "policies=[max_prob, entropy]",
    "budgets=[0.5, 0.9]",
)


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    train(load_config("digits", SMALL), out, device="cpu", progress=False)
    return out


@pytest.fixture
def trained(_trained: Path, tmp_path: Path) -> Run:
    """A trained run."""
    return Run(Path(shutil.copytree(_trained, tmp_path / "trained")))


@pytest.fixture
def scored(trained: Run) -> Run:
    """A run with fitted policies and results."""
    fit_policies(trained)
    score(trained, progress=False)
    return trained
