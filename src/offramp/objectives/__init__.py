"""Objectives: what training minimises. One file per idea."""

from __future__ import annotations

from typing import Any

from ..registry import objectives
from .base import Objective as Objective


def create_objective(name: str, **options: Any) -> Objective:
    """A registered objective.

    Args:
        name: one of `list_objectives`.
        options: what the objective takes.

    Raises:
        UnknownNameError: if there is no objective of that name.
        OptionError: if the objective does not take an option.

    Example:
        >>> objective = create_objective("joint", weights="linear")
    """
    return objectives.create(name, **options)


def list_objectives(pattern: str = "*") -> list[str]:
    """Names of the registered objectives that match a shell pattern."""
    return objectives.names(pattern)
