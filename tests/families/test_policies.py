"""Properties of every registered policy on every kind of task.

Each property is a plain function of a policy's name and a task's, so a policy that is registered
anywhere, in a test as well, can be put to all of them: see `checks_for`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp.errors import UnsupportedError
from offramp.functional import log_odds, one_threshold, squash
from offramp.policies.base import Control, ExitPolicy
from offramp.registry import policies
from offramp.runtime import run
from offramp.trees import take
from offramp.types import Carry, ExitOutput, Prediction, Records

from .toys import COSTS, EXITS, TASKS, Toy, toy

MARGIN = 1e-4  # of the range of an exit's scores: what lies nearer to a threshold may go either way
INSIDE = 0.02  # the share of rows that may lie inside the margin
INSIDE_COUNTS: list[tuple[int, int]] = []  # rows inside and rows compared; see conftest.py
BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

Check = Callable[[str, str], None]


# ----------------------------------------------------------------------- properties
def check_run_equals_replay(name: str, task: str) -> None:
    """A run gives the exits and the logits of a replay, outside the margin around thresholds."""
    toy_ = toy(task)
    for budget in (0.4, 0.6, 0.8):
        policy = fitted(name, toy_, budget)
        got = run(policy=policy, model=toy_.model, inputs=toy_.inputs, size=toy_.size)
        same(got, replayed(policy, toy_), clear_of_thresholds(policy, toy_.records))


def check_batch_of_n_equals_n_batches_of_one(name: str, task: str) -> None:
    """An answer does not depend on its neighbours."""
    toy_, some = toy(task), torch.arange(0, 240, 5)
    policy = fitted(name, toy_, 0.6)
    together = run(toy_.model, policy, take(toy_.inputs, some), size=toy_.size)
    alone = [run(toy_.model, policy, take(toy_.inputs, n[None]), size=toy_.size) for n in some]
    joined = Prediction(*(torch.cat(parts) for parts in zip(*alone, strict=True)))
    same(joined, together, clear_of_thresholds(policy, toy_.records)[some])


def check_results_come_in_input_order(name: str, task: str) -> None:
    """Inputs in another order give the same answers in that order."""
    toy_ = toy(task)
    policy = fitted(name, toy_, 0.6)
    order = torch.randperm(240, generator=torch.Generator().manual_seed(1))
    got = run(toy_.model, policy, take(toy_.inputs, order), size=toy_.size)
    wanted = run(toy_.model, policy, toy_.inputs, size=toy_.size)
    clear = clear_of_thresholds(policy, toy_.records)
    same(got, Prediction(*take(wanted, order)), clear[order])


def check_budget_holds_where_it_was_fitted(name: str, task: str) -> None:
    """The mean cost on the fitting part is within the budget, saturated logits included."""
    records = toy(task).records
    for part in (records, scaled(records, 1e4), saturated(records)):
        for budget in BUDGETS:
            for temperature in (False, True) if budget == 0.6 else (False,):
                policy = policies.create(name, num_exits=EXITS, temperature=temperature)
                exits = policy.fit(part, COSTS, budget).exits(part)
                assert float(COSTS.relative()[exits].mean()) <= budget + 1e-9


def check_replays_are_deterministic(name: str, task: str) -> None:
    """Two fits and two replays agree to the last bit, whatever the global random state."""
    toy_ = toy(task)
    scores = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = fitted(name, toy_, 0.6)
            scores += [(policy.scores(toy_.records), policy.exits(toy_.records))]
    assert torch.equal(scores[0][0], scores[1][0])
    assert torch.equal(scores[0][1], scores[1][1])


def check_state_dict_keeps_decisions(name: str, task: str) -> None:
    """A new policy with the state dict of a fitted one decides as that one does."""
    toy_ = toy(task)
    policy = policies.create(name, num_exits=EXITS, temperature=True)
    policy.fit(toy_.records, COSTS, 0.6)
    other = policies.create(name, num_exits=EXITS, temperature=True)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other.scores(toy_.records), policy.scores(toy_.records))
    assert torch.equal(other.exits(toy_.records), policy.exits(toy_.records))


def check_operating_points_are_separate_fits(name: str, task: str) -> None:
    """Every operating point decides as a policy fitted to its budget alone."""
    toy_ = toy(task)
    budgets = {"low": 0.4, "high": 0.9}
    policy = policies.create(name, num_exits=EXITS).fit_points(toy_.records, COSTS, budgets)
    for point in ("high", "low"):
        alone = policies.create(name, num_exits=EXITS).fit(toy_.records, COSTS, budgets[point])
        assert torch.equal(policy.use(point).exits(toy_.records), alone.exits(toy_.records))


def check_scores_are_finite_numbers_per_input(name: str, task: str) -> None:
    """Scores are [N, K] float32 and finite, where logits are NaN, too."""
    records = toy(task).records
    for part in (records, scaled(records, float("nan"))):
        scores = policies.create(name, num_exits=EXITS).scores(part)
        assert scores.shape == (240, EXITS)
        assert scores.dtype == torch.float32
        assert bool(scores.isfinite().all())


def check_control_refuses_to_run(name: str, task: str) -> None:
    """An offline control scores records, and says so when asked to run."""
    toy_ = toy(task)
    policy = fitted(name, toy_, 0.6)
    with pytest.raises(UnsupportedError, match="offline control"):
        run(toy_.model, policy, toy_.inputs, size=toy_.size)
    with pytest.raises(UnsupportedError, match="offline control"):
        policy(0, toy_.records.shards[0].outputs[0], {})


OFFLINE: tuple[Check, ...] = (
    check_budget_holds_where_it_was_fitted,
    check_replays_are_deterministic,
    check_state_dict_keeps_decisions,
    check_operating_points_are_separate_fits,
    check_scores_are_finite_numbers_per_input,
)
RUNNING: tuple[Check, ...] = (
    check_run_equals_replay,
    check_batch_of_n_equals_n_batches_of_one,
    check_results_come_in_input_order,
)


def checks_for(name: str) -> tuple[Check, ...]:
    """What a policy is put to: controls are never deployed, so they must refuse to run."""
    control = isinstance(policies.create(name, num_exits=EXITS), Control)
    return (*OFFLINE, check_control_refuses_to_run) if control else (*OFFLINE, *RUNNING)


CASES = [(c, name, task) for name in policies.names() for task in TASKS for c in checks_for(name)]


@pytest.mark.parametrize(
    ("check", "name", "task"), CASES, ids=[f"{c.__name__}-{n}-{t}" for c, n, t in CASES]
)
def test_every_registered_policy(check: Check, name: str, task: str) -> None:
    check(name, task)


# ----------------------------------------------------------------------- policies of a test's own
@contextmanager
def registered(policy: type[ExitPolicy]) -> Iterator[str]:
    policies.register("of_a_test")(policy)
    try:
        yield "of_a_test"
    finally:
        policies.remove("of_a_test")


class Votes(ExitPolicy):
    """Leave once most exits so far have voted for this exit's answer."""

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        pooled = out.logits.flatten(2).mean(2) if out.logits.dim() > 2 else out.logits
        votes = F.one_hot(pooled.argmax(1), pooled.shape[1]) + (carry["votes"] if carry else 0)
        return votes.amax(1) + squash(log_odds(pooled)), {"votes": votes}


