"""Routed gradients are those of windows that are run again one by one, for every scheme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from offramp import attach, create_model, create_objective
from offramp.model import MultiExitModel
from offramp.objectives.base import Objective
from offramp.train import backward_step
from offramp.train.routes import route_table
from offramp.types import Batch, Costs, Term

from .windows import Windows, assert_equal, taken

CLASSES = 3


# --------------------------------------------------------------------- networks of K exits
class Bridges(nn.Module):
    """A network with skips across several blocks, and activations that work in place."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
            for _ in range(blocks)
        )
        self.act = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first = before = x = self.stem(x)
        for number, block in enumerate(self.blocks):
            x = self.act(block(x))
            if number % 3 == 2:
                x, before = x + before, x
        return self.classifier((x + first).mean((2, 3)))


def bridges(num_exits: int) -> tuple[MultiExitModel, Any]:
    images = torch.randn(4, 3, 6, 6)
    places = [f"blocks.{number}" for number in range(num_exits - 1)]
    return attach(Bridges(num_exits), places, example=images), images


def msdnet(num_exits: int) -> tuple[MultiExitModel, Any]:
    """Its state is a list of scales; with this stem the heads are small."""
    sizes = {"base": 1, "step": 1, "channels": 4, "growth": 2, "stem": "imagenet"}
    model = create_model("msdnet", num_classes=CLASSES, num_exits=num_exits, **sizes)
    return model, torch.randn(4, 3, 16, 16)


def resnet(num_exits: int) -> tuple[MultiExitModel, Any]:
    """After every block; the last one is followed by the network's own classifier."""
    blocks = -(-num_exits // 3)
    places = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(blocks)]
    depth, at = 6 * blocks + 2, places[: num_exits - 1]
    return create_model("resnet_cifar", depth=depth, num_classes=CLASSES, at=at), torch.randn(
        4, 3, 8, 8
    )


