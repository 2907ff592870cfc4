"""Routes over a training, told from its configuration, and what a step costs by count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offramp.config import load_config
from offramp.errors import ValidationError
from offramp.objectives.base import Objective
from offramp.registry import objectives
from offramp.runs.routing import count_exits, plan_routes, scheme_name, step_cost


def plain(objective: Any, *phases: dict[str, Any], train: Any = "all") -> dict[str, Any]:
    return {
        "model": {"name": "msdnet"},
        "objective": objective,
        "train": {"phases": list(phases), "train": train},
    }


def counted(since: list[int]) -> int:
    """The same, literally: one pass per cotangent that a boundary carries, and the free one."""
    num, total = len(since), 0
    for segment in reversed(range(num)):
        reach = [k for k in range(segment, num) if since[k] <= segment]
        total += 1  # forward
        if reach:
            total += 1  # weight gradient, of the sum
            total += len({since[k] for k in reach})  # input gradients, one of them within it
    return total


@pytest.mark.parametrize(
    ("since", "cost"),
    [
        ([0] * 7, 21),
        ([0, 0, 0, 3, 3, 3, 3], 21),
        ([0, 1, 2, 3, 4, 5, 6], 21),
        ([0, 0, 0, 1, 2, 3, 4], 29),
        ([0, 0, 0, 1, 2, 3, 0], 30),
        ([0], 3),
        ([1, 1], 4),  # nobody trains segment 0: it is only run
    ],
)
def test_step_costs_what_is_published(since: list[int], cost: int) -> None:
    assert step_cost(since) == cost == counted(since)


def test_step_of_several_terms_counts_each_since_once() -> None:
    assert step_cost([{0}, {0, 1}]) == step_cost([[0], [1, 0, 1]]) == 3 + 3 + 1


def test_exit_count_needs_neither_data_nor_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("offramp.runs.build.create_dataset", fail)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    small = ["model.num_exits=3", "model.base=1", "model.step=1"]
    assert count_exits(load_config("cifar100_msdnet", small)) == 3
    assert count_exits(load_config("resnet50_folder")) == 4
    assert count_exits(load_config("digits", ["model.checkpoint=none", "model.at=[layer2]"])) == 2


def test_routes_stay_while_nothing_changes() -> None:
    (one,) = plan_routes(plain({"name": "block_dependent", "overlap": 3}), 5)
    assert (one.phase, one.start, one.end) == (0, 0.0, 1.0)
    assert one.since == [[0], [0], [0], [1], [0]]
    assert one.cost == pytest.approx(18 / 15)
    assert one.routed


def test_joint_training_is_not_routed() -> None:
    (one,) = plan_routes(plain({"name": "joint"}), 4)
    assert not one.routed and one.cost == 1.0
    (scaled,) = plan_routes(plain({"name": "gradient_equilibrium"}), 4)
    assert scaled.routed
    assert scaled.to_dict()["gains"]["heads"] == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])


def test_distillation_that_starts_late_is_told_from_then_on() -> None:
    distill = {"name": "distill", "objective": {"name": "layer_wise"}, "start": 0.75}
    before, after = plan_routes(plain(distill), 3)
    assert (before.start, before.end, after.start, after.end) == (0.0, 0.74, 0.75, 1.0)
    assert before.table == after.table
    assert [term.name for term in before.terms] == ["ce/0", "ce/1", "ce/2"]
    assert [(t.name, t.exits, t.since) for t in after.terms][3:] == [
        ("distill/0", (0,), 0),
        ("distill/1", (1,), 1),
    ]


def test_teacher_need_not_be_there() -> None:
    (one,) = plan_routes(plain({"name": "distill", "teacher": "no/such/bundle"}), 3)
    assert {term.name for term in one.terms if term.exits == (2,)} == {"ce/2", "distill/2"}


def test_phases_have_their_own_objective_and_parts() -> None:
    phases = ({}, {"objective": {"name": "layer_wise"}}, {"train": ["heads", 1]})
    first, second, third = plan_routes(plain({"name": "joint"}, *phases), 3)
    assert [each.phase for each in (first, second, third)] == [0, 1, 2]
    assert second.objective == "layer_wise"
    assert second.table == [[j == k for j in range(3)] for k in range(3)]
    assert third.table == [[j == 1 and j <= k for j in range(3)] for k in range(3)]
    assert third.cost is None


def test_schedule_of_groups_is_a_table_each() -> None:
    class Later(objectives.get("grouped")):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(lambda num, progress: 1 if progress < 0.5 else num)

    objectives.register("later")(Later)
    try:
        found = plan_routes(plain({"name": "later"}), 3)
    finally:
        objectives.remove("later")
    assert [(each.start, each.end) for each in found] == [(0.0, 0.49), (0.5, 1.0)]
    assert [each.since for each in found] == [[[0]] * 3, [[0], [1], [2]]]


def test_objective_that_cannot_be_asked_is_named() -> None:
    class Broken(Objective):
        def forward(self, outputs: Any, batch: Any, costs: Any) -> Any:
            raise IndexError("row 7")

    objectives.register("broken")(Broken)
    try:
        with pytest.raises(ValidationError, match=r"'broken' cannot be asked.*row 7"):
            plan_routes(plain({"name": "broken"}), 3)
    finally:
        objectives.remove("broken")


def test_names_of_schemes_are_words() -> None:
    overlap = {"name": "block_dependent", "overlap": 3, "final": False}
    assert scheme_name(overlap) == "block_dependent, overlap 3, no final"
    around = {"name": "distill", "objective": overlap, "weight": 0.3, "teacher": str(Path("a/b"))}
    assert scheme_name(around) == (
        "distill (block_dependent, overlap 3, no final), weight 0.3, teacher b"
    )
    assert scheme_name({"name": "distill", "objective": "joint"}) == "distill (joint)"
