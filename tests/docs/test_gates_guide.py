"""The tables of the guide to learned gates are what objectives, networks and heads do."""

from __future__ import annotations

import re

import pytest
import torch

import offramp
from offramp.costs import count_macs
from offramp.objectives.gated import GatedObjective
from offramp.registry import objectives

from .test_tables import code, table

PAGE = "guide/gates.md"
NETWORKS = table(PAGE, "`network`")
LARGE = ("resnet50", "densenet121", "vgg11_bn")
PLACEMENTS = table(PAGE, "placement")


def test_guide_names_every_objective_that_teaches_gates() -> None:
    told = {name.strip("`") for name in table(PAGE, "objective")}
    found = {offramp.list_objectives(name)[0] for name in told}
    makers = {name: objectives.get(name) for name in offramp.list_objectives()}
    gated = {n for n, m in makers.items() if isinstance(m, type) and issubclass(m, GatedObjective)}
    assert told == found
    assert told == gated | {"joint"}


def test_guide_names_the_published_losses_once_each() -> None:
    rows = table(PAGE, "objective").values()
    said = [version for row in rows for version in re.findall(r"EENets v(\d)", row.split("|")[0])]
    assert sorted(said) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[pytest.mark.slow] * (row.strip("`") in LARGE), id=row.strip("`"))
        for row in NETWORKS
    ],
)
def test_guide_says_what_each_exit_of_leenet_costs(row: str) -> None:
    network = row.strip("`")
    if network in LARGE:
        pytest.importorskip("torchvision")
    images, _, _, costs = (cell.strip() for cell in NETWORKS[row].split("|")[:4])
    model = offramp.create_model("leenet", network=network).eval()
    pieces = count_macs(model, torch.zeros(1, 3, int(images), int(images)))
    full = float(pieces.segments.sum())
    found = ((pieces.segments + pieces.heads).cumsum(0) / full).tolist()
    assert costs == ", ".join(f"{cost:.3f}" for cost in found)
    assert float(pieces.heads.sum()) / full < 1.05e-4  # "one ten-thousandth at most"


@pytest.mark.slow
def test_guide_says_how_large_flat_heads_are() -> None:
    pytest.importorskip("torchvision")
    rows = table(PAGE, "`resnet50`, 224 pixels")
    cells = {name: [c.strip() for c in row.split("|")[:2]] for name, row in rows.items()}
    pooled, flat = _widths_of_resnet50()
    full = count_macs(_resnet50(1000), torch.zeros(1, 3, 224, 224)).segments.sum()
    assert cells["numbers read at the three exits"] == [_listed(pooled), _listed(flat)]
    few, some = cells["weights of all heads, 10 classes"]
    assert (few, some) == (f"{sum(pooled) * 11 / 1e3:.0f} thousand", _million(sum(flat) * 11, 1))
    few, many = cells["weights of all heads, 1000 classes"]
    assert few == _million(sum(pooled) * 1001, 1)
    assert many.startswith(_million(sum(flat) * 1001, 0))
    key = "multiply-accumulates of all heads, 1000 classes"
    shares = [float(sum(each) * 1001 / full) for each in (pooled, flat)]
    assert cells[key][0].startswith(f"{100 * shares[0]:.2f} %")
    assert cells[key][1].startswith(f"{100 * shares[1]:.0f} %")
    kept = f"{4 * sum(pooled) / 1e3:.0f} kB", f"{4 * sum(flat) / 1e6:.1f} MB"
    assert tuple(cells["kept per image for the gates"]) == kept


@pytest.mark.parametrize("row", PLACEMENTS)
def test_guide_says_where_a_placement_puts_exits(row: str) -> None:
    [call] = code(row)
    share = PLACEMENTS[row].split("|")[0].strip()
    name, _, arguments = call.rstrip(")").partition("(")
    make = getattr(offramp.placement, name)
    if share == "as given":
        assert make(*map(float, arguments.split(","))).shares == (0.1, 0.4)
        return
    wanted = [eval(share.replace("^", "**"), {"i": i, "n": 3}) for i in (1, 2, 3)]
    assert make(3).shares == pytest.approx(wanted, abs=1e-3)


def _resnet50(num_classes: int) -> offramp.MultiExitModel:
    return offramp.create_model("leenet", network="resnet50", num_classes=num_classes).eval()


def _widths_of_resnet50() -> tuple[list[int], list[int]]:
    """Numbers that pooled and flat heads read, at each early exit."""
    model, state = _resnet50(10), torch.zeros(1, 3, 224, 224)
    pooled, flat = [], []
    with torch.no_grad():
        for segment, head in zip(model.segments[:-1], model.heads[:-1], strict=True):
            state = segment(state)
            value = state[head.reads][0]
            pooled.append(len(value))
            flat.append(value.numel())
    return pooled, flat


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _million(number: int, digits: int) -> str:
    return f"{number / 1e6:.{digits}f} million"
