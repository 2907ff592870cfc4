"""Pictures of maps in a browser: they move with the slider, and fit a phone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from offramp.report import write

from .browser import Browser
from .made_up import HOSTILE, made_up
from .test_browser import SEEN, SET

pytestmark = pytest.mark.slow


def test_slider_moves_maps_and_shows_the_answer_of_their_exit(
    window: Browser, tmp_path: Path
) -> None:
    runs = [made_up(name=name, task="map", pictures=8, side=16) for name in "ab"]
    window.size(1280)
    window.log("browser")
    window.open(write(runs, tmp_path / "report.html"), "#study=b")
    assert window.run(SEEN, ".pictures") == ["1 "]
    for policy, b in ((0, 0), (0, 7), (1, 3)):
        window.run(SET, "policy", policy)
        window.run(SET, "budget", b)
        found = window.run(
            "return [...document.querySelectorAll('[data-study=\"1\"] [data-i]')].map((e) => ["
            "Number(e.dataset.i), Number(e.closest('[data-exit]').dataset.exit),"
            " [...e.querySelectorAll('img')].filter((i) => i.checkVisibility()).map((i) => i.src)])"
        )
        samples = runs[1]["samples"]
        exits = samples["exits"][("max_prob", "patience")[policy]][b]
        assert sorted(found) == [
            [i, k, [samples["images"][i], samples["targets"][i], samples["answers"][k][i]]]
            for i, k in enumerate(exits)
        ]
    window.run(SET, "policy", 3)  # the control that has no pictures
    assert (
        window.run(
            "return [...document.querySelectorAll('.pictures img')]"
            ".every((e) => !e.checkVisibility())"
        )
        is True
    )
    assert window.log("browser") == []


@pytest.mark.parametrize(("width", "columns"), [(1280, 3), (768, 2), (400, 1), (320, 1)])
def test_pictures_of_maps_fit_the_width_side_by_side(
    window: Browser, width: int, columns: int, tmp_path: Path
) -> None:
    run = made_up(task="map", exits=1, policies=(), controls=(), pictures=6, classes=HOSTILE)
    window.size(width)
    window.open(write([run], tmp_path / "report.html"))
    assert window.run("return document.documentElement.scrollWidth") <= width
    lefts = window.run(
        "return [...document.querySelectorAll('.maps figure')].map((e) => [...e.children].map("
        "(part) => { const b = part.querySelector('img').getBoundingClientRect();"
        " return [b.left, b.top, b.width]; }))"
    )
    assert len({parts[0][0] for parts in lefts}) == columns
    for parts in lefts:
        assert len(parts) == 3 and len({top for _, top, _ in parts}) == 1
        assert all(size >= 85 for _, _, size in parts)
        assert all(a[0] + a[2] < b[0] for a, b in pairwise(parts))


def test_what_does_not_count_is_striped_in_legend_and_maps(window: Browser, tmp_path: Path) -> None:
    run = made_up(task="map", pictures=1)
    window.open(write([run], tmp_path / "report.html"))
    behind = window.run(
        "return ['.no-class', '.maps img'].map((name) =>"
        " getComputedStyle(document.querySelector(name)).backgroundImage)"
    )
    assert behind[0] == behind[1] and behind[0].startswith("repeating-linear-gradient")
