"""A sweep over alpha beside the results of a run: read at the door, drawn, and put in a table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offramp.errors import ReportError
from offramp.report import write

from .made_up import made_up, made_up_sweep


def run_in(folder: Path, sweep: Any, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    given = {"pictures": 0, "budgets": (0.4, 0.8), "policies": ("gate",)} | changes
    (folder / "results.json").write_text(json.dumps(made_up(**given)), "utf-8")
    if sweep is not None:
        (folder / "sweep.json").write_text(json.dumps(sweep), "utf-8")
    return folder


def drawn(text: str, part: str) -> list[str]:
    """What the marks of a sweep say, in one part of the page."""
    (section,) = re.findall(rf"<h2>{part}</h2>.*?</section>", text)
    return re.findall(r'class="rival swept"[^>]*aria-label="([^"]*)"', section)


def test_every_alpha_is_drawn_and_in_the_table(tmp_path: Path) -> None:
    sweep = made_up_sweep(alphas=5)
    text = write([run_in(tmp_path, sweep)]).read_text("utf-8")
    said = drawn(text, "Gates over alpha")
    assert len(said) == 5 * 2 * 3  # two parts, three pictures
    for step in sweep["points"]:
        for part in ("calibration", "test"):
            found = step[part]
            wanted = (
                f"alpha {step['alpha']:g}: accuracy {100 * found['accuracy']:.1f}%, cost "
                f"{100 * found['cost']:.1f}%, mean exit {found['mean_exit']:.2f}; {part} part"
            )
            assert said.count(wanted) == 3
            cells = [
                *(part, f"{100 * found['accuracy']:.1f}%", f"{100 * found['cost']:.1f}%"),
                f"{found['mean_exit']:.2f}",
                *(f"{100 * rate:.1f}%" for rate in found["rates"]),
            ]
            assert "".join(f"<td>{cell}</td>" for cell in cells) in text
    assert "5 alphas in 3.21 s of wall time." in text


def test_alphas_stand_beside_the_policies_on_the_test_part(tmp_path: Path) -> None:
    sweep = made_up_sweep(alphas=5)
    for part in ("calibration", "test"):
        sweep["points"][-1][part]["accuracy"] = 0.9
    text = write([run_in(tmp_path, sweep)]).read_text("utf-8")
    said = drawn(text, "Accuracy against cost")
    assert len(said) == 2 * 5 and all(each.endswith("test part") for each in said)
    untold = json.loads(json.dumps(sweep))
    untold["points"][2]["test"] = None
    text = write([run_in(tmp_path, untold)]).read_text("utf-8")
    said = drawn(text, "Accuracy against cost")  # of one part only: never of two at once
    assert len(said) == 2 * 5 and all(each.endswith("calibration part") for each in said)
    assert "gates over alpha, calibration part" in text


def test_alphas_outside_the_axes_are_counted(tmp_path: Path) -> None:
    sweep = made_up_sweep(alphas=5)
    for step in sweep["points"][3:]:
        step["test"]["accuracy"] = 0.1
    text = write([run_in(tmp_path, sweep)]).read_text("utf-8")
    assert len(drawn(text, "Accuracy against cost")) == 2 * 3
    assert "only in the sweep below: 2 of 5 alphas" in text


def test_costs_in_another_unit_stay_off_the_axes(tmp_path: Path) -> None:
    sweep = made_up_sweep(alphas=3) | {"unit": "params"}
    text = write([run_in(tmp_path, sweep)]).read_text("utf-8")
    assert drawn(text, "Accuracy against cost") == []
    assert "costs in another unit" in text
    assert len(drawn(text, "Gates over alpha")) == 3 * 2 * 3


def test_seeds_have_a_line_each(tmp_path: Path) -> None:
    study = tmp_path / "study"
    for seed in (0, 1):
        run_in(study / f"seed-{seed}", made_up_sweep(alphas=3, seed=seed), seed=seed)
    run_in(study / "seed-2", None, seed=2)
    text = write([study]).read_text("utf-8")
    said = drawn(text, "Gates over alpha")
    assert {each.split(":")[0].partition(", ")[2] for each in said} == {"seed 0", "seed 1"}
    assert "Seed 1: every alpha" in text and "a line for each seed" in text


def test_one_alpha_and_one_part_make_a_picture(tmp_path: Path) -> None:
    text = write([run_in(tmp_path, made_up_sweep(alphas=1, test=False))]).read_text("utf-8")
    assert len(drawn(text, "Gates over alpha")) == 3
    assert "nan" not in text.lower()


WRONG: list[tuple[Callable[[Any], object], str]] = [
    (lambda s: s.update(format="other"), "format: .*offramp-sweep"),
    (lambda s: s.update(version=2), "version: .*got 2"),
    (lambda s: s.update(points=[]), "points: "),
    (lambda s: s.pop("unit"), "unit: field required"),
    (lambda s: s["points"].pop(), "points: wanted one for each of the alphas"),
    (
        lambda s: s["points"][1]["test"].update(rates=[1.0]),
        r"points\.1\.test\.rates: wanted 4",
    ),
    (
        lambda s: s["points"][0]["calibration"].update(rates=[0.5] * 4),
        "points.*wanted rates that sum to 1",
    ),
    (lambda s: s["points"][0]["test"].update(mean_exit=3.5), "points.*mean_exit: wanted at most 3"),
    (lambda s: s["points"][0]["test"].update(cost=float("nan")), r"points\.0\.test\.cost: "),
    (lambda s: s["points"][0].update(alpha=1.5), r"points\.0\.alpha: .*got 1\.5"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said[:30] for _, said in WRONG])
def test_sweeps_that_do_not_hold_name_file_and_key(
    change: Callable[[Any], object], said: str, tmp_path: Path
) -> None:
    sweep = made_up_sweep(alphas=3)
    change(sweep)
    with pytest.raises(ReportError, match=rf"sweep\.json: (.*; )?{said}"):
        write([run_in(tmp_path, sweep)])


def test_sweep_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = run_in(tmp_path, None)
    (folder / "sweep.json").write_text("{", "utf-8")
    with pytest.raises(ReportError, match=r"sweep\.json: wanted JSON"):
        write([folder])
