"""A study whose policies read gates: what its results hold, and who is told of missing gates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import offramp
from offramp.cli import app
from offramp.config import PolicyConfig, load_config
from offramp.errors import ValidationError
from offramp.policies.gate import Gate
from offramp.report import write
from offramp.runs import Run, fit_policies, score, train

from .conftest import SMALL

GATED = (*SMALL, "train.epochs=1", "policies=[max_prob, gate]")
NO_GATES = r"policy 'gate': wanted a gate .* none at exits \[0\]; gate=True"


@pytest.fixture(scope="module")
def _gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gated") / "digits"
    config = load_config("digits", (*GATED, "model.gate=true"))
    train(config, out, device="cpu", progress=False)
    fit_policies(Run(out))
    score(Run(out), progress=False)
    return out


@pytest.fixture
def gated(_gated: Path, tmp_path: Path) -> Run:
    """A scored run of two exits whose first one has a gate."""
    return Run(Path(shutil.copytree(_gated, tmp_path / "gated")))


def files(run: Run) -> dict[Path, bytes]:
    return {f: f.read_bytes() for f in run.path.rglob("*") if f.is_file()}


def test_results_hold_the_rule_of_those_that_have_one(gated: Run) -> None:
    results, test = gated.results(), offramp.load_records(gated.records_path("test"))
    wanted = offramp.evaluate(Gate(2), test, gated.bundle().costs).to_dict()
    assert results["rules"] == {"gate": wanted}
    assert wanted["cost_stderr"] is not None and wanted["budget"] is None
    left = results["samples"]["rules"]["gate"]
    assert len(left) == len(results["samples"]["labels"]) and set(left) <= {0, 1}
    assert write([gated.path]).is_file()


def test_results_count_who_is_right_as_a_literal_loop(gated: Run) -> None:
    results, test = gated.results(), offramp.load_records(gated.records_path("test"))
    gate = torch.cat([shard.outputs[0].gate for shard in test])
    answers = [logits.argmax(1).tolist() for logits in test.logits]
    counts = [[[[0, 0], [0, 0]], [[0, 0], [0, 0]]] for _ in range(2)]
    for i, target in enumerate(test.targets.tolist()):
        last = int(answers[1][i] == target)
        counts[0][int(gate[i] > 0)][int(answers[0][i] == target)][last] += 1
        counts[1][1][last][last] += 1
    assert results["examine"]["gate"]["rule"] == counts
    assert list(results["examine"]["gate"]) == ["0.5", "0.9", "rule"]
    assert list(results["examine"]["max_prob"]) == ["0.5", "0.9"]
    for points in results["examine"].values():
        for point in points.values():
            assert [sum(torch.tensor(one).flatten().tolist()) for one in point] == [len(test)] * 2


def test_scoring_scores_each_policy_once(gated: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    whole = Gate.scores
    monkeypatch.setattr(Gate, "scores", lambda self, r: scored.append(1) or whole(self, r))
    before = gated.results()
    assert score(gated, progress=False) == before
    assert len(scored) == 1


def test_gate_in_the_bundle_comes_back(gated: Run) -> None:
    chosen = [PolicyConfig(name="gate", label="gate", options={"threshold": 0.4})]
    fitted = fit_policies(gated, chosen)[0].policy
    policy, test = gated.bundle().policy, offramp.load_records(gated.records_path("test"))
    assert isinstance(policy, Gate) and policy.options() == fitted.options()
    for point in ("0.9", "0.5"):
        assert torch.equal(policy.use(point).exits(test), fitted.use(point).exits(test))
    assert torch.equal(policy.rule().exits(test), Gate(2, threshold=0.4).exits(test))


def test_eval_prints_the_rule_and_who_is_right(gated: Run) -> None:
    said = CliRunner().invoke(app, ["eval", str(gated.path), "--quiet"])
    assert said.exit_code == 0
    shown = [" ".join(line.split()) for line in said.stdout.splitlines()]
    assert any(line.startswith("gate rule ") for line in shown)
    assert any(line.startswith("gate by its rule: an early exit") for line in shown)
    plain = CliRunner().invoke(app, ["eval", str(gated.path), "--quiet", "--json"])
    assert json.loads(plain.stdout) == gated.results()


def test_run_without_gates_is_left_as_it_was(scored: Run) -> None:
    before = files(scored)
    chosen = [PolicyConfig(name=name, label=name) for name in ("max_prob", "gate")]
    with pytest.raises(ValidationError, match=NO_GATES):
        fit_policies(scored, chosen)
    said = CliRunner().invoke(app, ["fit", str(scored.path), "--policy", "gate"])
    assert said.exit_code == 2
    [line] = said.stderr.splitlines()
    assert line.startswith("offramp: policy 'gate': wanted a gate at each of the 1 early exits")
    assert files(scored) == before


def test_study_is_not_fitted_in_part(gated: Run, trained: Run, tmp_path: Path) -> None:
    study = tmp_path / "study"
    for seed, run in enumerate((gated, trained)):
        shutil.copytree(run.path, study / f"seed-{seed}")
    before = files(Run(study))
    said = CliRunner().invoke(app, ["fit", str(study), "--policy", "gate"])
    assert said.exit_code == 2 and "policy 'gate'" in said.stderr
    assert files(Run(study)) == before


def test_training_for_a_policy_without_its_gates_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offramp.runs.training.fit", None)
    with pytest.raises(ValidationError, match=NO_GATES):
        train(load_config("digits", GATED), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
