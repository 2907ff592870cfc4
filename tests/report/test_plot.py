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
from offramp.report.plot import accuracy_cost


def results(*points: tuple[float, float]) -> Sequence[Any]:
    return [
        SimpleNamespace(cost=cost, accuracy=accuracy, top1=accuracy) for cost, accuracy in points
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
    assert list(tmp_path.iterdir()) == []


def test_plot_leaves_pyplot_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from offramp.report.plot import accuracy_cost; "
        f"accuracy_cost({{}}, exits=[], full=(1.0, 0.9), path={str(tmp_path / 'p.png')!r}); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
