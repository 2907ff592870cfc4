"""The public ResNet-56 on real data: exits are added, heads learn, and the network stays itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import offramp
from offramp.heads import ConvHead


def images(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    rows = pytest.importorskip("datasets").load_dataset(str(folder / "cifar10"), split=part)
    rows = rows.with_format("torch")
    pixels = torch.stack([row["img"] for row in rows]).float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (pixels - mean) / std, torch.as_tensor(rows["label"][:])


@pytest.mark.slow
def test_public_resnet56_keeps_its_accuracy_while_heads_learn(offramp_data: Path) -> None:
    test, train = images(offramp_data, "test"), images(offramp_data, "train")
    model = offramp.create_model(
        "resnet56_cifar",
        head=lambda shape: ConvHead(shape[1], 10, width=32),
        checkpoint=next((offramp_data / "weights").glob("resnet56-*.th")),
    )
    costs = offramp.Costs.from_relative([0.4, 0.7, 1.0])
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    untrained = offramp.evaluate_exits(offramp.record(model, test, progress=False), costs)
    offramp.fit(model, train, epochs=1, train="heads", lr=0.05, progress=False)
    trained = offramp.evaluate_exits(offramp.record(model, test, progress=False), costs)
    assert abs(untrained[-1].top1 - 0.9339) <= 0.001
    assert trained[-1].top1 == untrained[-1].top1
    assert all(torch.equal(v, before[n]) for n, v in model.network.state_dict().items())
    assert trained[0].top1 > untrained[0].top1 + 0.2
    assert trained[1].top1 > untrained[1].top1 + 0.3
