"""Numbers and pieces of the report, one by one."""

from __future__ import annotations

from itertools import pairwise

import pytest

from offramp.report.axes import Axes, ticks
from offramp.report.looks import exit_colour, ink_on, letter
from offramp.report.markup import element, join
from offramp.report.study import Spread
from offramp.report.words import count, drop, percent, plain, points, short_percent, with_range


def test_shares_are_written_in_percent() -> None:
    assert [percent(0.5), percent(-0.001), percent(1, 0)] == ["50.0%", "\u22120.1%", "100%"]
    assert [short_percent(0.5), short_percent(0.333333)] == ["50%", "33.33%"]
    assert with_range(Spread(0.5, 0.4, 0.61, 3)) == "50.0% (40.0 to 61.0)"
    assert with_range(Spread(0.5, 0.5, 0.5, 3)) == "50.0%"


def test_differences_have_a_sign_and_no_negative_zero() -> None:
    gains = [points(gain) for gain in (0.0123, -0.0123, -0.0001)]
    assert gains == ["+1.2 points", "\u22121.2 points", "0.0 points"]
    assert drop(0.0123) == "1.2 percentage points less"
    assert drop(-0.0123) == "1.2 percentage points more"
    assert drop(0.0004) == "the same accuracy"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.5, "1.50"), (0.09876, "0.0988"), (12.345, "12.3"), (1234.5, "1,234"), (0.0, "0.00")],
)
def test_plain_figures_have_three_digits(value: float, text: str) -> None:
    assert plain(value) == text


def test_counts_have_separators_and_prefixes() -> None:
    assert [count(n) for n in (999, 12_345, 1.256e8, 4e9)] == ["999", "12,345", "126 M", "4 G"]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.86, 0.94), (0.2, 1.07), (0.9, 0.9001), (0.0, 900.0)]
)
def test_ticks_are_round_inside_and_not_too_many(low: float, high: float) -> None:
    found = ticks(low, high, 6)
    assert 2 <= len(found) <= 7
    assert low - 1e-9 <= found[0] < found[-1] <= high + 1e-9
    steps = {round(b - a, 9) for a, b in pairwise(found)}
    assert len(steps) == 1


def test_axes_put_corners_in_the_corners() -> None:
    axes = Axes(200, 100, (0.2, 1.2), (0.5, 1), left=20, right=10, top=5, bottom=15)
    assert [axes.x(0.2), axes.x(1.2), axes.y(0.5), axes.y(1)] == [20, 190, 85, 5]


def test_elements_escape_what_is_no_markup() -> None:
    inner = element("b", "<&>", title='"<')
    assert inner == '<b title="&quot;&lt;">&lt;&amp;&gt;</b>'
    assert element("p", inner, "'", class_="x", hidden=True, id=None) == (
        f'<p class="x" hidden>{inner}&#x27;</p>'
    )
    assert join("a\x00\ud800\u202e", inner) == f"a\ufffd\ufffd\ufffd{inner}"
    assert element("br", data_a=1 / 3) == '<br data-a="0.333333">'


def test_exits_go_from_blue_to_orange_with_readable_ink() -> None:
    assert [exit_colour(0, 5), exit_colour(4, 5)] == ["#1b5e9e", "#d9720f"]
    assert exit_colour(0, 1) == "#1b5e9e"
    assert len({exit_colour(k, 12) for k in range(12)}) == 12
    assert [ink_on("#1b5e9e"), ink_on("#c9c9c9")] == ["#fff", "#000"]


def test_letters_of_studies_do_not_run_out() -> None:
    assert [letter(n) for n in (0, 25, 26)] == ["A", "Z", "A2"]
