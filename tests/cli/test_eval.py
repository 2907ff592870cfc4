"""What `offramp eval` shows is what the results say."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from offramp.cli.eval import table, times


def results(seed: int, unit: str = "macs") -> dict[str, Any]:
    """Results of one seed, of two exits and one policy at one budget."""
    point = {
        "budget": 0.5,
        "accuracy": 0.9 + seed / 50,
        "cost": 0.45 + seed / 10,
        "exit_rates": [0.75, 0.25],
    }
    clock = {"policy": "max_prob", "budget": 0.5, "batch_size": 32}
    return {
        "name": "made",
        "num_test": 40,
        "num_exits": 2,
        "unit": unit,
        "exits": [{"top1": 0.8, "cost": 0.25}, {"top1": 0.95, "cost": 1.0}],
        "controls": ["oracle"],
        "curves": {"max_prob": [point], "oracle": [point]},
        "clock": [{**clock, "ms": 2.0 + seed, "full_ms": 3.0, "speed_up": 0.75, "ideal": 1.25}],
    }


def lines(made: Table) -> list[str]:
    screen = Console(file=io.StringIO(), width=120)
    screen.print(made)
    return [" ".join(line.split()) for line in screen.file.getvalue().splitlines()]


def test_table_of_one_run_has_its_figures_and_names_controls() -> None:
    shown = lines(table([results(0)]))
    assert "all at exit 1 95.00 1.000" in shown
    assert "max_prob 0.5 90.00 0.450 75 25" in shown
    assert "oracle (control) 0.5 90.00 0.450 75 25" in shown


def test_table_of_several_seeds_has_mean_and_standard_deviation() -> None:
    shown = lines(table([results(0), results(1)]))
    assert "max_prob 0.5 91.00 ± 1.41 0.500 ± 0.071 75 25" in shown


def test_table_says_the_unit_of_its_costs() -> None:
    assert any("cost in parameters" in line for line in lines(table([results(0, "params")])))


def test_times_show_a_measured_slow_down_as_one() -> None:
    shown = lines(times([results(0), results(1)]))
    measured = "max_prob 0.5 32 2.50 ± 0.71 3.00 ± 0.00 0.75 ± 0.00 1.25 ± 0.00"
    assert measured in shown
    assert any("slower" in line for line in shown)
