"""Groups of segments that share their exits' gradients."""

from __future__ import annotations

import pytest

from offramp.errors import ValidationError
from offramp.objectives.grouped import Grouped


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        (1, [0, 0, 0, 0, 0]),
        (2, [0, 0, 2, 2, 2]),
        (5, [0, 1, 2, 3, 4]),
        ([1, 3, 1], [0, 1, 1, 1, 4]),
        ((2, 3), [0, 0, 2, 2, 2]),
        (lambda num, progress: 1 if progress < 0.5 else [1, num - 1], [0, 1, 1, 1, 1]),
    ],
)
def test_exits_of_a_group_stop_at_its_first_segment(groups, wanted):
    assert Grouped(groups).since(5, 0.5) == wanted


@pytest.mark.parametrize("groups", [6, [2, 2], [5, 1], lambda num, progress: num + 1])
def test_groups_that_do_not_hold_all_segments_are_told(groups):
    with pytest.raises(ValidationError, match="groups of 5 segments in all, at least 1 in each"):
        Grouped(groups).since(5, 0.0)


@pytest.mark.parametrize("groups", [0, True, 2.0, "two", [], [2, 0, 3], [2.5, 2.5], None])
def test_groups_that_are_no_numbers_are_told(groups):
    with pytest.raises(ValidationError, match="number of groups, as their sizes"):
        Grouped(groups)
    with pytest.raises(ValidationError, match="number of groups, as their sizes"):
        Grouped(lambda num, progress: groups).since(5, 0.0)