class AsksNeighbours(Votes):
    """Broken: a score that depends on the batch it is in."""

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        score, carry = super().score(k, out, carry)
        return score - score.mean(), carry


class Spends(Votes):
    """Broken: thresholds that know no budget."""

    def place(self, scores: Tensor, costs: Tensor, budget: float, prior=None) -> Tensor:
        return one_threshold(scores, costs, float(costs[-1])).repeat(self.num_exits)


class Rolls(Votes):
    """Broken: scores from the global random state."""

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        return torch.rand(len(out.logits)), carry


class Forgets(Votes):
    """Broken: what decides is in no buffer, so that a state dict loses it."""

    sign = 1.0

    def learn(self, records: Records, costs: Tensor, budget: float) -> None:
        self.sign = -1.0

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        score, carry = super().score(k, out, carry)
        return score * self.sign, carry


class Shuffled(Votes):
    """Broken: a carry that is not batch-first, so that it keeps the wrong rows."""

    def score(self, k: int, out: ExitOutput, carry: Carry) -> tuple[Tensor, Carry]:
        score, _ = super().score(k, out, {})
        if carry:
            score = score + carry["before"].flip(0)
        return score, {"before": score}


def test_new_policy_of_one_class_passes_every_check() -> None:
    with registered(Votes) as name:
        assert name in policies.names()
        for task in TASKS:
            for check in checks_for(name):
                check(name, task)
    assert name not in policies.names()


