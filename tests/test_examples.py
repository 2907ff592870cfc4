"""Examples are described without their values, and made again with the same shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from offramp.errors import ValidationError
from offramp.examples import describe, make_example
from offramp.trees import map_tensors

STATES: dict[str, Any] = {
    "tensor": torch.randn(3, 4, 5),
    "tuple": (torch.randn(2, 3), torch.randint(9, (2, 7)), None),
    "dict": {"ids": torch.randint(9, (2, 7)), "mask": torch.ones(2, 7).bool(), "flag": True},
    "nested": {"a": (torch.randn(2, 1).double(), {"b": torch.zeros(2, 2).byte()}), "n": 1.5},
}


@pytest.mark.parametrize("name", STATES)
def test_example_has_the_shapes_and_dtypes_described(name: str) -> None:
    state = STATES[name]
    described = json.loads(json.dumps(describe(state)))
    made = make_example(described, rows=6)
    wanted = map_tensors(lambda t: (6, *t.shape[1:], t.dtype), state)
    assert map_tensors(lambda t: (*t.shape, t.dtype), made) == wanted
    assert describe(made) == described


def test_example_is_the_same_each_time_and_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    one, two = (make_example(describe(torch.randn(2, 3) * 0 + 9)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.std() > 0
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_example_masks_nothing_and_has_no_padding() -> None:
    names = ("input_ids", "attention_mask")
    described = describe({name: torch.ones(1, 4).long() for name in names})
    for padding, token in ((None, 0), (0, 1), (1, 0), (7, 0)):
        made = make_example(described, padding=padding)
        assert made["attention_mask"].tolist() == [[1] * 4] * 2
        assert made["input_ids"].tolist() == [[token] * 4] * 2


def test_example_takes_precision_and_device_of_the_network() -> None:
    like: Tensor = torch.zeros(1, dtype=torch.bfloat16, device="meta")
    made = make_example(describe((torch.randn(2, 3), torch.ones(2, 3).long())), like=like)
    assert [(t.dtype, t.device.type) for t in made] == [
        (torch.bfloat16, "meta"),
        (torch.int64, "meta"),
    ]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"type": "Image"}, "an example of tensors"),
        ({}, "an example of tensors"),
        (None, "an example of tensors"),
        ({"value": [1]}, "an example of tensors"),
        ({"shape": [3], "dtype": "load"}, "name of a torch dtype, got 'load'"),
        ({"shape": [3], "dtype": 7}, "name of a torch dtype"),
        ({"shape": [-3], "dtype": "float32"}, "whole numbers from 1"),
        ({"shape": [3.0], "dtype": "float32"}, "whole numbers from 1"),
        ({"shape": [True], "dtype": "float32"}, "whole numbers from 1"),
        ({"shape": [10**5, 10**5], "dtype": "float32"}, "at most 16777216 numbers"),
        ({"shape": [1] * 9, "dtype": "float32"}, "at most 8 dimensions"),
        (json.loads('{"tuple": [' * 6 + "]}" * 6), "at most 4 levels"),
    ],
)
def test_odd_description_is_refused(described: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_example(described)
