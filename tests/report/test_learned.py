"""What learned gates bring to the page: published rules, error bars, and who is right where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from offramp.report import write
from offramp.report.looks import RULE

from .made_up import made_up

TICK = r'<line x1="([\d.]+)" [^>]*class="tick"></line><text[^>]*>(.*?)<'
MARK = (
    r'<g class="mark{} c{}" transform="translate\(([\d.]+),([\d.]+)\)"[^>]*'
    r'aria-label="([^"]*)"><path d="([^"]*)"'
)


def small(**changes: Any) -> dict[str, Any]:
    given = {"pictures": 4, "side": 4, "budgets": (0.4, 0.5, 0.8), "policies": ("max_prob", "gate")}
    return made_up(**(given | {"rules": ("gate",)} | changes))


def text_of(tmp_path: Path, *runs: dict[str, Any]) -> str:
    return write(runs, tmp_path / "report.html").read_text(encoding="utf-8")


def rows_of(text: str, caption: str) -> list[list[str]]:
    """Cells of the table whose caption begins so."""
    table = next(t for t in re.findall("<table>.*?</table>", text) if f"<span>{caption}" in t)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", r) for r in re.findall("<tr>.*?</tr>", table)]


def test_page_without_these_results_has_nothing_of_them(tmp_path: Path) -> None:
    text = text_of(tmp_path, small(rules=()))
    body = text.split("<body>")[1].split("<script")[0]
    for word in ("ublished rule", "rror bar", 'class="bars', "MACs per input", "histogram"):
        assert word not in body
    for part in ('id="rule"', 'id="examine"', 'id="sweep"', "\u00b1"):
        assert part not in body


def test_rule_is_a_star_of_its_policys_colour_in_every_picture(tmp_path: Path) -> None:
    run = small()
    text = text_of(tmp_path, run)
    rule = run["rules"]["gate"]
    found = re.findall(MARK.format(" rule", 1), text)
    assert len(found) == 2  # of a wide and a narrow picture
    for _, _, said, shape in found:
        assert shape == RULE
        assert said.startswith(
            f"gate, published rule: accuracy {100 * rule['accuracy']:.1f}% \u00b1 0.6, "
            f"cost {100 * rule['cost']:.1f}% \u00b1 0.6, "
        )
    assert len(re.findall(r'class="column" data-b="3"', text)) == 2
    assert "Published rule: exit 0 " in text


def test_table_of_rules_gives_figures_errors_counts_and_exits(tmp_path: Path) -> None:
    run = small()
    rule = run["rules"]["gate"]
    head, row = rows_of(text_of(tmp_path, run), "Published rules")
    assert head[:5] == ["policy", "accuracy", "against the full network", "cost", "MACs"]
    counted = sum(r * m for r, m in zip(rule["exit_rates"], run["costs"]["macs"], strict=True))
    assert row[0] == "gate"
    assert row[1] == f"{100 * rule['accuracy']:.1f}% \u00b1 0.6"
    assert row[3] == f"{100 * rule['cost']:.1f}% \u00b1 0.6"
    mean, _, error, prefix = row[4].split(" ")
    assert prefix == "M"
    assert float(mean) == pytest.approx(counted / 1e6, rel=5e-3)
    assert float(error) == pytest.approx(0.006 * 125, abs=0.051)
    for cell, rate in zip(row[5:-1], rule["exit_rates"], strict=True):
        stderr = (rate * (1 - rate) / 2000) ** 0.5
        assert cell == f"{100 * rate:.1f}% \u00b1 {100 * stderr:.1f}"
    assert row[-1] == "1 seed"


def test_rule_is_in_the_other_tables_too(tmp_path: Path) -> None:
    text = text_of(tmp_path, small())
    rows = [row for row in rows_of(text, "Policies by budget") if row[1] == "published rule"]
    assert [(row[0], row[-1]) for row in rows] == [("gate", "")]  # there is no budget to keep
    shares = rows_of(text, "Share of inputs that leave by each exit: gate")
    assert [row[0] for row in shares[1:]] == ["40%", "50%", "80%", "published rule"]


def test_error_bars_reach_as_far_as_the_errors(tmp_path: Path) -> None:
    """Bars are measured against the places of two marks, whose figures are known."""
    run = small(budgets=(0.4, 0.8))
    text = text_of(tmp_path, run)
    points = run["curves"]["max_prob"]
    marks = [(float(x), float(y)) for x, y, *_ in re.findall(MARK.format("", 0), text)][:2]
    across = (marks[1][0] - marks[0][0]) / (points[1]["cost"] - points[0]["cost"])
    up = (marks[1][1] - marks[0][1]) / (points[1]["accuracy"] - points[0]["accuracy"])
    path = re.findall(r'<path d="([^"]*)" class="bars c0"', text)[0]
    bars = re.findall(r"M([\d.]+),([\d.]+)V([\d.]+).*?M([\d.]+),[\d.]+H([\d.]+)", path)
    for (x, low, high, left, right), point, (mark_x, _) in zip(bars, points, marks, strict=True):
        assert float(x) == pytest.approx(mark_x, abs=0.01)
        wanted = 2 * point["stderr"] * abs(up)
        assert abs(float(low) - float(high)) == pytest.approx(wanted, abs=0.05)
        assert float(right) - float(left) == pytest.approx(
            2 * point["cost_stderr"] * across, abs=0.05
        )
    assert "one standard error to either side, test inputs taken as independent draws" in text


def test_bars_of_several_seeds_are_said_to_be_their_range(tmp_path: Path) -> None:
    text = text_of(tmp_path, *(small(seed=seed) for seed in range(3)))
    assert "Error bars reach from the lowest to the highest seed." in text
    assert "one standard error over seeds" in text  # of the exit histogram
    assert "one standard error to either side" not in text


def test_counts_stand_over_the_costs_that_they_are(tmp_path: Path) -> None:
    text = text_of(tmp_path, small())
    wide = text.split('class="narrow"')[1].rsplit('class="wide"')[-1]  # the chart's, not the bars'
    ticks = [(float(x), float(count)) for x, count in re.findall(TICK, wide)]
    costs = re.findall(r'<text x="([\d.]+)" y="471" text-anchor="middle">(\d+)<', text)
    (x0, cost0), *_, (x1, cost1) = [(float(x), float(cost) / 100) for x, cost in costs]
    assert len(ticks) >= 3
    for place, count in ticks:
        cost = cost0 + (place - x0) * (cost1 - cost0) / (x1 - x0)
        assert count == pytest.approx(125 * cost, abs=0.05)
    other = small() | {"unit": "params"}
    assert "MACs per input" not in text_of(tmp_path, other)


def test_histogram_has_a_bar_and_an_error_for_every_exit(tmp_path: Path) -> None:
    run = small()
    text = text_of(tmp_path, run)
    bars = re.findall(
        r'<rect x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"[^>]*></rect>'
        r'<path d="M[\d.]+,([\d.]+)V([\d.]+)[^"]*"></path>'
        r'<text[^>]*class="value">([^<]*)</text>',
        text,
    )
    assert len(bars) == 8
    rates = run["curves"]["max_prob"][1]["exit_rates"]
    for rate, (_, height, low, high, said) in zip(rates, bars[:4], strict=True):
        assert float(height) == pytest.approx(120 * rate, abs=0.02)
        stderr = (rate * (1 - rate) / 2000) ** 0.5
        assert float(low) - float(high) == pytest.approx(240 * stderr, abs=0.02)
        assert said == f"{100 * rate:.1f}%"


def test_examined_inputs_are_shares_of_their_row_with_counts(tmp_path: Path) -> None:
    runs = [small(seed=seed) for seed in range(2)]
    text = text_of(tmp_path, *runs)
    rows = rows_of(text, "gate, published rule; inputs of 2 seeds together")[1:]
    assert len(rows) == 2 * 3  # the last exit is not held against itself
    given = [run["examine"]["gate"]["rule"] for run in runs]
    for row, (k, leaves) in zip(rows, ((k, n) for k in range(3) for n in (1, 0)), strict=True):
        [ww, wr], [rw, rr] = (
            [sum(counts[k][leaves][here][last] for counts in given) for last in (0, 1)]
            for here in (0, 1)
        )
        total = ww + wr + rw + rr
        wanted = [f"{100 * n / total:.1f}% ({n:,})" for n in (rw, wr, ww)]
        assert row == [f"exit {k}, {'leave' if leaves else 'stay'}", f"{total:,}", *wanted]
    others = rows_of(text, "gate; inputs of 2 seeds together")
    assert [row[0] for row in others[1::6]] == [f"budget {b}%: exit 0, leave" for b in (40, 50, 80)]


def test_empty_rows_of_examined_inputs_have_no_shares(tmp_path: Path) -> None:
    run = small()
    run["examine"]["gate"] = {"rule": [[[[0, 0], [0, 0]], [[10, 20], [30, 1940]]]] * 4}
    rows = rows_of(text_of(tmp_path, run), "gate, published rule")
    assert rows[1] == ["exit 0, leave", "2,000", "1.5% (30)", "1.0% (20)", "0.5% (10)"]
    assert rows[2] == ["exit 0, stay", "0", "", "", ""]


def test_studies_side_by_side_show_their_rules_in_their_colours(tmp_path: Path) -> None:
    runs = [small(name=name, seed=seed) for name in "ab" for seed in (0, 1)]
    text = text_of(tmp_path, *runs)
    for number in (0, 1):
        assert len(re.findall(MARK.format(" rule", number), text)) == 2
    assert [row[0] for row in rows_of(text, "Published rules")[1:]] == ["A: gate", "B: gate"]
