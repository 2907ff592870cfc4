"""A check that every network which answers with maps must pass: it runs as it is replayed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from offramp import create_policy, run
from offramp.model import MultiExitModel


@pytest.fixture
def check_running() -> Callable[[MultiExitModel, Tensor], None]:
    """Running with rows that leave gives the exits and maps of all exits run one row at a time."""

    def check(model: MultiExitModel, images: Tensor) -> None:
        model.eval()
        policy, size = create_policy("max_prob", num_exits=model.num_exits), images.shape[2:]
        with torch.no_grad():
            each = [model(row[None]) for row in images]  # N times K outputs of one row
        scores = torch.tensor(
            [[float(policy(k, out, {}).score) for k, out in enumerate(outs)] for outs in each]
        )  # [N, K]
        ordered = scores.sort(0).values  # of each exit, two of four rows are above
        policy.thresholds.copy_((ordered[1] + ordered[2]) / 2)
        got = run(model, policy, images, size=tuple(size))
        assert len(set(got.exits.tolist())) > 1
        for n, outs in enumerate(each):
            leaves = (scores[n] >= policy.thresholds).tolist()
            k = next((k for k in range(model.num_exits - 1) if leaves[k]), model.num_exits - 1)
            assert int(got.exits[n]) == k
            wanted = F.interpolate(outs[k].logits, size, mode="bilinear", align_corners=False)
            torch.testing.assert_close(got.logits[n : n + 1], wanted, rtol=1e-4, atol=1e-4)

    return check
