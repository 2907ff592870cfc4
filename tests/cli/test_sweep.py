"""What `offramp sweep` shows is what ``sweep.json`` says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from offramp.cli.sweep import table

from .conftest import Command

SMALL = (
    "digits",
    "model.depth=8",
    "model.at=[layer1]",
    "model.gate=true",
    "train.epochs=1",
    "policies=[max_prob]",
    "budgets=[0.8]",
    "gates={alpha: 0.5, steps: 20}",
)


def figures(accuracy: float, cost: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "cost": cost, "mean_exit": 0.75, "rates": [0.25, 0.75]}


def swept(test: bool, unit: str = "macs") -> dict[str, Any]:
    point = {
        "alpha": 0.35,
        "calibration": figures(0.9, 0.5),
        "test": figures(0.8, 0.6) if test else None,
    }
    return {"unit": unit, "alphas": [0.35], "points": [point], "seconds": 0.5}


def lines(told: dict[str, Any]) -> list[str]:
    screen = Console(file=io.StringIO(), width=160)
    screen.print(table(told, "runs/made"))
    return [" ".join(line.split()) for line in screen.file.getvalue().splitlines()]


def test_table_has_a_row_for_each_alpha() -> None:
    shown = lines(swept(test=False))
    assert "0.35 90.00 0.500 0.75 25 75" in shown
    assert not any("test" in line for line in shown)


def test_table_has_the_figures_of_the_test_part_beside() -> None:
    shown = lines(swept(test=True))
    assert "0.35 90.00 0.500 0.75 25 75 80.00 0.600 0.75 25 75" in shown
    assert any("test: right, %" in line for line in shown)


def test_table_says_the_unit_of_its_costs() -> None:
    assert any("cost in parameters" in line for line in lines(swept(False, "params")))


def test_sweep_prints_what_it_writes(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert command("train", *SMALL, "--quiet", "--out", out).code == 0
    said = command("sweep", out, "--alphas", "3", "--test", "--nats", "balanced", "--json", "-q")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert told == json.loads((out / "sweep.json").read_text("utf-8"))
    assert told["alphas"] == [0, 0.5, 1]
    said = command("sweep", out, "--alphas", "2", "--quiet")
    assert said.code == 0, said.err
    assert "2 alphas in " in said.out
    assert str(out / "sweep.json") in " ".join(said.out.split())
