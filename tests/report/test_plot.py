import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from offramp.errors import ValidationError
from offramp.report.plot import Averaged, accuracy_cost, over_seeds


def results(*points: tuple[float, float]) -> Sequence[Any]:
    return [
        SimpleNamespace(
            cost=cost, accuracy=accuracy, top1=accuracy, stderr=0.01, cost_stderr=0.02, budget=b
        )
        for b, (cost, accuracy) in enumerate(points)
    ]


def draw(path: Path, **changes: Any) -> Path:
    curves = {
        "max_prob": results((0.6, 0.97), (0.3, 0.95)),
        "patience": results((0.4, 0.955)),
        "random": results((0.3, 0.92), (0.6, 0.94)),
        "oracle": results((0.3, 0.99)),
    }
    given = {
        "curves": curves,
        "exits": results((0.1, 0.9), (0.4, 0.95), (1.02, 0.97)),
        "full": (1.0, 0.97),
        "static": [("narrow network", 0.5, 0.955)],
    } | changes
    return accuracy_cost(given.pop("curves"), **given, path=path)


def test_png_has_the_picture_at_reading_size(tmp_path: Path) -> None:
    data = draw(tmp_path / "new" / "plot.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (1440, 800)


def test_svg_draws_every_curve_and_rival(tmp_path: Path) -> None:
    text = draw(tmp_path / "plot.svg").read_text(encoding="utf-8")
    drawn = set(re.findall(r'<g id="([^"]+)"', text))
    wanted = {"policy-max_prob", "policy-patience", "policy-random", "policy-oracle"}
    assert wanted | {"exits", "full", "static-narrow network"} <= drawn


def test_svg_leaves_out_what_is_not_given(tmp_path: Path) -> None:
    text = draw(tmp_path / "plot.svg", curves={}, static=[], exits=[]).read_text(encoding="utf-8")
    assert 'id="full"' in text
    assert 'id="policy-' not in text
    assert 'id="static-' not in text
    assert 'id="exits"' not in text


def test_svg_draws_rules_error_bars_and_counts_where_asked(tmp_path: Path) -> None:
    rules = {"patience": results((0.5, 0.96))[0], "gate": results((0.2, 0.94))[0]}
    path = draw(tmp_path / "p.svg", rules=rules, error_bars=True, full_macs=125e6)
    text = path.read_text(encoding="utf-8")
    drawn = set(re.findall(r'<g id="([^"]+)"', text))
    both = [f"{name}-{side}" for name in ("max_prob", "rule-gate") for side in "xy"]
    assert {"rule-patience", "rule-gate", *(f"errors-{each}" for each in both)} <= drawn
    assert not any(name.startswith(("errors-random", "errors-oracle")) for name in drawn)
    assert "multiply-accumulates of an answer, M" in text
    colours = {
        name: re.search(rf'id="{name}".*?stroke: (#[0-9a-f]+)', text, re.DOTALL)
        for name in ("errors-patience-y", "errors-rule-patience-y")
    }
    assert len({found and found[1] for found in colours.values()}) == 1
    assert "errors-" not in draw(tmp_path / "q.svg").read_text(encoding="utf-8")


def test_error_bars_are_as_long_as_the_errors(tmp_path: Path) -> None:
    """One standard error of a result, the range of what is averaged: measured in the picture."""
    averaged = [Averaged(0.8, 0.96, (0.7, 0.85), (0.95, 0.965))]
    curves = {"one": results((0.4, 0.96)), "several": averaged}
    text = draw(tmp_path / "p.svg", curves=curves, error_bars=True).read_text(encoding="utf-8")
    grid = {}
    for side in "xy":
        for name in ("one", "several"):
            part = text.split(f'id="errors-{name}-{side}"')[1].split("</g>")[0]
            (x0, y0), (x1, y1) = re.findall(r"[ML] ([\d.]+) ([\d.]+)", part)
            grid[name, side] = (float(x1) - float(x0)) if side == "x" else float(y0) - float(y1)
    assert grid["one", "x"] / grid["several", "x"] == pytest.approx(0.04 / 0.15, rel=1e-3)
    assert grid["one", "y"] / grid["several", "y"] == pytest.approx(0.02 / 0.015, rel=1e-3)


def test_seeds_are_averaged_budget_by_budget() -> None:
    seeds = [results((0.3, 0.9), (0.5, 0.95)), results((0.5, 0.96), (0.5, 0.93))]
    first, second = over_seeds(seeds)
    assert first.cost == pytest.approx(0.4)
    assert first.cost_range == (0.3, 0.5)
    assert second.accuracy == pytest.approx(0.94)
    assert second.accuracy_range == (0.93, 0.95)
    for wrong in ([], [results((0.3, 0.9)), results((0.3, 0.9), (0.5, 0.9))]):
        with pytest.raises(ValidationError, match="same budgets"):
            over_seeds(wrong)


def test_plot_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_text("old", encoding="utf-8")
    draw(path)
    assert path.read_bytes()[1:4] == b"PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]


def test_plot_refuses_other_suffixes_and_empty_curves(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"\.png or \.svg"):
        draw(tmp_path / "plot.gif")
    with pytest.raises(ValidationError, match="entropy"):
        draw(tmp_path / "plot.png", curves={"entropy": []})
    with pytest.raises(ValidationError, match="full_macs"):
        draw(tmp_path / "plot.png", full_macs=0.0)
    assert list(tmp_path.iterdir()) == []


def test_plot_leaves_pyplot_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from offramp.report.plot import accuracy_cost; "
        f"accuracy_cost({{}}, exits=[], full=(1.0, 0.9), path={str(tmp_path / 'p.png')!r}); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
