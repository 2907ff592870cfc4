"""A policy in a bundle: name and options in the document, thresholds and what it learned beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import BundleError, OfframpError
from ..policies import Control, ExitPolicy, create_policy
from ..registry import policies
from .document import Plain, check_plain, short
from .tensors import Table, check_same, table_of

_POINTS = "points."  # how the names of operating points begin in a policy's state dict


def to_plain(policy: ExitPolicy) -> Plain:
    """A policy as plain data, without its tensors.

    Raises:
        BundleError: if it is a control, is not registered, or has options that cannot be saved.
    """
    if isinstance(policy, Control):
        raise BundleError(
            f"wanted a policy that can run, got the offline control {type(policy).__name__}"
        )
    if not isinstance(policy, ExitPolicy):
        raise BundleError(f"wanted an ExitPolicy to save, got {type(policy).__name__}")
    name = next((n for n in policies.names() if policies.get(n) is type(policy)), None)
    if name is None:
        raise BundleError(f"wanted a registered policy to save, got {type(policy).__name__}")
    try:
        options = policy.options()
        check_plain(options, f"the options of the policy {name!r}")
    except OfframpError as error:
        raise BundleError(f"the policy {name!r} cannot be saved: {short(error)}") from error
    return {"name": name, "options": options, "points": list(policy.points)}


def build(plain: Plain, num_exits: int, table: Table, values: Mapping[str, Tensor]) -> ExitPolicy:
    """A policy from plain data and its tensors.

    Args:
        plain: what `to_plain` gave.
        num_exits: number of exits of the model, K.
        table: dtypes and shapes of the tensors.
        values: the tensors.

    Raises:
        BundleError: if they do not fit the model or each other.
    """
    name, options, points = (plain.get(n) for n in ("name", "options", "points"))
    fits = isinstance(name, str) and isinstance(options, dict) and isinstance(points, list)
    if not fits or len(plain) != 3 or not all(isinstance(point, str) for point in points or ()):
        raise BundleError("wanted a policy with name, options and points in the document")
    named: dict[str, Any] = {str(option): value for option, value in (options or {}).items()}
    if "num_exits" in named:
        raise BundleError("wanted no num_exits among a policy's options: it is the model's")
    try:
        policy = create_policy(str(name), num_exits, **named)
        if isinstance(policy, Control):
            raise BundleError(f"wanted a policy that can run, got the offline control {name!r}")
        wanted = _with_points(table_of(policy.state_dict()), points or [])
        check_same(wanted, table, f"the file of the policy {name!r}")
        policy.load_state_dict(dict(values))
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"the policy cannot be made again: {short(error)}") from error
    policy.points = {point: policy.points[point] for point in points or ()}  # in their order
    return policy.eval()


def _with_points(table: Table, points: list[str]) -> Table:
    named = {f"{_POINTS}{n}.{point}": entry for n, entry in table.items() for point in points}
    return {**table, **named}
