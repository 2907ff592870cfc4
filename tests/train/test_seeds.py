"""Seeds depend on what they are made of, and random states are put back."""

from __future__ import annotations

import random

import numpy
import pytest
import torch

from offramp.train.seeds import mix, random_states_kept, reseed

CPU = torch.device("cpu")


def test_mix_gives_another_seed_for_every_other_part():
    seeds = {mix(a, word, b) for a in range(20) for word in ("x", "y") for b in range(20)}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)
    bits = torch.tensor([[seed >> bit & 1 for bit in range(63)] for seed in seeds]).float().mean(0)
    assert float((bits - 0.5).abs().max()) < 0.1  # no bit is a counter's
    assert mix(1, "x", 2) == mix(1, "x", 2)
    assert mix(12, 3) != mix(1, 23)


@pytest.mark.parametrize("fails", [False, True])
def test_random_states_are_put_back(fails):
    def state():
        arrays = numpy.random.get_state(legacy=False)["state"]
        return torch.get_rng_state().tolist(), random.getstate(), arrays["key"].tolist()

    before = state()
    try:
        with random_states_kept(CPU):
            reseed(5, CPU)
            random.seed(5)
            numpy.random.seed(5)
            assert state() != before
            if fails:
                raise RuntimeError("on purpose")
    except RuntimeError:
        assert fails
    assert state() == before


def test_reseed_repeats_what_is_drawn():
    drawn = []
    with random_states_kept(CPU):
        for seed in (5, 6, 5):
            reseed(seed, CPU)
            drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[2] != drawn[1]
