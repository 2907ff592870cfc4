"""Policies: when to leave. One file per idea."""

from __future__ import annotations

from typing import Any

from ..registry import policies
from .base import Control as Control
from .base import ExitPolicy as ExitPolicy


def create_policy(name: str, num_exits: int, **options: Any) -> ExitPolicy:
    """A registered policy for so many exits; ``fit`` sets its thresholds.

    Args:
        name: one of `list_policies`.
        num_exits: number of exits, K.
        options: what the policy takes; every one takes ``temperature`` and ``reduce``.

    Raises:
        UnknownNameError: if there is no policy of that name.
        OptionError: if the policy does not take an option.

    Example:
        >>> policy = create_policy("max_prob", num_exits=4).fit(records, costs, budget=0.5)
    """
    return policies.create(name, num_exits=num_exits, **options)


def list_policies(pattern: str = "*") -> list[str]:
    """Names of the registered policies that match a shell pattern."""
    return policies.names(pattern)
