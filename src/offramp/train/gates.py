"""Gates of a frozen network, fitted on what was cached once (LEENet's last phase).

github.com/afxwong/EarlyExitNet (2023) trains the gates alone, for one alpha at a time, through the
network, and searches alpha on the test data. Here one pass over the data keeps what goes into the
gates; all alphas are then fitted together, in seconds, and alpha is searched on calibration data.

Alpha is searched on rows that neither the network nor the gates have learned from, and scored on
others again. Gates may be fitted on the network's own training rows: its losses there say too much
for the last exit, so inputs stay longer at the same alpha, but the search of alpha undoes that, and
there are more of them. On a CIFAR-10 ResNet-56 such gates were the better ones, by up to 2 points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard, cast

import torch
from torch import Tensor

from ..errors import BudgetError, ValidationError
from ..functional import check_budget
from ..types import Budget, Costs
from .gate_data import GateData as GateData
from .gate_data import cache_gates as cache_gates
from .gate_fit import Fitting, solve
from .gate_fit import Gates as Gates

Nats = float | Literal["balanced"]

_COARSE = 21  # alphas that `tune_gates` begins with
_ROUNDS = 2  # of finer alphas in `tune_gates`
_FINER = 8  # alphas of such a round
_HALVINGS = 16  # of the line between the gates of two neighbouring alphas
_SHUT = 30.0  # logit of a gate that always opens


@dataclass(frozen=True)
class GatePoint:
    """Gates of one alpha, and what they do on some data by their rule, a gate above one half."""

    alpha: float
    gates: Gates
    accuracy: float  # share of targets that are answered right
    cost: float  # mean, relative to the original network
    mean_exit: float  # counted from 0
    rates: tuple[float, ...]  # K, share of inputs that leave at each exit
    cost_stderr: float  # standard error of the mean cost, with inputs as independent draws
    unit: str = "macs"  # of the cost

    def on(self, data: GateData, costs: Costs) -> GatePoint:
        """The same gates on other data, such as the test part.

        Raises:
            ValidationError: if data or costs are of other exits.
        """
        _check(data, costs)
        return _point(self.gates, data, costs.relative(self.unit), alpha=self.alpha, unit=self.unit)


def fit_gates(
    data: GateData,
    costs: Costs,
    alpha: float,
    *,
    unit: str = "macs",
    nats: Nats = 1.0,
    how: Fitting | None = None,
) -> Gates:
    """Gates for one trade-off between accuracy and cost, which they minimise on the data.

    Nothing is drawn at random: the same data give the same gates.

    Args:
        data: from `cache_gates`.
        costs: cost of each exit.
        alpha: the share of the expected cost in the loss, in [0, 1]; the rest is the expected
            cross-entropy. 0 is pure accuracy, 1 sends everyone to the cheapest exit.
        unit: unit of the cost, which is relative to the original network.
        nats: what the whole original network is worth where alpha is 1/2. 1 nat is LEENet's loss
            as published. ``balanced`` takes the mean loss that the last exit saves against the
            first over the cost that it adds, so that alpha 1/2 is where sending everyone to the one
            or to the other is the same.
        how: how gates are fitted; by default a `Fitting` as it comes.

    Raises:
        ValidationError: if data and costs differ in their number of exits, the unit is not known,
            alpha or ``nats`` is no such number, or the data are not finite.

    Example:
        >>> gates = fit_gates(cache_gates(model, (images, labels)), costs, alpha=0.4)
        >>> gates.put(model)
    """
    _check(data, costs)
    relative = costs.relative(unit)
    return solve(data, relative, [_share(alpha)], _nats(nats, data, relative), how or Fitting())[0]


def sweep_gates(
    train: GateData,
    calibration: GateData,
    costs: Costs,
    alphas: int | Sequence[float] = 21,
    *,
    unit: str = "macs",
    nats: Nats = 1.0,
    how: Fitting | None = None,
) -> list[GatePoint]:
    """Gates for many trade-offs, fitted together, and what each does on the calibration part.

    Args:
        train: what gates are fitted on.
        calibration: what the figures are of.
        costs: cost of each exit.
        alphas: so many from 0 to 1, evenly spaced, or the alphas themselves.
        unit: as for `fit_gates`.
        nats: as for `fit_gates`.
        how: as for `fit_gates`.

    Raises:
        ValidationError: as `fit_gates` does, and if there is no alpha.

    Example:
        >>> points = sweep_gates(train, calibration, costs)
        >>> [(point.alpha, point.cost, point.accuracy) for point in points]
    """
    _check(train, costs)
    _check(calibration, costs)
    return _Problem(train, calibration, costs, unit, nats, how).points(_alphas(alphas))


def tune_gates(
    train: GateData,
    calibration: GateData,
    costs: Costs,
    *,
    budget: float | Budget | None = None,
    speedup: float | None = None,
    max_drop: float | None = None,
    unit: str = "macs",
    nats: Nats = 1.0,
    how: Fitting | None = None,
) -> GatePoint:
    """Gates that keep a target on the calibration part; alpha is found, not guessed.

    21 alphas are tried, then finer ones where they pass the target. Where two neighbouring alphas
    still lie on different sides, as an exit comes into use all at once, it takes gates on the line
    between the two. That leaves out no more than a few inputs' cost. To move thresholds instead is
    what the policy ``gate`` does, fitted to a budget.

    Args:
        train: what gates are fitted on.
        calibration: what alpha is searched on: rows that nothing was trained on.
        costs: cost of each exit.
        budget: bound of the mean cost, which is met from below; a bare number is relative to the
            original network, in ``unit``.
        speedup: instead, how many times faster than the original network, by measured times; it is
            the budget ``1 / speedup`` in ``latency_ms``.
        max_drop: instead, the accuracy that may be lost against the last exit (0.01 is one point);
            the cheapest gates that keep it.
        unit: as for `fit_gates`.
        nats: as for `fit_gates`.
        how: as for `fit_gates`.

    Raises:
        BudgetError: if not exactly one of the three is given, or it is out of reach; the message
            states what can be reached.
        ValidationError: as `fit_gates` does, and if costs have no times for a speed-up.

    Example:
        >>> point = tune_gates(train, calibration, costs, budget=0.6)
        >>> point.gates.put(model)
        >>> point.cost, point.on(test, costs).cost
        (0.5998, 0.6042)
    """
    asked = {"budget": budget, "speedup": speedup, "max_drop": max_drop}
    if sum(value is not None for value in asked.values()) != 1:
        raise BudgetError(f"wanted one of budget, speedup and max_drop, got {asked}")
    _check(train, costs)
    _check(calibration, costs)
    if max_drop is not None:
        problem = _Problem(train, calibration, costs, unit, nats, how)
        least = problem.least_accuracy(max_drop)
        return _search(problem, lambda p: p.accuracy >= least, dearest=False)
    goal = _budget(budget, unit) if speedup is None else _speedup(speedup, costs)
    relative, bound = goal.resolve(costs)
    if speedup is not None and bound <= 1:  # the last exit may be measured faster than the network
        bound = min(bound, float(relative[-1]))
    bound = check_budget(relative, bound)
    problem = _Problem(train, calibration, costs, goal.unit, nats, how)
    return _search(problem, lambda p: p.cost <= bound, dearest=True)


# ----------------------------------------------------------------------- the search
@dataclass(frozen=True)
class _Problem:
    """What is fitted, and where it is measured; alpha alone is free."""

    train: GateData
    calibration: GateData
    costs: Costs
    unit: str
    nats: Nats
    how: Fitting | None

    def __post_init__(self) -> None:
        _nats(self.nats, self.train, self.relative)  # what is wrong with it fails here

    @property
    def relative(self) -> Tensor:
        """Relative cost of each exit, [K]."""
        return self.costs.relative(self.unit)

    def points(self, alphas: Sequence[float]) -> list[GatePoint]:
        """Fit the gates of these alphas together, and measure each."""
        nats = _nats(self.nats, self.train, self.relative)
        found = solve(self.train, self.relative, alphas, nats, self.how or Fitting())
        return [self.measured(gates, alpha) for gates, alpha in zip(found, alphas, strict=True)]

    def measured(self, gates: Gates, alpha: float) -> GatePoint:
        """What gates do on the calibration part."""
        return _point(gates, self.calibration, self.relative, alpha=alpha, unit=self.unit)

    def one_exit(self, last: bool) -> GatePoint:
        """Gates that never open, or all do: the ends of what gates can do."""
        weights = [torch.zeros(part.shape[1]) for part in self.train.features]
        biases = torch.full((len(weights),), -_SHUT if last else _SHUT)
        return self.measured(Gates(weights, biases), 0.0 if last else 1.0)

    def least_accuracy(self, max_drop: object) -> float:
        """The accuracy that a drop against the last exit leaves."""
        if not _is_number(max_drop) or not 0 <= max_drop <= 1:
            raise BudgetError(f"wanted max_drop as an accuracy in [0, 1], got {max_drop!r}")
        return self.one_exit(last=True).accuracy - max_drop - 1e-9


def _search(problem: _Problem, keeps: Callable[[GatePoint], bool], *, dearest: bool) -> GatePoint:
    """Of the gates that keep a target the dearest, or the cheapest, ones.

    Between their alpha and the next one that does not keep it, finer ones are tried.
    """
    tried = problem.points(_alphas(_COARSE))
    for _ in range(_ROUNDS):
        inside, outside = _around(tried, keeps, dearest)
        if inside is None or outside is None:
            break
        ends = torch.linspace(inside.alpha, outside.alpha, _FINER + 2, dtype=torch.float64)
        tried += problem.points(ends[1:-1].tolist())
    inside, outside = _around(tried, keeps, dearest)
    inside = inside or problem.one_exit(last=not dearest)
    kept = [inside]
    if outside is not None:
        low, high = 0.0, 1.0  # how far from the gates inside to those outside
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            point = problem.measured(*_mixed(inside, outside, middle))
            low, high = (middle, high) if keeps(point) else (low, middle)
            kept += [point] if keeps(point) else []
    return (max if dearest else min)(kept, key=lambda point: point.cost)


def _around(
    tried: list[GatePoint], keeps: Callable[[GatePoint], bool], dearest: bool
) -> tuple[GatePoint | None, GatePoint | None]:
    """The best point that keeps the target, and the next that does not, as far as there are any.

    The cost falls as alpha rises, so what costs more than the dearest has a lower alpha.
    """
    kept = [point for point in tried if keeps(point)]
    best = (max if dearest else min)(kept, key=lambda point: point.cost, default=None)
    side = -1 if dearest else 1
    start = -side * math.inf if best is None else best.alpha
    beyond = [p for p in tried if not keeps(p) and side * (p.alpha - start) > 0]
    return best, min(beyond, key=lambda point: side * point.alpha, default=None)


def _mixed(one: GatePoint, other: GatePoint, share: float) -> tuple[Gates, float]:
    """Gates on the line from one point to another, and their alpha."""
    pairs = zip(one.gates.weights, other.gates.weights, strict=True)
    weights = [torch.lerp(start, end, share) for start, end in pairs]
    biases = torch.lerp(one.gates.biases, other.gates.biases, share)
    return Gates(weights, biases), one.alpha + share * (other.alpha - one.alpha)


def _point(gates: Gates, data: GateData, costs: Tensor, *, alpha: float, unit: str) -> GatePoint:
    """What gates do on some data, by their rule."""
    exits = gates.exits(data)
    spent = costs[exits]  # [N] float64
    units = data.units.double()
    right = data.right.gather(1, exits.unsqueeze(1)).squeeze(1).double()
    counts = exits.bincount(minlength=data.num_exits).double()
    return GatePoint(
        alpha=alpha,
        gates=gates,
        accuracy=float(right @ units / units.sum()),
        cost=float(spent.mean()),
        mean_exit=float(exits.double().mean()),
        rates=tuple((counts / len(exits)).tolist()),
        cost_stderr=float(spent.std(correction=0)) / math.sqrt(len(exits)),
        unit=unit,
    )


# ----------------------------------------------------------------------- the doors
def _check(data: object, costs: Costs) -> None:
    if not isinstance(data, GateData):
        raise ValidationError(
            f"wanted GateData, as cache_gates makes them, got {type(data).__name__}"
        )
    if costs.num_exits != data.num_exits:
        raise ValidationError(
            f"wanted costs of {data.num_exits} exits, as the data, got {costs.num_exits}"
        )
    if not float(data.units.sum()):
        raise ValidationError("wanted at least one target that counts, got none")
    for k, part in enumerate([*data.features, data.losses]):
        if not bool(part.isfinite().all()):
            name = f"features of gate {k}" if k < len(data.features) else "losses"
            raise ValidationError(f"wanted finite {name}, got NaN or infinite ones")


def _alphas(alphas: int | Sequence[float]) -> list[float]:
    if isinstance(alphas, int) and not isinstance(alphas, bool) and alphas > 1:
        return torch.linspace(0, 1, alphas, dtype=torch.float64).tolist()
    if not isinstance(alphas, Sequence) or isinstance(alphas, str) or not alphas:
        raise ValidationError(
            f"wanted alphas as numbers in [0, 1], or how many of at least 2, got {alphas!r}"
        )
    return [_share(alpha) for alpha in alphas]


def _share(alpha: object) -> float:
    if not _is_number(alpha) or not 0 <= alpha <= 1:
        raise ValidationError(f"wanted alpha as a share in [0, 1], got {alpha!r}")
    return float(alpha)


def _nats(nats: object, data: GateData, costs: Tensor) -> float:
    if nats == "balanced":
        gain = float((data.losses[:, 0] - data.losses[:, -1]).mean())
        dearer = float(costs[-1] - costs[0])
        if gain > 0 and dearer > 0:
            return gain / dearer
        raise ValidationError(
            "wanted nats as a number: 'balanced' needs a last exit that is better and dearer than "
            f"the first, got a loss less by {gain:.4g} nats for a cost more by {dearer:.4g}"
        )
    if not _is_number(nats) or not 0 < nats < math.inf:
        raise ValidationError(f"wanted nats as a positive number or 'balanced', got {nats!r}")
    return float(nats)


def _budget(budget: float | Budget | None, unit: str) -> Budget:
    made = Budget.of(cast(Any, budget))
    return made if made is budget else replace(made, unit=unit)


def _speedup(speedup: object, costs: Costs) -> Budget:
    if not _is_number(speedup) or not 0 < speedup < math.inf:
        raise BudgetError(f"wanted speedup as a positive number, got {speedup!r}")
    if costs.latency_ms is None:
        raise ValidationError(
            "wanted costs with measured times for a speed-up, as offramp.measure(model, example) "
            "makes them, got none"
        )
    return Budget(1 / speedup, "latency_ms", relative=True)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
