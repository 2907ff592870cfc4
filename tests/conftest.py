"""What all tests share: the folder of real data, one thread, and a fixed global seed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def offramp_data() -> Path:
    """The folder that OFFRAMP_DATA names; skips without it, fails where it cannot be read."""
    named = os.environ.get("OFFRAMP_DATA")
    if not named:
        pytest.skip("OFFRAMP_DATA is not set: this test needs real data")
    folder = Path(named)
    missing = [name for name in ("cifar10", "weights") if not any((folder / name).glob("*"))]
    if missing:
        pytest.fail(f"OFFRAMP_DATA={named} cannot be read: no {' and no '.join(missing)} in it")
    return folder


@pytest.fixture(autouse=True)
def _no_global_randomness() -> None:
    """Every test starts from the same global random state."""
    torch.manual_seed(0)
