"""Precision and layout, as a device has them."""

from __future__ import annotations

import pytest
import torch

from offramp.train import place as module
from offramp.train.options import Options
from offramp.train.place import Place, has_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(("there", "wanted"), [(True, "bf16"), (False, "float32")])
def test_auto_is_bf16_where_the_device_has_it(monkeypatch, there, wanted):
    monkeypatch.setattr(module, "has_bf16", lambda device: there and device == CPU)
    assert Place(CPU).of(Options(precision="auto")).precision == wanted


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_precision_that_is_asked_for_is_kept(monkeypatch, precision):
    monkeypatch.setattr(module, "has_bf16", lambda device: precision == "float32")
    assert Place(CPU).of(Options(precision=precision)).precision == precision


def test_only_devices_that_are_known_have_bf16():
    assert isinstance(has_bf16(CPU), bool)
    assert not has_bf16(torch.device("meta"))
