"""What an evaluation says, as plain data, and the files it is kept in."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import ValidationError
from .files import write_text

_OF_MAPS = ("miou", "iou")  # entries that labels do not have


@dataclass(frozen=True)
class ExitResult:
    """One exit by itself: every input answered there.

    Of maps, ``top1`` and its like are shares of positions, at the targets' resolution.
    """

    exit: int
    top1: float
    top5: float  # the right class is among the min(5, C) top ones
    nll: float  # nats
    ece: float  # 15 bins
    cost: float  # relative to the original network
    rate: float | None = None  # share of inputs that a policy lets leave here; None without one
    miou: float | None = None  # of maps: mean of iou, less classes that are absent
    iou: list[float] | None = None  # [C], of maps; NaN: neither wanted nor answered anywhere

    def to_dict(self) -> dict[str, Any]:
        """Give plain numbers, fit for JSON; a figure that is not finite is None."""
        return _plain(asdict(self))


@dataclass(frozen=True)
class Result:
    """What a policy makes of records.

    Shares are of units: inputs for labels, positions for maps; exit rates and costs are of inputs.
    """

    policy: str
    unit: str  # of the costs
    num: int  # inputs
    accuracy: float
    stderr: float  # of the accuracy, with inputs as independent draws
    cost: float  # realised mean cost, relative to the original network
    cost_stderr: float  # of the cost, with inputs as independent draws
    full_accuracy: float  # the last exit's
    nll: float  # nats, of the answers
    ece: float  # of the answers
    overthinking: float  # share right at some earlier exit and wrong at the last one
    exit_counts: list[int]  # [K], inputs
    exits: list[ExitResult]  # [K]
    budget: float | None = None  # asked for, on the scale of `cost`; None where it is not known
    miou: float | None = None  # of maps: mean intersection over union of the answers

    @property
    def exit_rates(self) -> list[float]:
        """Share of inputs that leave by each exit, [K]; sums to 1."""
        return [count / self.num for count in self.exit_counts]

    @property
    def drop(self) -> float:
        """Accuracy lost against the last exit."""
        return self.full_accuracy - self.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Give plain numbers and lists, fit for JSON; a figure that is not finite is None."""
        return _plain({**asdict(self), "exit_rates": self.exit_rates, "drop": self.drop})

    def save_json(self, path: str | Path) -> None:
        """Write the result to a file, whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


def area_under_curve(results: Sequence[Result]) -> float:
    """Area under accuracy over realised cost, divided by the range of costs: a mean accuracy.

    Points are joined by straight lines in the order of their costs; dominated ones stay.

    Raises:
        ValidationError: if there are fewer than two distinct costs, or more than one unit.
    """
    units = {result.unit for result in results}
    if len(units) > 1:
        raise ValidationError(f"wanted results in one unit, got {', '.join(sorted(units))}")
    points = sorted((result.cost, result.accuracy) for result in results)
    if not points or points[0][0] == points[-1][0]:
        raise ValidationError(
            f"wanted results of at least two distinct costs, got {[cost for cost, _ in points]}"
        )
    costs, accuracies = torch.tensor(points, dtype=torch.float64).T
    return float(torch.trapezoid(accuracies, costs) / (costs[-1] - costs[0]))


def save_json(results: Sequence[Result], path: str | Path) -> None:
    """Write results to a JSON file, a list of objects; whole or not at all."""
    write_text(path, json.dumps([result.to_dict() for result in results], indent=1) + "\n")


def save_csv(results: Sequence[Result], path: str | Path) -> None:
    """Write results to a CSV file, one row each; whole or not at all.

    Figures of exit k have columns of their own: ``count_k``, ``rate_k``, ``top1_k``, ``top5_k``,
    ``nll_k``, ``ece_k``, ``cost_k`` and, of maps, ``miou_k``. What is not known is empty.
    """
    rows = [_flat(result) for result in results]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _flat(result: Result) -> dict[str, Any]:
    plain = result.to_dict()
    exits, counts = plain.pop("exits"), plain.pop("exit_counts")
    del plain["exit_rates"]
    for alone, count in zip(exits, counts, strict=True):
        k = alone.pop("exit")
        alone.pop("iou", None)  # a list, of each class
        plain[f"count_{k}"] = count
        plain |= {f"{name}_{k}": value for name, value in alone.items()}
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        known = {n: v for n, v in value.items() if v is not None or n not in _OF_MAPS}
        return {name: _plain(inner) for name, inner in known.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
