"""Schedules have the values of their formulas."""

from __future__ import annotations

import pytest
import torch

from offramp.errors import ValidationError
from offramp.train.schedules import constant, cosine, factor, find, one_cycle, poly


def test_cosine_has_the_values_of_half_a_cosine():
    wanted = [1.0, 0.853553, 0.5, 0.146447, 0.0]
    assert [cosine(p) for p in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(wanted, abs=1e-6)


def test_constant_is_one():
    assert [constant(p) for p in (0, 0.3, 1)] == [1.0, 1.0, 1.0]


def test_warmup_rises_in_a_line_before_the_schedule_runs_in_full():
    factors = [factor(cosine, step, 8, warmup=0.5) for step in range(8)]
    wanted = [0.25, 0.5, 0.75, 1.0, 1.0, 0.853553, 0.5, 0.146447]
    assert factors == pytest.approx(wanted, abs=1e-6)


def test_without_warmup_the_schedule_starts_at_once():
    assert [factor(cosine, step, 2) for step in range(2)] == pytest.approx([1.0, 0.5])


def test_find_knows_names_and_functions():
    assert find("cosine") is cosine
    assert find(constant) is constant
    with pytest.raises(
        ValidationError, match=r"\['constant', 'cosine', 'one_cycle', 'poly', 'step'\].*'linear'"
    ):
        find("linear")


def test_poly_has_the_rates_of_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=0.9)
    assert find("poly") is poly
    for step in range(51):
        assert 2 * poly(step / 50) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6), step
        optimizer.step()
        theirs.step()


def test_step_multiplies_by_gamma_at_each_milestone():
    schedule = find("step", milestones=(0.5, 0.75), gamma=0.1)
    wanted = [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [schedule(p) for p in (0, 0.49, 0.5, 0.74, 0.75, 1)] == pytest.approx(wanted)


def test_one_cycle_has_the_rates_of_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2.0, total_steps=1001, cycle_momentum=False
    )
    # torch rises for 0.3 * total - 1 steps and falls to its last one: a share of another length
    rise = 0.3 * 1001 - 1
    for step in range(1001):
        share = 0.3 * step / rise if step < rise else 0.3 + 0.7 * (step - rise) / (1000 - rise)
        assert 2 * one_cycle(share) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6), step
        optimizer.step()
        if step < 1000:
            theirs.step()
