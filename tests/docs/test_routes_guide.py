"""The tables of the guide to training schemes are what the objectives do."""

from __future__ import annotations

import pytest
import yaml

import offramp
from offramp.objectives.base import ExitLosses
from offramp.registry import objectives
from offramp.runs.routing import step_cost
from offramp.train import route_table

from .test_tables import code, table

PAGE = "guide/routes.md"
WINDOWS = table(PAGE, "objective | segments, seven exits")
COSTS = table(PAGE, "objective | cost, seven exits")
EXITS = (7, 5)  # of the columns


def made(cell: str) -> list[offramp.Objective]:
    """Those that the first column names: one and its options, or several."""
    names = code(cell)
    if len(names) == 2 and ":" in names[1]:
        return [offramp.create_objective(names[0], **yaml.safe_load(f"{{{names[1]}}}"))]
    return [offramp.create_objective(name) for name in names]


def first(objective: offramp.Objective, num_exits: int) -> list[int]:
    """The first segment that each exit moves."""
    return route_table(objective, num_exits).int().argmax(1).tolist()


@pytest.mark.parametrize("row", WINDOWS)
def test_guide_says_which_segments_each_exit_moves(row: str) -> None:
    for num_exits, cell in zip(EXITS, WINDOWS[row].split("|"), strict=True):
        [objective] = made(row)
        since = first(objective, num_exits)
        told = [str(k) if start == k else f"{start}-{k}" for k, start in enumerate(since)]
        assert cell.strip() == ", ".join(told)


@pytest.mark.parametrize("row", COSTS)
def test_guide_says_what_a_step_costs_by_count(row: str) -> None:
    for num_exits, cell in zip(EXITS, COSTS[row].split("|"), strict=True):
        for objective in made(row):
            cost = step_cost(first(objective, num_exits)) / step_cost([0] * num_exits)
            assert float(cell) == pytest.approx(cost, abs=0.005)


def test_guide_has_every_objective_that_routes_terms() -> None:
    told = {name for row in (*WINDOWS, *COSTS) for name in code(row)}
    routed = {n for n in objectives.names() if issubclass(objectives.get(n), ExitLosses)}
    assert len(routed) >= 4
    assert told >= {*routed, "gradient_equilibrium"}
