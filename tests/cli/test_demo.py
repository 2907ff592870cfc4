import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from offramp.cli import app
from offramp.cli.demo import summary, table
from offramp.demo import (
    BUDGET,
    BUDGETS,
    CONTROLS,
    FULL,
    POLICIES,
    POLICY,
    STATIC,
    Clock,
    Outcome,
    run_demo,
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    threads = torch.get_num_threads()
    yield run_demo(tmp_path_factory.mktemp("demo"), quick=True)
    assert torch.get_num_threads() == threads


def test_demo_evaluates_every_policy_at_every_budget(outcome: Outcome) -> None:
    assert list(outcome.curves) == [*POLICIES, *CONTROLS]
    for results in outcome.curves.values():
        assert [r.budget for r in results] == list(BUDGETS)
        assert all(r.num == outcome.num_test for r in results)


def test_demo_writes_picture_and_the_numbers_it_shows(outcome: Outcome) -> None:
    assert Path(outcome.files["png"]).read_bytes()[1:4] == b"PNG"
    assert json.loads(Path(outcome.files["json"]).read_text("utf-8")) == outcome.to_dict()
    with Path(outcome.files["csv"]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = [(r.policy, r.accuracy) for results in outcome.curves.values() for r in results]
    assert [(row["policy"], float(row["accuracy"])) for row in rows] == shown


def test_demo_full_network_answers_as_the_last_exit(outcome: Outcome) -> None:
    assert outcome.full == (FULL, 1.0, outcome.exits[-1].top1)


def test_demo_small_network_costs_about_the_budget_it_is_compared_at(outcome: Outcome) -> None:
    assert outcome.static.cost == pytest.approx(BUDGET, abs=0.05)


def test_demo_times_both_networks_and_every_policy_at_both_batch_sizes(outcome: Outcome) -> None:
    for size in (1, outcome.num_test):
        for name, budget in [(FULL, None), (STATIC, None), *((p, BUDGET) for p in POLICIES)]:
            clock = outcome.clock(name, budget, size)
            full = outcome.clock(FULL, None, size)
            assert clock is not None and full is not None
            assert clock.ms > 0
            assert clock.speed_up == pytest.approx(full.ms / clock.ms)
            assert (clock.ideal is None) == (budget is None)


def test_clock_efficiency_is_measured_over_ideal() -> None:
    assert Clock("max_prob", 0.5, 1, 1.0, 1.5, 2.0).efficiency == 0.75
    assert Clock(FULL, None, 1, 1.0, 1.0).efficiency is None


def test_table_has_a_row_for_every_way_to_answer(outcome: Outcome) -> None:
    ways = 2 + len(BUDGETS) + len(POLICIES) - 1 + len(CONTROLS)
    assert table(outcome).row_count == ways


def test_summary_says_slower_where_it_is(outcome: Outcome) -> None:
    def said(speed_up: float) -> str:
        sizes = (outcome.num_test, 1)
        clocks = [Clock(POLICY, BUDGET, size, 1.0, speed_up, 2.0) for size in sizes]
        return summary(Outcome(**{**vars(outcome), "clocks": clocks}))

    assert "1.50 times as fast as the full network (ideal 2.00, efficiency 0.75)" in said(1.5)
    assert "slower" not in said(1.5)
    assert said(0.5).count("that is slower") == 2


def test_demo_json_prints_json_alone(tmp_path: Path, outcome: Outcome, monkeypatch) -> None:
    monkeypatch.setattr("offramp.demo.run_demo", lambda *_, **__: outcome)
    done = CliRunner().invoke(app, ["demo", "--json", "--out", str(tmp_path)])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == outcome.to_dict()


def test_demo_refuses_a_folder_that_cannot_be_made_before_it_trains(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/inside"):
        done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / out)])
        assert done.exit_code == 2
        assert f"wanted a folder to write to, got {tmp_path / out}" in done.stderr
        assert "training" not in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_demo_keeps_the_accuracy_at_60_percent_of_the_work(tmp_path: Path, seed: int) -> None:
    outcome = run_demo(tmp_path, seed=seed)
    for budget in (0.3, 0.4, 0.5):
        result = outcome.result(POLICY, budget)
        assert result.cost <= 0.6
        assert result.accuracy >= outcome.full.accuracy - 0.01
