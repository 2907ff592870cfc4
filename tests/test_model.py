"""The model class: a loop over `step`, nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ValidationError
from offramp.heads import LinearHead
from offramp.model import MultiExitModel, Recipe, create_model
from offramp.types import ExitOutput


class Pair(nn.Module):
    """A state of two tensors and a word."""

    def forward(self, state: Tensor) -> dict:
        return {"x": state + 1, "rows": [state.sum(1)], "word": "kept"}


def segments() -> list[nn.Module]:
    return [nn.Linear(4, 6), nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 6)), nn.Linear(6, 5)]


def heads() -> list[nn.Module]:
    return [LinearHead(6, 3), LinearHead(6, 3, gate=True), LinearHead(5, 3)]


def test_forward_is_all_steps_in_turn() -> None:
    parts, answers, x = segments(), heads(), torch.randn(2, 4)
    model = MultiExitModel(parts, answers).eval()
    outputs, state = model(x), x
    assert model.num_exits == len(outputs) == 3
    for k in range(3):
        wanted = parts[k](state)
        state, out = model.step(k, state)
        assert isinstance(out, ExitOutput)
        assert torch.equal(state, wanted)
        assert torch.equal(out.logits, answers[k](wanted).logits)
        assert torch.equal(out.logits, outputs[k].logits)
    assert [out.gate is None for out in outputs] == [True, False, True]


def test_compact_keeps_rows_of_every_tensor_by_default_and_goes_by_the_function_given() -> None:
    x, rows = torch.randn(4, 3), torch.tensor([3, 1])
    model = MultiExitModel([Pair()], [nn.Identity()])
    state = model.compact(Pair()(x), rows)
    assert torch.equal(state["x"], torch.stack([x[3] + 1, x[1] + 1]))
    assert torch.equal(state["rows"][0], torch.stack([x[3].sum(), x[1].sum()]))
    assert state["word"] == "kept"
    other = MultiExitModel([Pair()], [nn.Identity()], compact=lambda state, rows: (state, rows))
    assert other.compact("state", rows) == ("state", rows)


def test_parameters_of_the_network_are_saved_once_and_under_its_own_names() -> None:
    network, parts = nn.Sequential(*segments()), segments()
    views = MultiExitModel(list(network), heads(), network=network)
    own = MultiExitModel(parts, heads())
    assert {name.split(".")[0] for name in views.state_dict()} == {"network", "heads"}
    assert {name.split(".")[0] for name in own.state_dict()} == {"segments", "heads"}
    for model in (views, own):
        ids = [id(p) for p in model.parameters()]
        assert len(ids) == len(set(ids)) == 14
    twin = copy.deepcopy(views)
    assert {id(p) for p in twin.segments.parameters()} == {
        id(p)
        for p in twin.network.parameters()  # type: ignore[union-attr]
    }


@pytest.mark.parametrize("training", [False, True])
def test_model_starts_in_the_mode_of_its_network_and_sets_all_modes(training: bool) -> None:
    network = nn.Sequential(*segments()).train(training)
    view = nn.Sequential(nn.Dropout(0.5))
    model = MultiExitModel([*network[:2], view], heads(), network=network)
    assert model.training is training
    model.train(not training)
    assert network[1][0].training is view[0].training is (not training)
    assert all(head.training is (not training) for head in model.heads)
    model.eval()
    assert not view[0].training


@pytest.mark.parametrize(("some", "answers"), [([], []), (segments(), heads()[:2])])
def test_segments_and_heads_that_differ_in_number_are_refused(some: list, answers: list) -> None:
    with pytest.raises(
        ValidationError, match=rf"got {len(some)} segments and {len(answers)} heads"
    ):
        MultiExitModel(some, answers)


def test_model_that_was_created_knows_its_recipe() -> None:
    options = {"depth": 8, "at": ["layer1"]}
    model = create_model("resnet_cifar", **options)
    assert model.recipe == Recipe("resnet_cifar", {"depth": 8, "at": ["layer1"]})
    options["depth"] = 14  # what the caller does with the options later is no matter
    assert model.recipe.options["depth"] == 8
    assert copy.deepcopy(model).recipe == model.recipe
    assert MultiExitModel(segments(), heads()).recipe is None
