"""What `offramp eval` shows is what the results say."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from offramp.cli.eval import _examined, examined, table, times


def results(seed: int, unit: str = "macs") -> dict[str, Any]:
    """Results of one seed, of two exits and one policy at one budget."""
    point = {
        "budget": 0.5,
        "accuracy": 0.9 + seed / 50,
        "stderr": 0.0123,
        "cost": 0.45 + seed / 10,
        "cost_stderr": 0.0456,
        "exit_rates": [0.75, 0.25],
    }
    rule = {**point, "accuracy": 0.7, "cost": 0.325, "exit_rates": [0.9, 0.1]}
    counts = [[[4, 3], [1, 2]], [[0, 6], [9, 15]]]  # [says leave][right here][right last]
    clock = {"policy": "max_prob", "budget": 0.5, "batch_size": 32}
    return {
        "name": "made",
        "num_test": 40,
        "num_exits": 2,
        "unit": unit,
        "exits": [{"top1": 0.8, "cost": 0.25}, {"top1": 0.95, "cost": 1.0}],
        "controls": ["oracle"],
        "curves": {"max_prob": [point], "oracle": [point]},
        "costs": {"macs": [10.25e6, 41.4e6], "full": {"macs": 41.4e6}},
        "rules": {"max_prob": rule},
        "examine": {"max_prob": {"0.5": [counts] * 2, "rule": [counts[::-1], counts]}},
        "clock": [{**clock, "ms": 2.0 + seed, "full_ms": 3.0, "speed_up": 0.75, "ideal": 1.25}],
    }


def lines(made: Table) -> list[str]:
    screen = Console(file=io.StringIO(), width=120)
    screen.print(made)
    return [" ".join(line.split()) for line in screen.file.getvalue().splitlines()]


def test_table_of_one_run_has_its_figures_and_names_controls() -> None:
    shown = lines(table([results(0)]))
    assert "all at exit 1 95.00 100.0 41.4M" in shown
    assert "max_prob rule 70.00 ± 1.23 32.5 ± 4.6 13.4M 90 10" in shown
    assert "max_prob 0.5 90.00 ± 1.23 45.0 ± 4.6 18.0M 75 25" in shown
    assert "oracle (control) 0.5 90.00 ± 1.23 45.0 ± 4.6 18.0M 75 25" in shown
    assert any("± standard error" in line for line in shown)
    assert "rule: the published thresholds" in " ".join(shown)


def test_table_of_several_seeds_has_mean_and_standard_deviation() -> None:
    shown = lines(table([results(0), results(1)]))
    assert "max_prob 0.5 91.00 ± 1.41 50.0 ± 7.1 18.0M 75 25" in shown
    assert any("± standard deviation over seeds" in line for line in shown)


def test_results_of_an_earlier_version_are_shown_without_what_they_do_not_have() -> None:
    old = {n: v for n, v in results(0).items() if n not in ("rules", "examine")}
    del old["curves"]["max_prob"][0]["cost_stderr"]
    shown = lines(table([old]))
    assert "max_prob 0.5 90.00 ± 1.23 45.0 18.0M 75 25" in shown
    assert not any("rule" in line for line in shown)
    assert _examined([old]) is None


def test_examined_says_how_often_one_exit_alone_is_right() -> None:
    assert _examined([results(0)]) == ("max_prob", "rule")
    shown = lines(examined([results(0)], "max_prob", "rule"))
    # 10 say leave, 1 and 3 of them where one exit alone is right; 30 say stay, 9 and 6
    assert "exit 0 25.0 10.00 30.00 75.0 30.00 20.00" in shown
    assert not any(line.startswith("exit 1") for line in shown)
    assert any("max_prob by its rule" in line for line in shown)
    shown = lines(examined([results(0)] * 2, "max_prob", "0.5"))
    assert (
        "exit 0 75.0 ± 0.0 30.00 ± 0.00 20.00 ± 0.00 25.0 ± 0.0 10.00 ± 0.00 30.00 ± 0.00" in shown
    )


def test_examined_of_a_policy_without_a_rule_is_at_a_middle_budget() -> None:
    made = results(0)
    del made["examine"]["max_prob"]["rule"]
    assert _examined([made]) == ("max_prob", "0.5")
    nobody = [[[10, 3], [1, 2]], [[0, 0], [0, 0]]]
    made["examine"]["max_prob"]["0.5"] = [nobody] * 2
    shown = lines(examined([made], "max_prob", "0.5"))
    assert "exit 0 0.0 - - 100.0 6.25 18.75" in shown
    assert any("max_prob at a budget of 0.5" in line for line in shown)


def test_table_says_the_unit_of_its_costs() -> None:
    assert any("cost in parameters" in line for line in lines(table([results(0, "params")])))


def test_times_show_a_measured_slow_down_as_one() -> None:
    shown = lines(times([results(0), results(1)]))
    measured = "max_prob 0.5 32 2.50 ± 0.71 3.00 ± 0.00 0.75 ± 0.00 1.25 ± 0.00"
    assert measured in shown
    assert any("slower" in line for line in shown)


def test_table_cuts_no_figure_short_on_a_narrow_screen() -> None:
    made = results(0)
    made["task"], made["num_exits"] = "map", 8
    made["exits"] = [{"top1": 0.8, "miou": 0.5, "cost": 0.25}] * 8
    made["costs"]["macs"] = [10.25e6] * 8
    for points in (*made["curves"].values(), [made["rules"]["max_prob"]]):
        for point in points:
            point |= {"miou": 0.5, "exit_rates": [0.125] * 8}
    screen = Console(file=io.StringIO(), width=80)
    screen.print(table([made]))
    said = screen.file.getvalue()
    assert "…" not in said
    assert "mIoU, %" in said and said.split().count("12") == 3 * 8
