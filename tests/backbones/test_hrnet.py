"""HRNet for maps: timm's own features, dense heads on them, exits after its stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp import create_model, measure
from offramp.costs import count_macs
from offramp.errors import CheckpointError, PlaceError, UnknownNameError
from offramp.model import MultiExitModel

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def model() -> MultiExitModel:
    return create_model("hrnet", num_classes=5, gate=True).eval()


def test_hrnet_has_the_features_of_timm(model: MultiExitModel) -> None:
    network = timm.create_model("hrnet_w18_small", num_classes=0, head="").eval()
    network.load_state_dict(model.network.state_dict())
    state = images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for segment in model.segments:
            state = segment(state)
        wanted = network.forward_features(images)
    assert len(state) == len(wanted) == 4
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state, wanted, strict=True))


@pytest.mark.parametrize("size", [(64, 96), (180, 240), (33, 47)])
def test_hrnet_answers_at_a_quarter_of_any_size(size: tuple, model: MultiExitModel) -> None:
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, *size))
    shape = (1, 5, -(-size[0] // 4), -(-size[1] // 4))
    assert [tuple(out.logits.shape) for out in outputs] == [shape] * 4
    assert [out.gate is None for out in outputs] == [False, False, False, True]


def stacked(maps: list[Tensor]) -> Tensor:
    """All maps at the resolution of the finest, as HRNetV2 has them."""
    size = maps[0].shape[2:]
    return torch.cat(
        [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps], 1
    )


def test_last_exit_of_hrnet_answers_as_hrnetv2(model: MultiExitModel) -> None:
    state = images = torch.randn(2, 3, 50, 70)
    with torch.no_grad():
        for segment in model.segments:
            state = segment(state)
        head = model.heads[-1]
        logits = head.classifier(F.relu(head.norm(head.project(stacked(state)))))
        out = model(images)[-1]
    torch.testing.assert_close(out.logits, logits, rtol=1e-4, atol=1e-4)


def test_hrnet_costs_what_its_maps_do() -> None:
    model = create_model("hrnet", num_classes=19)
    areas = [45 * 60, 23 * 30, 12 * 15, 6 * 8]
    widths = [[128], [16, 32], [16, 32, 64], [16, 32, 64, 128]]
    early = [sum(a * c * 19 for a, c in zip(areas, w, strict=False)) for w in widths[:-1]]
    last = sum(a * c * 240 for a, c in zip(areas, widths[-1], strict=True)) + areas[0] * 240 * 19
    pieces = count_macs(model.eval(), torch.zeros(1, 3, 180, 240))
    assert pieces.heads.tolist() == [*early, last]
    costs = measure(model, torch.zeros(1, 3, 180, 240), latency=False)  # and warns of no head
    assert [round(share, 2) for share in costs.relative().tolist()] == [0.33, 0.57, 0.73, 1.02]


def test_hrnet_trains_every_weight_and_saves_each_once() -> None:
    model = create_model("hrnet", at=["stage2"], num_classes=3, head_width=8)
    outputs = model(torch.randn(2, 3, 64, 64))
    sum(out.logits.square().mean() for out in outputs).backward()
    assert all(p.grad is not None for p in model.parameters())
    names = list(model.state_dict())
    assert {name.partition(".")[0] for name in names} == {"network", "heads"}
    assert model.heads[0].project.weight.shape == (8, 16 + 32, 1, 1)


def test_hrnet_runs_as_it_is_replayed(check_running, model: MultiExitModel) -> None:
    check_running(model, torch.randn(4, 3, 40, 52))


def test_hrnet_takes_weights_of_timm_without_their_classifier(tmp_path: Path) -> None:
    network = timm.create_model("hrnet_w18_small")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    made = create_model("hrnet", weights=tmp_path / "w.pth", in_channels=1).network
    name = "stage4.0.branches.0.1.conv2.weight"
    assert torch.equal(made.get_parameter(name), network.get_parameter(name))
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="names are missing"):
        create_model("hrnet", weights=tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "resnet18"}, UnknownNameError, "timm's HRNets has no network named"),
        ({"at": "stage2"}, PlaceError, "wanted a list of stages among .* got 'stage2'"),
        ({"at": ["stage3", "stage2"]}, PlaceError, "in this order, got .'stage3', 'stage2'"),
        ({"at": ["stage4"]}, PlaceError, "stages among layer1, stage2, stage3"),
        ({"num_classes": 0}, ValueError, "num_classes as a whole number"),
        ({"head_width": 0}, ValueError, "width of a dense head .* got 0"),
    ],
)
def test_hrnet_says_what_it_wanted(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        create_model("hrnet", **options)