def bert(num_exits: int) -> tuple[MultiExitModel, Any]:
    """A Hugging Face encoder; its state is a dict with a mask of whole numbers."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=num_exits,
        num_attention_heads=2,
        intermediate_size=12,
        num_labels=CLASSES,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    network = transformers.BertForSequenceClassification(config)
    for parameter in network.bert.parameters():
        parameter.data.mul_(4)  # or later layers hardly matter
    mask = (torch.arange(6)[None] < torch.tensor([6, 3, 5, 2])[:, None]).long()
    inputs = {"input_ids": torch.randint(1, 20, (4, 6)) * mask, "attention_mask": mask}
    places = [f"bert.encoder.layer.{number}" for number in range(num_exits - 1)]
    return attach(network, places, example=inputs), inputs


NETWORKS: dict[str, Callable[[int], tuple[MultiExitModel, Any]]] = {
    "msdnet": msdnet,
    "resnet": resnet,
    "bridges": bridges,
    "bert": bert,
}


@lru_cache(maxsize=1)  # tests of one network and number of exits follow one another
def reference(network: str, num_exits: int) -> Windows:
    """In float64, batch norm in training mode, without dropout."""
    with torch.random.fork_rng([]):
        torch.manual_seed(num_exits)
        model, inputs = NETWORKS[network](num_exits)
    if isinstance(inputs, Tensor):
        inputs = inputs.double()
    return Windows(model.double().train(), Batch(inputs, torch.arange(4) % 3, torch.arange(4), 0.0))


# --------------------------------------------------------------------- schemes
class Scheme(NamedTuple):
    """An objective, and where each exit is to stop by the definition of W(l)."""

    options: dict[str, Any]
    since: list[int]

    def __str__(self) -> str:
        name, *rest = self.options.values()
        return "-".join([name, *map(str, rest)]).replace(" ", "")


def overlapping(num_exits: int, overlap: int, final: bool) -> list[int]:
    """W(l) = {max(1, l-m+1), ..., l}, counted from 1; with ``final``, W(K) = {1, ..., K}."""
    windows = [range(max(1, l - overlap + 1), l + 1) for l in range(1, num_exits + 1)]  # noqa: E741
    if final:
        windows[-1] = range(1, num_exits + 1)
    return [window[0] - 1 for window in windows]


UNEVEN = {3: [2, 1], 5: [1, 3, 1], 7: [1, 4, 2], 10: [2, 1, 5, 2]}
GROUPED = {  # first segment of each exit's group
    3: ([0, 1, 1], [0, 0, 2]),
    5: ([0, 0, 2, 2, 2], [0, 1, 1, 1, 4]),
    7: ([0, 0, 0, 3, 3, 3, 3], [0, 1, 1, 1, 1, 5, 5]),
    10: ([0] * 5 + [5] * 5, [0, 0, 2, 3, 3, 3, 3, 3, 8, 8]),
}


def schemes(num_exits: int) -> list[Scheme]:
    even, uneven = GROUPED[num_exits]
    found = [
        Scheme({"name": "joint"}, [0] * num_exits),
        Scheme({"name": "layer_wise"}, [*range(num_exits)]),
        Scheme({"name": "grouped", "groups": 2}, even),
        Scheme({"name": "grouped", "groups": UNEVEN[num_exits]}, uneven),
    ]
    for overlap in range(1, num_exits + 1):
        for final in (False, True):
            options = {"name": "block_dependent", "overlap": overlap, "final": final}
            found.append(Scheme(options, overlapping(num_exits, overlap, final)))
    return found


class Routed(Objective):
    """Cross-entropy of every exit; where each stops is given."""

    def __init__(self, since: Sequence[int]) -> None:
        super().__init__()
        self.since = since

    def forward(self, outputs, batch, costs):
        losses = [nn.functional.cross_entropy(out.logits, batch.target) for out in outputs]
        return [
            Term(f"ce/{k}", loss, since)
            for k, (loss, since) in enumerate(zip(losses, self.since, strict=True))
        ]


def routed(windows: Windows, objective: Objective) -> dict[str, Tensor]:
    """The gradients of a step."""
    costs = Costs.from_relative([(k + 1.0) for k in range(windows.model.num_exits)])
    backward_step(windows.model, objective, windows.batch, costs)
    return taken(windows.model)


CASES = [(name, num, scheme) for name in NETWORKS for num in GROUPED for scheme in schemes(num)]


@pytest.mark.parametrize(("network", "num_exits", "scheme"), CASES, ids=str)
def test_gradients_of_a_scheme_are_those_of_windows_run_again(network, num_exits, scheme):
    windows = reference(network, num_exits)
    plain = create_objective(**scheme.options)
    assert_equal(routed(windows, plain), windows.total(scheme.since), 1e-9)
    pulled = create_objective("distill", objective=scheme.options)
    assert_equal(routed(windows, pulled), windows.total(scheme.since, distilled=True), 1e-9)


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_of_any_since_are_those_of_windows_run_again(network):
    windows, chance = reference(network, 5), torch.Generator().manual_seed(0)
    for _ in range(8):
        since = [int(torch.randint(k + 1, (), generator=chance)) for k in range(5)]
        assert_equal(routed(windows, Routed(since)), windows.total(since), 1e-9)


def test_reference_tells_schemes_apart():
    """The comparison can fail: windows of another scheme are not equal."""
    windows = reference("msdnet", 5)
    came = routed(windows, create_objective("block_dependent", overlap=2))
    for since in ([0, 0, 1, 2, 3], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]):
        with pytest.raises(AssertionError, match="apart of"):
            assert_equal(came, windows.total(since), 1e-3)


# --------------------------------------------------------------------- tables of the paper's code
# W(1)..W(K), as autograd shows them on the public models
TABLES = {
    "joint": ({"name": "joint"}, "1 12 123 1234 12345 123456 1234567"),
    "local_error": ({"name": "layer_wise"}, "1 2 3 4 5 6 7"),
    "no_overlap": ({"name": "grouped", "groups": 2}, "1 12 123 4 45 456 4567"),
    "overlap 3": (
        {"name": "block_dependent", "overlap": 3, "final": False},
        "1 12 123 234 345 456 567",
    ),
    "overlap 3, final": (
        {"name": "block_dependent", "overlap": 3, "final": True},
        "1 12 123 234 345 456 1234567",
    ),
    "overlap 2": ({"name": "block_dependent", "overlap": 2, "final": False}, "1 12 23 34 45"),
    "overlap 2, final": ({"name": "block_dependent", "overlap": 2}, "1 12 23 34 12345"),
}


class OfExit(Objective):
    """Another objective's terms of one exit alone."""

    def __init__(self, objective: Objective, k: int) -> None:
        super().__init__()
        self.objective, self.k = objective, k

    def forward(self, outputs, batch, costs):
        terms = self.objective(outputs, batch, costs)
        return [term for term in terms if term.name.endswith(f"/{self.k}")]


def drawn(table: str) -> Tensor:
    """Row k: exit; column j: segment; true where the exit trains it."""
    rows = table.split()
    return torch.tensor([[str(j + 1) in row for j in range(len(rows))] for row in rows])


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("distilled", [False, True], ids=["plain", "distilled"])
def test_route_table_is_that_of_the_public_models(name, distilled):
    options, table = TABLES[name]
    objective = create_objective(**options)
    if distilled:
        objective = create_objective("distill", objective=objective)
    wanted = drawn(table)
    assert torch.equal(route_table(objective, len(wanted)), wanted)


@pytest.mark.parametrize("network", ["msdnet", "bert"])
@pytest.mark.parametrize("name", TABLES)
def test_gradients_of_one_exit_reach_the_segments_of_the_table(network, name):
    options, table = TABLES[name]
    wanted = drawn(table)
    windows = reference(network, len(wanted))
    for k in range(len(wanted)):
        came = routed(windows, OfExit(create_objective(**options), k))
        named = {id(p): name for name, p in windows.model.named_parameters()}
        for j, segment in enumerate(windows.model.segments):
            moved = {named[id(p)] for p in segment.parameters()} & came.keys()
            assert bool(moved) == bool(wanted[k, j]), f"exit {k}, segment {j}"
        for j, head in enumerate(windows.model.heads):
            moved = {named[id(p)] for p in head.parameters()} & came.keys()
            assert not moved if j != k else moved or not [*head.parameters()]
