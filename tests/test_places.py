"""Listing where exits can go."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from offramp import attach, places
from offramp.errors import PlaceError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return x + self.norm(self.conv(x))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), Block(), Block(), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


EXAMPLE = torch.randn(1, 3, 6, 6)


def test_costs_are_cumulative_and_equal_a_count_by_hand() -> None:
    found = {place.name: place for place in places(network(), EXAMPLE)}
    stem, conv, classifier = 3 * 4 * 36, 4 * 4 * 9 * 36, 4 * 36 * 5
    total = stem + 2 * conv + classifier
    assert found["0"].macs == stem
    assert found["1"].macs == stem + conv
    assert found["2.conv"].macs == stem + 2 * conv
    assert found["2"].cost == pytest.approx((stem + 2 * conv) / total)


def test_every_listed_place_takes_an_exit_and_nothing_after_the_classifier_is_listed() -> None:
    listed = places(network(), EXAMPLE)
    assert "4" not in {place.name for place in listed}
    for place in listed:
        model = attach(network(), [place.name], example=EXAMPLE).eval()
        state, out = model.step(0, EXAMPLE)
        assert out.logits.shape == (1, 5)
        assert tuple(state[place.name].shape[1:]) == place.shape
        assert len(state) == 1 + place.carried


def test_listing_changes_nothing_in_the_network() -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    places(net, EXAMPLE)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_network_that_cannot_be_followed_says_so() -> None:
    class Wild(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(PlaceError, match=r"torch.fx cannot follow Wild.forward"):
        places(Wild(), EXAMPLE)
