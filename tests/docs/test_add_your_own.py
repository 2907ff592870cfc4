"""The files of "add your own" have every property that the built-in ones have."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import offramp
from offramp.registry import models, objectives, policies

from .pages import ROOT, modules_of

PLUGINS = {
    "add-your-own/objective.md": {"focal": objectives},
    "add-your-own/policy.md": {"ensemble": policies},
    "add-your-own/backbone.md": {"plain": models, "cut_plain": models},
}


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The properties of every registered objective and policy."""
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    yield importlib.import_module("families")


@pytest.fixture(params=PLUGINS)
def plugin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with modules_of(request.param, tmp_path) as modules:
        for name in modules:
            importlib.import_module(name)
        yield request.param


def test_file_enters_its_name_and_no_other(tmp_path: Path) -> None:
    for page, names in PLUGINS.items():
        known = {registry: set(registry.names()) for registry in names.values()}
        with modules_of(page, tmp_path) as modules:
            for name in modules:
                importlib.import_module(name)
            for registry, before in known.items():
                wanted = {name for name, where in names.items() if where is registry}
                assert set(registry.names()) - before == wanted
        assert all(set(registry.names()) == before for registry, before in known.items())


@pytest.mark.parametrize("plugin", ["add-your-own/objective.md"], indirect=True)
@pytest.mark.parametrize("task", ["label", "map", "pyramid", "encoder"])
def test_objective_passes_every_check(plugin: str, task: str, families: ModuleType) -> None:
    checks = importlib.import_module("families.test_objectives").CHECKS
    assert len(checks) >= 8
    for check in checks:
        check("focal", task)


@pytest.mark.parametrize("plugin", ["add-your-own/policy.md"], indirect=True)
@pytest.mark.parametrize("task", ["label", "map", "pyramid", "encoder"])
def test_policy_passes_every_check(plugin: str, task: str, families: ModuleType) -> None:
    checks = importlib.import_module("families.test_policies").checks_for("ensemble")
    assert len(checks) >= 8
    for check in checks:
        check("ensemble", task)


@pytest.mark.parametrize("plugin", ["add-your-own/policy.md"], indirect=True)
def test_policy_answers_with_the_mean_of_log_probabilities(plugin: str) -> None:
    logits, targets = torch.randn(3, 20, 5), torch.randint(5, (20,))
    records = offramp.Records.from_arrays(logits, targets)
    for decay in (1.0, 0.5):
        policy = offramp.create_policy("ensemble", num_exits=3, decay=decay)
        answers = policy.answers(records.shards[0])
        for k in range(3):
            weights = [decay ** (k - j) for j in range(k + 1)]
            for n in range(20):
                parts = [w * logits[j, n].log_softmax(0) for j, w in enumerate(weights)]
                torch.testing.assert_close(answers[k][n], sum(parts) / sum(weights))


@pytest.mark.parametrize("plugin", ["add-your-own/objective.md"], indirect=True)
def test_objective_is_focal_loss(plugin: str) -> None:
    logits, target = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, -100])
    batch = offramp.Batch(torch.zeros(6, 1), target, torch.arange(6), 0.0)
    costs = offramp.Costs.from_relative([1.0])
    objective = offramp.create_objective("focal", gamma=2.0)
    [term] = objective([offramp.ExitOutput(logits)], batch, costs)
    wanted = 0.0
    for n in range(5):
        p = float(logits[n].softmax(0)[target[n]])
        wanted += -((1 - p) ** 2) * float(torch.tensor(p).log()) / 5
    assert float(term.value) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("plugin", ["add-your-own/backbone.md"], indirect=True)
@pytest.mark.parametrize("name", ["plain", "cut_plain"])
def test_backbone_runs_as_it_replays(plugin: str, name: str) -> None:
    model = offramp.create_model(name, num_classes=4)
    images, targets = torch.randn(24, 3, 16, 16), torch.randint(4, (24,))
    offramp.fit(model, (images, targets), epochs=1, batch_size=12, lr=0.01, progress=False)
    costs = offramp.measure(model, images[:2], latency=False)
    assert bool((costs.relative().diff() > 0).all())
    records = offramp.record(model, (images, targets), progress=False)
    policy = offramp.create_policy("max_prob", num_exits=model.num_exits)
    policy.fit(records, costs, budget=float(costs.relative().mean()))
    prediction = offramp.run(model.eval(), policy, images)
    assert torch.equal(prediction.exits, policy.exits(records))
    alone = torch.cat([offramp.run(model, policy, image[None]).logits for image in images])
    torch.testing.assert_close(alone, prediction.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plugin", ["add-your-own/backbone.md"], indirect=True)
@pytest.mark.parametrize("name", ["plain", "cut_plain"])
def test_backbone_comes_back_from_a_bundle(plugin: str, name: str, tmp_path: Path) -> None:
    model = offramp.create_model(name, num_classes=4).eval()
    loaded = offramp.load(offramp.save(tmp_path / "bundle", model)).model
    images = torch.randn(4, 3, 16, 16)
    for one, two in zip(model(images), loaded(images), strict=True):
        assert torch.equal(one.logits, two.logits)


def test_policy_comes_back_from_a_bundle(tmp_path: Path) -> None:
    with modules_of("add-your-own/policy.md", tmp_path) as modules:
        importlib.import_module(modules[0])
        model = offramp.create_model("resnet_cifar", depth=8, num_classes=5)
        records = offramp.Records.from_arrays(torch.randn(3, 90, 5), torch.randint(5, (90,)))
        costs = offramp.Costs.from_relative([0.3, 0.6, 1.0])
        policy = offramp.create_policy("ensemble", num_exits=3, decay=0.25)
        policy.fit(records, costs, budget=0.5)
        folder = offramp.save(tmp_path / "bundle", model, policy=policy, costs=costs)
        again = offramp.load(folder).policy
        assert again is not None and torch.equal(again.exits(records), policy.exits(records))
        assert again.options() == policy.options() and again.options()["decay"] == 0.25
        del policy.decay
        with pytest.raises(offramp.OfframpError, match="decay"):
            offramp.save(tmp_path / "lost", model, policy=policy, costs=costs)
    with pytest.raises(offramp.OfframpError, match="ensemble"):  # its plug-in is not imported
        offramp.load(folder)
