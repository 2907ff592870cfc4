"""What the configuration of a run says about how it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import OfframpError

if TYPE_CHECKING:
    from ..runs.routing import Stretch


def objective_of(config: str | None) -> str | None:
    """The objective of a ``config.yaml``, of each phase where they differ; None where unknown."""
    plain = _plain(config)
    if plain is None:
        return None
    from ..runs.routing import scheme_name  # here, as it brings much with it

    phases = plain["train"].get("phases") or ({},)
    named = [phase.get("objective", plain["objective"]) for phase in phases]
    return ", then ".join(dict.fromkeys(scheme_name(each) for each in named))


def routes_of(config: str | None, num_exits: int) -> list[Stretch]:
    """Which exit trained which segment, over the training; empty where it cannot be told.

    It cannot where there is no configuration, or its objective is of a plug-in that is not there.
    """
    plain = _plain(config)
    if plain is None:
        return []
    from ..runs.routing import plan_routes

    try:
        return plan_routes(plain, num_exits)
    except OfframpError:
        return []


def _plain(config: str | None) -> dict[str, Any] | None:
    """A configuration as mappings and lists, where it has what is looked at here."""
    if config is None:
        return None
    from ..config.yaml_text import parse_yaml

    try:
        plain = parse_yaml(config, "config.yaml")
    except OfframpError:
        return None
    if not isinstance(plain, dict):
        return None
    whole = all(isinstance(plain.get(key), Mapping) for key in ("model", "objective", "train"))
    phases = plain["train"].get("phases") or [] if whole else None
    if not isinstance(phases, list) or not all(isinstance(phase, Mapping) for phase in phases):
        return None
    named = [plain["objective"], *(p["objective"] for p in phases if "objective" in p)]
    fit = all(isinstance(each, Mapping) and isinstance(each.get("name"), str) for each in named)
    return plain if fit else None
