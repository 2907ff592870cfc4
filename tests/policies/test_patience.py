"""Patience: the score counts agreeing exits as the paper's loop does."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from offramp.functional import log_odds, squash
from offramp.policies.patience import Patience
from offramp.types import Carry, ExitOutput, Records


def literal_runs(labels: list[int]) -> list[int]:
    """Algorithm 1 of PABEE: a counter that an agreeing exit raises and another answer resets."""
    counter, runs = 0, []
    for k, label in enumerate(labels):
        counter = counter + 1 if k and label == labels[k - 1] else 0
        runs.append(counter + 1)
    return runs


def test_score_is_the_length_of_the_agreeing_run_plus_a_tie_break(records: Records) -> None:
    scores = Patience(4).scores(records)
    labels = torch.stack([logits.argmax(1) for logits in records.logits], 1).tolist()
    runs = torch.tensor([literal_runs(row) for row in labels])
    ties = torch.stack([squash(log_odds(logits)) for logits in records.logits], 1)
    assert runs.unique().tolist() == [1, 2, 3, 4]
    torch.testing.assert_close(scores, runs + ties)


def test_longer_run_wins_over_any_certainty() -> None:
    policy, carry, scores = Patience(3), Carry(), []
    for sure, label in ((1e4, 0), (1e-3, 0), (1e4, 1)):
        logits = torch.zeros(1, 3)
        logits[0, label] = sure
        score, carry = policy.score(0, ExitOutput(logits), carry)
        scores.append(float(score))
    assert [int(score) for score in scores] == [1, 2, 1]


def test_maps_of_growing_resolution_carry_runs_to_the_nearest_position() -> None:
    generator = torch.Generator().manual_seed(0)
    small, large = (torch.randn(2, 3, *s, generator=generator) for s in ((2, 3), (4, 6)))
    policy = Patience(3)
    _, carry = policy.score(0, ExitOutput(small), {})
    score, carry = policy.score(1, ExitOutput(large), carry)
    again, _ = policy.score(2, ExitOutput(small), carry)
    grown = F.interpolate(small, (4, 6)).argmax(1)
    runs = 1 + (grown == large.argmax(1)).int()
    torch.testing.assert_close(score, runs + squash(log_odds(large)))
    shrunk, kept = large.argmax(1)[:, ::2, ::2], runs[:, ::2, ::2]
    runs = 1 + kept * (shrunk == small.argmax(1))
    torch.testing.assert_close(again, runs + squash(log_odds(small)))


def test_nan_is_never_patient_enough() -> None:
    policy = Patience(2)
    policy.thresholds[0] = 0.5
    logits = torch.tensor([[float("nan"), 0.0], [1.0, 0.0]])
    assert policy(0, ExitOutput(logits), {}).leave.tolist() == [False, True]
