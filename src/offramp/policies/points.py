"""Operating points: named states of one module, held by its state dict as plain tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

from ..errors import UnknownNameError

_POINTS = "points."  # how entries of operating points begin in a state dict


class OperatingPoints(nn.Module):
    """A module whose state can be switched between named ones; it begins with none."""

    def __init__(self) -> None:
        super().__init__()
        self.points: dict[str, dict[str, Tensor]] = {}

    def use(self, point: str) -> Self:
        """Switch to an operating point.

        Raises:
            UnknownNameError: if there is no such point.
        """
        if point not in self.points:
            raise UnknownNameError(
                f"no operating point is named {point!r}; valid: {', '.join(self.points) or 'none'}"
            )
        self._restore(self.points[point])
        return self

    def settings(self) -> dict[str, Self]:
        """A copy set to each operating point, by the points' names."""
        return {point: copy.deepcopy(self).use(point) for point in self.points}

    def _snapshot(self) -> dict[str, Tensor]:
        """The state as it is set, without the operating points."""
        state = self.state_dict().items()
        return {key: value.clone() for key, value in state if not key.startswith(_POINTS)}

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        points = self.points
        self.load_state_dict(state)
        self.points = points

    # entries "points.<entry>.<name>": flat tensors, which any format of weights can hold; no entry
    # is another's beginning, so a name may have dots
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, state in self.points.items():
            for key, value in state.items():
                destination[f"{prefix}{_POINTS}{key}.{name}"] = value

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **named: Any) -> None:
        self.points = {}
        for key in self._snapshot():
            start = f"{prefix}{_POINTS}{key}."
            for entry in [entry for entry in state_dict if entry.startswith(start)]:
                point = self.points.setdefault(entry.removeprefix(start), {})
                point[key] = state_dict.pop(entry).clone()
        super()._load_from_state_dict(state_dict, prefix, *args, **named)
