"""Schedules have the values of their formulas."""

from __future__ import annotations

import pytest

from offramp.errors import ValidationError
from offramp.train.schedules import constant, cosine, factor, find


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
    with pytest.raises(ValidationError, match=r"\['constant', 'cosine'\].*got 'linear'"):
        find("linear")
