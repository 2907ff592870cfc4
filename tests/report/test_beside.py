"""Several studies on a page: each exit beside the others', one policy at a time, and routes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from offramp.report import write
from offramp.runs.routing import plan_routes

from .made_up import made_up
from .test_page import Page, page

CONFIG = "model: {{name: msdnet}}\ntrain: {{epochs: 1}}\nobjective: {}\n"


def small(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return made_up(seed=seed, pictures=0, budgets=(0.4, 0.6, 0.8), **changes)


def put(folder: Path, objective: str, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(small(**changes)), "utf-8")
    (folder / "config.yaml").write_text(CONFIG.format(objective), "utf-8")
    return folder


def cells(text: str, caption: str) -> list[list[str]]:
    """Rows of the table whose caption begins so, without markup."""
    table = next(t for t in re.findall("<table>.*?</table>", text) if f"<span>{caption}" in t)
    rows = re.findall("<tr>(.*?)</tr>", table)
    inside = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return [[re.sub(r"<[^>]+>", " ", cell).strip() for cell in row] for row in inside]


def test_tables_have_every_exit_of_every_study(tmp_path: Path) -> None:
    first = [small(seed, name="a") for seed in range(3)]
    other = [small(seed, name="b", gain=0.02) for seed in range(3)]
    text = write([*first, *other], tmp_path / "p.html").read_text("utf-8")
    scores, gains = cells(text, "Accuracy by exit"), cells(text, "Gain in accuracy over A: a")
    assert [row[0] for row in scores[1:]] == ["A: a", "B: b"]
    assert [row[0] for row in gains[1:]] == ["B: b"]
    for k in range(4):
        own = [100 * run["exits"][k]["top1"] for run in other]
        pairs = [b - 100 * run["exits"][k]["top1"] for b, run in zip(own, first, strict=True)]
        assert scores[2][k + 1].startswith(f"{sum(own) / 3:.2f}%")
        assert f"({min(own):.2f} to {max(own):.2f})" in scores[2][k + 1]
        shown = float(gains[1][k + 1].split()[0].replace("\u2212", "-"))
        assert shown == pytest.approx(sum(pairs) / 3, abs=0.0051)
        assert gains[1][k + 1].endswith(f"{sum(p > 0 for p in pairs)} of 3 better")


def test_each_policy_has_a_chart_of_all_studies(tmp_path: Path) -> None:
    made = page(tmp_path, small(name="a"), small(name="b", policies=("max_prob",)))
    charts = [a["data-policy"] for a in made.having("class", "by-policy")]
    assert charts == ["max_prob", "patience", "entropy", "random", "oracle"]
    places = {(a["data-s"], a["data-p"]) for a in made.having("data-s")}
    assert len(places) == 5 + 3
    assert "Side by side" in made.text and "Gain over A: a" in made.text


def test_page_of_one_study_has_nothing_beside_it(tmp_path: Path) -> None:
    made = page(tmp_path, small(0), small(1))
    assert made.having("class", "by-policy") == [] and "Side by side" not in made.text


def test_baseline_that_is_named_is_held_against(tmp_path: Path) -> None:
    made = page(tmp_path, small(name="a"), small(name="b"), baseline="b", labels=["x", None])
    assert "Gain over B: b" in made.text
    assert "A: x" in made.text


def test_maps_are_shown_by_miou(tmp_path: Path) -> None:
    made = page(tmp_path, *(small(name=name, task="map") for name in "ab"))
    assert "mIoU by exit" in made.text and "mIoU against cost" in made.text
    assert "pixel accuracy on 2,000 test inputs" in made.text
    alone = page(tmp_path, small(task="map"))
    assert "pixel accuracy, %" in alone.text


def test_routes_are_drawn_as_they_trained(tmp_path: Path) -> None:
    joint = put(tmp_path / "joint", "{name: joint}")
    overlap = put(tmp_path / "overlap", "{name: block_dependent, overlap: 2}")
    text = write([joint, overlap], tmp_path / "p.html").read_text("utf-8")
    pictures = re.findall(r'<svg [^>]*class="routes">.*?</svg>', text)
    assert len(pictures) == 2
    squares = [re.findall(r'class="(moved|passed)"', each) for each in pictures]
    assert squares[0] == ["moved"] * 10
    wanted = [[j >= max(0, k - 1) or k == 3 for j in range(k + 1)] for k in range(4)]
    assert squares[1] == ["moved" if moves else "passed" for row in wanted for moves in row]
    assert "exit 2 trains segments 1 to 2; exit 3 trains segments 0 to 3" in pictures[1]
    plain = {"model": {}, "train": {}, "objective": {"name": "block_dependent", "overlap": 2}}
    cost = plan_routes(plain, 4)[0].cost
    assert f"a training step costs {cost:.2f} times joint training" in Page(text).text


@pytest.mark.parametrize(
    ("objective", "drawn"),
    [
        ("{name: joint}", 0),
        ("{name: layer_wise}", 1),
        ("{name: gradient_equilibrium}", 1),
        ("{name: distill, objective: layer_wise, start: 0.5}", 1),  # other terms, same segments
        ("{name: of_a_plug_in}", 0),
        ("just text", 0),
    ],
)
def test_one_study_shows_routes_where_it_is_routed(
    objective: str, drawn: int, tmp_path: Path
) -> None:
    run = put(tmp_path / "run", objective)
    text = write([run]).read_text("utf-8")
    assert text.count('class="routes"') == drawn
    assert ("Which exit trains which segment" in text) == bool(drawn)


def test_study_whose_routes_are_not_known_is_named(tmp_path: Path) -> None:
    known, unknown = put(tmp_path / "a", "{name: joint}"), put(tmp_path / "b", "{name: mine}")
    text = write([known, unknown], tmp_path / "p.html").read_text("utf-8")
    assert text.count('class="routes"') == 1 and "Of mine it is not known." in text
