"""Three bad inputs per door, from one table: each one clear error that says what was wanted."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import offramp
from offramp import gates
from offramp.data import split
from offramp.errors import OfframpError
from offramp.heads import LinearHead
from offramp.types import Budget, Costs, Records

COSTS = Costs.from_relative([0.3, 0.6, 1.0])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def model() -> offramp.MultiExitModel:
    return offramp.attach(network(), ["1", "3"], example=torch.zeros(2, 4))


def records(rows: int = 30) -> Records:
    torch.manual_seed(rows)
    return Records.from_arrays(torch.randn(3, rows, 3), torch.arange(rows) % 3)


def policy() -> offramp.ExitPolicy:
    return offramp.create_policy("max_prob", num_exits=3)


def data(rows: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 4), torch.arange(rows) % 3


X = torch.zeros(2, 4)
Call = Callable[[Path], Any]

# door, what is wrong, the call, what the message must say
TABLE: list[tuple[str, str, Call, str]] = [
    ("attach", "no module", lambda _: offramp.attach("resnet18", ["1"], example=X), "got str"),
    (
        "attach",
        "unknown place",
        lambda _: offramp.attach(network(), ["7"], example=X),
        "no module '7'.*valid places: 0, 1, 2, 3",
    ),
    (
        "attach",
        "other classes",
        lambda _: offramp.attach(network(), ["1"], example=X, num_classes=10),
        "wanted num_classes=3.*got 10",
    ),
    (
        "placement",
        "no number",
        lambda _: offramp.placement.pareto("6"),  # type: ignore[arg-type]
        "early exits of pareto as a whole number from 1 to 100, got '6'",
    ),
    (
        "placement",
        "falling shares",
        lambda _: offramp.placement.at_costs(0.5, 0.2),
        "each above the one before, got 0.5, 0.2",
    ),
    (
        "placement",
        "too many",
        lambda _: offramp.attach(network(), offramp.placement.linear(3), example=X),
        r"places for 3 early exits, at 0.25, 0.5, 0.75 .*; 1 fit",
    ),
    ("places", "no rows", lambda _: offramp.places(network(), X[:0]), "at least one row.*empty"),
    (
        "places",
        "wrong width",
        lambda _: offramp.places(network(), torch.zeros(2, 5)),
        r"Sequential does not run on inputs \[\(2, 5\)\]: .*shapes",
    ),
    ("places", "text", lambda _: offramp.places(network(), "image"), "wanted tensors with.*batch"),
    ("create_model", "name", lambda _: offramp.create_model("msdnett"), "mean 'msdnet'.*valid:"),
    ("create_model", "option", lambda _: offramp.create_model("msdnet", exits=3), "'exits'.*takes"),
    (
        "create_model",
        "checkpoint",
        lambda folder: offramp.create_model("resnet20_cifar", checkpoint=folder / "no.th"),
        "wanted a checkpoint file.*no.th",
    ),
    (
        "create_model",
        "checkpoint of another network",
        lambda folder: offramp.create_model("resnet20_cifar", checkpoint=other_weights(folder)),
        "does not fit this model: .* names are missing, as layer1.1.conv1.weight",
    ),
    (
        "MultiExitModel",
        "counts",
        lambda _: offramp.MultiExitModel([nn.Identity()], []),
        "1 segments and 0 heads",
    ),
    ("MultiExitModel", "nothing", lambda _: offramp.MultiExitModel([], []), "0 segments"),
    (
        "MultiExitModel",
        "too many heads",
        lambda _: offramp.MultiExitModel([nn.Identity()], [LinearHead(4, 2)] * 2),
        "1 segments and 2 heads",
    ),
    ("create_policy", "name", lambda _: offramp.create_policy("entropie", 3), "mean 'entropy'"),
    ("create_policy", "exits", lambda _: offramp.create_policy("margin", 0), "one exit, got 0"),
    (
        "create_policy",
        "reduce",
        lambda _: offramp.create_policy("margin", 3, reduce="max"),
        "'worst_patch', got 'max'",
    ),
    ("create_objective", "name", lambda _: offramp.create_objective("jont"), "mean 'joint'"),
    (
        "create_objective",
        "weights",
        lambda _: offramp.create_objective("joint", weights="rising"),
        "'uniform', 'linear'.*got 'rising'",
    ),
    (
        "create_objective",
        "option",
        lambda _: offramp.create_objective("joint", weigths=[1]),
        "weigths.*takes",
    ),
    (
        "fit",
        "optimizer",
        lambda _: offramp.fit(model(), data(), epochs=1, optimizer="sdg", progress=False),
        "sgd.*got 'sdg'",
    ),
    ("fit", "epochs", lambda _: offramp.fit(model(), data(), epochs=0), "epochs.*got 0"),
    ("fit", "data", lambda _: offramp.fit(model(), "mnist", epochs=1), "wanted a pair.*got str"),
    (
        "fit",
        "phase",
        lambda _: offramp.fit(model(), data(), phases=[{"epoch": 1}], progress=False),
        "phase 0 has no option 'epoch'",
    ),
    ("fit", "part", lambda _: offramp.fit(model(), data(), epochs=1, train=7), "segment.*got 7"),
    (
        "fit",
        "resume from nowhere",
        lambda _: offramp.fit(model(), data(), epochs=1, resume=True, progress=False),
        "wanted out.*got None",
    ),
    ("measure", "no model", lambda _: offramp.measure(network(), X), "MultiExitModel.*Sequential"),
    ("measure", "no rows", lambda _: offramp.measure(model(), X[:0]), "at least one row"),
    ("measure", "repeats", lambda _: offramp.measure(model(), X, repeats=0), "repeats >= 1.*0"),
    ("record", "batch", lambda _: offramp.record(model(), data(), batch_size=0), "batch_size.*0"),
    ("record", "data", lambda _: offramp.record(model(), 3), "wanted a pair.*got int"),
    (
        "record",
        "targets",
        lambda _: offramp.record(model(), (data()[0], torch.full((12,), 7)), progress=False),
        "below C=3, got 7",
    ),
    ("load_records", "no folder", lambda f: offramp.load_records(f / "none"), "folder.*none"),
    ("load_records", "empty folder", lambda f: offramp.load_records(f), "index.json"),
    ("load_records", "a file", lambda f: offramp.load_records(touch(f / "a")), "folder.*a"),
    (
        "save_records",
        "foreign folder",
        lambda f: offramp.save_records(records(), touch(f / "notes.txt").parent),
        "notes.txt|not empty",
    ),
    (
        "save_records",
        "a file",
        lambda f: offramp.save_records(records(), touch(f / "a")),
        "folder.*a",
    ),
    (
        "save_records",
        "rows",
        lambda f: offramp.save_records(records(), f / "r", shard_rows=0),
        "shard_rows.*0",
    ),
    (
        "Records",
        "rows differ",
        lambda _: Records.from_arrays(torch.zeros(2, 5, 3), torch.zeros(4).long()),
        r"logits \[N=4.*got \(5, 3\)",
    ),
    (
        "Records",
        "float targets",
        lambda _: Records.from_arrays(torch.zeros(2, 5, 3), torch.zeros(5)),
        "class numbers, got torch.float32",
    ),
    (
        "Records",
        "class too large",
        lambda _: Records.from_arrays(torch.zeros(2, 5, 3), torch.full((5,), 3)),
        "below C=3, got 3",
    ),
    (
        "policy.fit",
        "budget too small",
        lambda _: policy().fit(records(), COSTS, 0.1),
        r"0\.1 is out of reach.*reachable range is \[0\.3, 1\]",
    ),
    (
        "policy.fit",
        "neither",
        lambda _: policy().fit(records(), COSTS),
        "either budget or max_drop",
    ),
    (
        "policy.fit",
        "other exits",
        lambda _: policy().fit(records(), Costs.from_relative([0.5, 1]), 0.6),
        "costs of 3 exits, got 2",
    ),
    (
        "policy.use",
        "no points",
        lambda _: policy().use("fast"),
        "'fast'; valid: none",
    ),
    ("policy.use", "no name", lambda _: policy().use(""), "''; valid: none"),
    ("policy.fit_points", "none", lambda _: policy().fit_points(records(), COSTS, []), "got none"),
    (
        "policy.fit_points",
        "one out of reach",
        lambda _: policy().fit_points(records(), COSTS, [0.5, 0.2]),
        "0.2 is out of reach",
    ),
    (
        "policy.fit_points",
        "not a number",
        lambda _: policy().fit_points(records(), COSTS, {"a": None}),  # type: ignore[dict-item]
        "either budget or max_drop|finite number",
    ),
    (
        "policy.use",
        "unknown point",
        lambda _: policy().fit_points(records(), COSTS, {"a": 0.5}).use("b"),
        "'b'; valid: a",
    ),
    ("Budget", "text", lambda _: Budget.of("half"), "got 'half'"),  # type: ignore[arg-type]
    ("Budget", "not finite", lambda _: Budget.of(math.nan), "got nan"),
    (
        "Budget",
        "unmeasured unit",
        lambda _: policy().fit(records(), COSTS, Budget(3, "latency_ms")),
        r"units \['macs'\], got 'latency_ms'",
    ),
    ("Costs", "decreasing", lambda _: Costs.from_relative([0.5, 0.4]), r"got \[0.5, 0.4\]"),
    ("Costs", "negative", lambda _: Costs.from_relative([-1.0, 1.0]), "positive"),
    ("Costs", "unknown unit", lambda _: COSTS.relative("flops"), "'macs'.*got 'flops'"),
    (
        "evaluate",
        "policy exits",
        lambda _: offramp.evaluate(offramp.create_policy("margin", 2), records(), COSTS),
        "policy of 3 exits.*got 2",
    ),
    (
        "evaluate",
        "costs exits",
        lambda _: offramp.evaluate(policy(), records(), Costs.from_relative([1.0])),
        "costs of 3 exits.*got 1",
    ),
    (
        "evaluate",
        "unit",
        lambda _: offramp.evaluate(policy(), records(), COSTS, unit="joules"),
        "got 'joules'",
    ),
    (
        "evaluate_exits",
        "costs exits",
        lambda _: offramp.evaluate_exits(records(), Costs.from_relative([1.0])),
        "costs of 3 exits.*got 1",
    ),
    (
        "evaluate_exits",
        "unit",
        lambda _: offramp.evaluate_exits(records(), COSTS, unit="ms"),
        "got 'ms'",
    ),
    (
        "evaluate_exits",
        "nothing counts",
        lambda _: offramp.evaluate_exits(uncounted(), COSTS),
        "at least one target that counts",
    ),
    ("Records.take", "out of range", lambda _: records().take([99]), r"rows in 0..29, got 99"),
    ("Records.take", "none", lambda _: records().take([]), "wanted.*row"),
    (
        "Records.take",
        "mask",
        lambda _: records().take(torch.ones(3, dtype=torch.bool)),
        r"mask \[30\].*got \(3,\)",
    ),
    (
        "backward_step",
        "since beyond the last segment",
        lambda _: step(Routed()),
        "wanted since as a segment from 0 to 2, got 9 for the term 'far'",
    ),
    ("backward_step", "no terms", lambda _: step(Routed(num=0)), "at least one term, got none"),
    ("backward_step", "two of a name", lambda _: step(Routed(num=2)), "terms of different names"),
    (
        "curve",
        "test is calibration",
        lambda _: offramp.curve("margin", *[records()] * 2, COSTS, [0.5]),
        "disjoint",
    ),
    (
        "curve",
        "no budgets",
        lambda _: offramp.curve("margin", records(), records(9), COSTS, []),
        "at least one budget",
    ),
    (
        "curve",
        "out of reach",
        lambda _: offramp.curve("margin", records(), records(9), COSTS, [0.5, 4.0]),
        r"4 is out of reach.*\[0\.3, 1\]",
    ),
    ("area_under_curve", "nothing", lambda _: offramp.area_under_curve([]), "two distinct"),
    (
        "area_under_curve",
        "one point",
        lambda _: offramp.area_under_curve([offramp.evaluate(policy(), records(), COSTS)]),
        "two distinct",
    ),
    (
        "area_under_curve",
        "the same point twice",
        lambda _: offramp.area_under_curve([offramp.evaluate(policy(), records(), COSTS)] * 2),
        "two distinct",
    ),
    ("run", "training mode", lambda _: offramp.run(model(), policy(), X), "eval mode"),
    ("run", "no rows", lambda _: offramp.run(model().eval(), policy(), X[:0]), "empty"),
    (
        "run",
        "policy exits",
        lambda _: offramp.run(model().eval(), offramp.create_policy("margin", 5), X),
        "policy of 3 exits, got 5",
    ),
    ("anytime", "training mode", lambda _: offramp.anytime(model(), X), "eval mode"),
    ("anytime", "no rows", lambda _: offramp.anytime(model().eval(), X[:0]), "empty"),
    ("anytime", "no tensor", lambda _: offramp.anytime(model().eval(), "image"), "wanted tensors"),
    ("create_dataset", "name", lambda _: offramp.create_dataset("digit"), "mean 'digits'"),
    ("create_dataset", "option", lambda _: offramp.create_dataset("digits", sed=1), "takes"),
    (
        "create_dataset",
        "no name",
        lambda _: offramp.create_dataset(None),  # type: ignore[arg-type]
        "None",
    ),
    (
        "create_dataset",
        "no such folder",
        lambda folder: offramp.create_dataset("imagefolder", path=folder / "photos"),
        "photos'?: no such folder",
    ),
    ("save", "no model", lambda f: offramp.save(f / "b", network()), "MultiExitModel.*Sequential"),
    (
        "save",
        "policy of other exits",
        lambda f: offramp.save(f / "b", model(), policy=offramp.create_policy("margin", 5)),
        "policy of 3 exits, got 5",
    ),
    (
        "save",
        "offline control",
        lambda f: offramp.save(f / "b", model(), policy=offramp.create_policy("random", 3)),
        "offline control",
    ),
    ("save", "foreign folder", lambda f: offramp.save(touch(f / "x").parent, model()), "has x"),
    ("load", "no folder", lambda f: offramp.load(f / "none"), "nothing there"),
    ("load", "empty folder", lambda f: offramp.load(f), "wanted bundle.json in"),
    ("load", "a file", lambda f: offramp.load(touch(f / "a")), "got a file"),
    ("load", "no path", lambda _: offramp.load(None), "got None"),  # type: ignore[arg-type]
    (
        "load",
        "no network",
        lambda f: offramp.load(offramp.save(f / "b", model())),
        r"load\(path, network=\.\.\.\) with a .*Sequential.*; got none",
    ),
    (
        "load",
        "another network",
        lambda f: offramp.load(offramp.save(f / "b", model()), network=network()[2:]),
        "does not fit this bundle",
    ),
    ("from_pretrained", "three parts", lambda _: offramp.from_pretrained("a/b/c"), "got 'a/b/c'"),
    ("from_pretrained", "empty folder", lambda f: offramp.from_pretrained(f), "bundle.json"),
    ("from_pretrained", "no words", lambda _: offramp.from_pretrained(""), "got ''"),
    ("push_to_hub", "no bundle", lambda f: offramp.push_to_hub(f, "me/mine"), "bundle.json"),
    ("push_to_hub", "no folder", lambda f: offramp.push_to_hub(f / "b", "me/mine"), "nothing the"),
    ("push_to_hub", "repository", lambda f: offramp.push_to_hub(f, "a/b/c"), "got 'a/b/c'"),
    (
        "cache_gates",
        "no gates",
        lambda _: gates.cache_gates(model(), data()),
        "0 at exit 0; gate=True",
    ),
    (
        "cache_gates",
        "no model",
        lambda _: gates.cache_gates(network(), data()),
        "Multi.*Sequential",
    ),  # type: ignore[arg-type]
    ("cache_gates", "data", lambda _: gates.cache_gates(gated(), 3), "wanted a pair.*got int"),  # type: ignore[arg-type]
    ("fit_gates", "alpha", lambda _: gates.fit_gates(gate_data(), COSTS, 1.5), "share.*got 1.5"),
    (
        "fit_gates",
        "unit",
        lambda _: gates.fit_gates(gate_data(), COSTS, 0.5, unit="ms"),
        "got 'ms'",
    ),
    (
        "fit_gates",
        "costs exits",
        lambda _: gates.fit_gates(gate_data(), Costs.from_relative([1.0]), 0.5),
        "costs of 3 exits.*got 1",
    ),
    (
        "sweep_gates",
        "no data",
        lambda _: gates.sweep_gates(gate_data(), records(), COSTS),  # type: ignore[arg-type]
        "wanted GateData.*got Records",
    ),
    (
        "sweep_gates",
        "no alphas",
        lambda _: gates.sweep_gates(gate_data(), gate_data(), COSTS, []),
        r"numbers in \[0, 1\].*got \[\]",
    ),
    (
        "sweep_gates",
        "one alpha too large",
        lambda _: gates.sweep_gates(gate_data(), gate_data(), COSTS, [0.5, 2]),
        "share.*got 2",
    ),
    ("tune_gates", "no target", lambda _: tuned(), "one of budget, speedup and max_drop"),
    ("tune_gates", "two targets", lambda _: tuned(budget=0.5, speedup=2), "one of budget, speedup"),
    ("tune_gates", "out of reach", lambda _: tuned(budget=0.1), r"out of reach.*\[0.3, 1\]"),
    ("tune_gates", "no times", lambda _: tuned(speedup=2), "measured times"),
    ("split", "fractions", lambda _: split(torch.arange(9) % 3, fractions=(1, 1, 1, 1)), "wanted"),
    ("split", "targets", lambda _: split(torch.zeros(3, 3).long()), "wanted"),
    ("split", "too few", lambda _: split(torch.arange(3)), "class 0 has 1"),
]


class Routed(offramp.Objective):
    """Terms that share a name, and of which the first is routed."""

    def __init__(self, num: int = 1) -> None:
        super().__init__()
        self.num = num

    def forward(self, outputs: Any, batch: offramp.Batch, costs: Costs) -> list[offramp.Term]:
        value = outputs[0].logits.sum()
        return [offramp.Term("far", value, since=9) for _ in range(self.num)]


def step(objective: offramp.Objective) -> Any:
    batch = offramp.Batch(X, torch.zeros(2).long(), torch.arange(2), 0.0)
    return offramp.train.backward_step(model(), objective, batch, COSTS)


def gated() -> offramp.MultiExitModel:
    return offramp.attach(network(), ["1", "3"], example=torch.zeros(2, 4), gate=True)


def gate_data() -> gates.GateData:
    return gates.cache_gates(gated(), data(), progress=False)


def tuned(**named: Any) -> Any:
    return gates.tune_gates(gate_data(), gate_data(), COSTS, **named)


def other_weights(folder: Path) -> Path:
    network = offramp.create_model("resnet_cifar", depth=8, at=()).network
    torch.save({"state_dict": network.state_dict()}, folder / "resnet8.th")
    return folder / "resnet8.th"


def uncounted() -> Records:
    return Records.from_arrays(torch.randn(3, 4, 3), torch.full((4,), -100))


def touch(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize(
    ("door", "wrong", "call", "message"), TABLE, ids=[f"{d}: {w}" for d, w, *_ in TABLE]
)
def test_bad_input_is_one_clear_error(
    door: str, wrong: str, call: Call, message: str, tmp_path: Path
) -> None:
    with pytest.raises(OfframpError, match=message) as caught:
        call(tmp_path)
    text = str(caught.value)
    assert "\n" not in text and 15 < len(text) < 900, text


def test_every_door_has_three_bad_inputs() -> None:
    doors = [door for door, *_ in TABLE]
    functions = {name for name, thing in vars(offramp).items() if inspect.isfunction(thing)} - {
        "list_models",
        "list_objectives",
        "list_policies",
        "list_datasets",
        "list_recipes",
    }  # take a pattern only
    assert functions <= set(doors)
    assert {door for door in doors if doors.count(door) < 3} == set()
