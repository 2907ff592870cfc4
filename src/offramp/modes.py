"""Training and evaluation mode of modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def keep_modes(*modules: nn.Module) -> Iterator[None]:
    """Put the training flag of every module and of those inside back, whatever happens."""
    flags = [(module, module.training) for root in modules for module in root.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
