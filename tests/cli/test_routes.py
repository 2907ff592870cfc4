"""What `offramp routes` prints is what trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offramp.objectives import create_objective
from offramp.train.routes import route_table

Command = Callable[..., Any]
SEVEN = ["cifar100_msdnet", "model.num_exits=7", "model.base=1", "model.step=1"]

WINDOWS = {  # of seven exits, counted from 1, as the paper's code has them
    "joint": "1-1 1-2 1-3 1-4 1-5 1-6 1-7",
    "layer_wise": "1-1 2-2 3-3 4-4 5-5 6-6 7-7",
    "{name: grouped, groups: 2}": "1-1 1-2 1-3 4-4 4-5 4-6 4-7",
    "{name: block_dependent, overlap: 3, final: false}": "1-1 1-2 1-3 2-4 3-5 4-6 5-7",
    "{name: block_dependent, overlap: 3}": "1-1 1-2 1-3 2-4 3-5 4-6 1-7",
}


@pytest.mark.parametrize("objective", WINDOWS)
def test_tables_are_the_published_windows(objective: str, command: Command) -> None:
    said = command("routes", *SEVEN, f"objective={objective}", "--json")
    assert (said.code, said.err) == (0, "")
    told = json.loads(said.out)
    (one,) = told["routes"]
    windows = [tuple(map(int, pair.split("-"))) for pair in WINDOWS[objective].split()]
    assert one["table"] == [[low <= j + 1 <= high for j in range(7)] for low, high in windows]
    assert told["num_exits"] == 7


def test_printed_table_marks_what_the_library_says(command: Command) -> None:
    said = command("routes", *SEVEN, "objective={name: block_dependent, overlap: 2, final: false}")
    assert (said.code, said.err) == (0, "")
    assert "bdl" not in said.out and "block_dependent, overlap 2, no final" in said.out
    rows = [line.split() for line in said.out.splitlines() if line.strip()[:1].isdigit()]
    table = route_table(create_objective("block_dependent", overlap=2, final=False), 7).tolist()
    for k, (row, wanted) in enumerate(zip(rows, table, strict=True)):
        marks = ["\u25cf" if moves else "\u00b7" for moves in wanted[: k + 1]]
        assert row == [str(k), *marks, str(max(0, k - 1)), f"ce/{k}"]
    assert "a step costs 1.24 times one of joint training" in " ".join(said.out.split())


def test_changes_over_training_are_a_table_each(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(
        "data: {name: digits}\n"
        "model: {name: msdnet, num_exits: 3, base: 1, step: 1}\n"
        "objective: {name: distill, objective: layer_wise, start: 0.5}\n"
        "train:\n"
        "  phases:\n"
        "    - {epochs: 2}\n"
        "    - {epochs: 1, objective: gradient_equilibrium}\n"
        "    - {epochs: 1, train: heads}\n",
        "utf-8",
    )
    said = command("routes", file)
    text = " ".join(said.out.split())
    assert (said.code, said.err) == (0, "")
    assert "phase 0; progress 0 to 0.49" in text and "phase 0; progress 0.5 to 1" in text
    assert "my: gradient_equilibrium; phase 1" in text
    assert "0.333 0.667" in text  # gains of exit 0: its head, and the segment after
    assert "Only these parts are trained: heads." in text
    told = json.loads(command("routes", file, "--json").out)["routes"]
    assert [each["phase"] for each in told] == [0, 0, 1, 2, 2]


def test_run_is_a_source_too(trained: Path, command: Command) -> None:
    told = json.loads(command("routes", trained, "--json").out)
    assert told["num_exits"] == 3
    assert told["routes"][0]["objective"] == "joint"
