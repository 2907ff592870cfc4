"""The options of a phase are those of `fit`, and each says what it takes."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pydantic
import pytest
import torch
from torch import nn

from offramp.errors import OptionError, UnknownNameError, ValidationError
from offramp.objectives.joint import Joint
from offramp.train import Options, fit
from offramp.train.options import check_options, find_objective, find_optimizer
from offramp.train.phases import KEYS


def test_options_agree_with_the_keywords_of_fit_in_names_and_defaults():
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(fit).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    ours = {field.name: field.default for field in fields(Options)}
    of_the_whole = {
        *("phases", "validation", "monitor", "patience", "costs", "out", "resume"),
        *("save_every", "workers", "seed", "device", "progress"),
    }
    assert ours == {n: d for n, d in keywords.items() if n not in {*of_the_whole, "augment"}}
    assert set(KEYS) == {*keywords, "objective"} - of_the_whole


def test_options_are_checked_by_pydantic_as_a_config_file_needs():
    adapter = pydantic.TypeAdapter(Options)
    assert adapter.validate_python({}) == Options()
    plain = {
        "epochs": 3,
        "train": ["heads", "gate.0", "fc", 1],
        "milestones": [0.3],
        "clip": 1,
        "lr": 1,
    }
    assert adapter.validate_python(plain) == Options(**plain)
    for wrong in ({"optimizer": "lion"}, {"train": 1.5}, {"epochs": "many"}, {"schedule": "up"}):
        with pytest.raises(pydantic.ValidationError, match=next(iter(wrong))):
            adapter.validate_python(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": None}, "epochs as a whole number of at least 1, got None"),
        ({"epochs": True}, "got True"),
        ({"accumulate": 0}, "accumulate as a whole number"),
        ({"lr": "0.1"}, "lr above 0, got '0.1'"),
        ({"lr": float("nan")}, "lr above 0, got nan"),
        ({"gamma": 0}, "gamma above 0"),
        ({"clip": 0.0}, "clip above 0"),
        ({"ema": 1.0}, r"ema in \(0, 1\), got 1.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing in \[0, 1\)"),
        ({"mixup": -1.0}, r"mixup in \[0, inf\)"),
        ({"cutmix": float("inf")}, "cutmix in"),
        ({"milestones": (0.5, 0.2)}, "milestones as rising shares"),
        ({"milestones": "half"}, "milestones as rising shares.*'half'"),
        ({"milestones": [1]}, "milestones as rising shares"),
        ({"channels_last": "yes"}, r"channels_last as one of \[True, False\]"),
        ({"schedule": "one_cycle", "warmup": 0.1}, "has its own rise; got 0.1"),
    ],
)
def test_check_options_says_what_is_wrong(change, message):
    with pytest.raises(ValidationError, match=message):
        check_options(Options(**({"epochs": 1} | change)))


def test_find_objective_hands_the_smoothing_to_an_objective_by_name():
    made = find_objective("joint", 0.1)
    assert isinstance(made, Joint) and made.label_smoothing == 0.1
    own = Joint()
    assert find_objective(own) is own
    with pytest.raises(ValidationError, match=r"got 0\.1: give it to Joint itself"):
        find_objective(own, 0.1)
    with pytest.raises(UnknownNameError, match="did you mean 'joint'"):
        find_objective("jiont")


def test_find_objective_says_that_an_objective_smooths_no_labels(monkeypatch):
    from offramp.registry import objectives

    class Sharp(Joint):
        def __init__(self) -> None:
            super().__init__()

    monkeypatch.setitem(objectives._entries, "sharp", Sharp)
    with pytest.raises(OptionError, match="label_smoothing"):
        find_objective("sharp", 0.1)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.2, momentum=0.5, weight_decay=0.1, nesterov=True)),
        ("adam", lambda p: torch.optim.Adam(p, 0.2, weight_decay=0.1)),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.2, weight_decay=0.1)),
    ],
)
def test_find_optimizer_steps_as_torchs(name, theirs):
    ours, other = (nn.Parameter(torch.arange(4.0)) for _ in range(2))
    options = Options(optimizer=name, lr=0.2, momentum=0.5, nesterov=True, weight_decay=0.1)
    pairs = [(ours, find_optimizer(options)([ours])), (other, theirs([other]))]
    for parameter, optimizer in pairs:
        for _ in range(3):
            parameter.grad = parameter.detach() ** 2 - 1
            optimizer.step()
    assert torch.equal(ours, other)
    assert not torch.equal(ours, torch.arange(4.0))