class Coin(Control):
    """A control of one class."""

    def scores(self, records: Records) -> Tensor:
        self._check(records)
        return (torch.arange(len(records) * self.num_exits) % 7).reshape(-1, self.num_exits) * 1.0


def test_new_control_of_one_class_passes_every_check() -> None:
    with registered(Coin) as name:
        assert check_control_refuses_to_run in checks_for(name)
        for task in TASKS:
            for check in checks_for(name):
                check(name, task)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (AsksNeighbours, check_run_equals_replay),
        (AsksNeighbours, check_batch_of_n_equals_n_batches_of_one),
        (Spends, check_budget_holds_where_it_was_fitted),
        (Rolls, check_replays_are_deterministic),
        (Forgets, check_state_dict_keeps_decisions),
        (Shuffled, check_results_come_in_input_order),
        (Votes, check_control_refuses_to_run),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_broken_policy_fails_the_check_made_for_it(
    broken: type[ExitPolicy], check: Check, task: str
) -> None:
    with registered(broken) as name, pytest.raises((AssertionError, pytest.fail.Exception)):
        check(name, task)


# ----------------------------------------------------------------------- helpers
def fitted(name: str, toy_: Toy, budget: float) -> ExitPolicy:
    """A policy fitted on the first half of the rows, so that the other half is new to it."""
    half = toy_.records.take(torch.arange(120))
    return policies.create(name, num_exits=EXITS).fit(half, COSTS, budget)


def replayed(policy: ExitPolicy, toy_: Toy) -> Prediction:
    """What a run should give, put together from the records row by row."""
    exits, answers = policy.exits(toy_.records), policy.answers(toy_.records.shards[0])
    rows = []
    for n, k in enumerate(exits.tolist()):
        row = answers[k][n : n + 1]
        rows.append(row if toy_.size is None else resized(row, toy_.size))
    return Prediction(torch.cat(rows), exits)


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def clear_of_thresholds(policy: ExitPolicy, records: Records) -> Tensor:
    """Rows whose scores all lie outside the margin around the thresholds, [N]."""
    scores, thresholds = policy.scores(records)[:, :-1], policy.thresholds[:-1]
    margin = MARGIN * (scores.amax(0) - scores.amin(0))
    return ((scores - thresholds).abs() >= margin).all(1)


def same(got: Prediction, wanted: Prediction, clear: Tensor) -> None:
    """Exits equal and logits close, for the rows that are clear of thresholds; most must be."""
    inside = int((~clear).sum())
    INSIDE_COUNTS.append((inside, len(clear)))
    assert inside <= max(1, INSIDE * len(clear))
    assert torch.equal(got.exits[clear], wanted.exits[clear])
    torch.testing.assert_close(got.logits[clear], wanted.logits[clear], rtol=1e-4, atol=1e-4)


def scaled(records: Records, factor: float) -> Records:
    return changed(records, lambda logits: logits * factor, lambda gate: gate * factor)


def saturated(records: Records) -> Records:
    """One-hot times 50, in bf16: every top probability is exactly 1. Gates are 50 or -50."""
    return changed(
        records,
        lambda logits: (50.0 * (logits == logits.amax(1, keepdim=True))).bfloat16(),
        lambda gate: 50.0 * gate.sign().bfloat16(),
    )


def changed(
    records: Records,
    function: Callable[[Tensor], Tensor],
    gated: Callable[[Tensor], Tensor] = lambda gate: gate,
) -> Records:
    """Records whose logits, and whose gates, are functions of these."""
    shards = [
        shard._replace(
            outputs=[
                ExitOutput(function(o.logits), None if o.gate is None else gated(o.gate))
                for o in shard.outputs
            ]
        )
        for shard in records
    ]
    return Records(shards)
