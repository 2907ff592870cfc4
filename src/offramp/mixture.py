"""Gates as probabilities: of leaving at each exit, of the mixture of answers, and of the cost.

Counted from 0, gate k is the logit of h_k, the probability of leaving at exit k for an input that
has come that far; everyone leaves at the last exit, K - 1. EENets (Demir and Akbas, section 3.2)
and LEENet share this algebra. It is done in log space, in float32 or wider, so values and gradients
are finite for any finite gates and logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ValidationError
from .types import ExitOutput


def stack_gates(outputs: Sequence[ExitOutput]) -> Tensor:
    """The gates of all early exits, [N, K-1], in float32 or wider.

    A gate of the last exit is left out: everyone leaves there.

    Args:
        outputs: K exits.

    Raises:
        ValidationError: if an early exit has no gate.
    """
    gates = [out.gate for out in outputs[:-1] if out.gate is not None]
    if len(gates) < len(outputs) - 1:
        without = [k for k, out in enumerate(outputs[:-1]) if out.gate is None]
        raise ValidationError(
            f"wanted a gate at each of the {len(outputs) - 1} early exits, got none at exits "
            f"{without}; gate=True gives them, as in attach(..., gate=True)"
        )
    if not gates:
        return wide(outputs[-1].logits.new_zeros(len(outputs[-1].logits), 0))
    return wide(torch.stack(gates, 1))


def exit_log_probs(gates: Tensor) -> Tensor:
    """Log of the probability of leaving at each exit, [N, K-1] -> [N, K].

    log h_k + sum over j < k of log(1 - h_j), and that sum alone for the last exit.

    Example:
        >>> exit_log_probs(torch.zeros(1, 2)).exp()
        tensor([[0.5000, 0.2500, 0.2500]])
    """
    gates = wide(gates)
    going = F.pad(F.logsigmoid(-gates).cumsum(1), (1, 0))  # [N, K], log of having come to exit k
    return going + F.pad(F.logsigmoid(gates), (0, 1))


def suffix_log_mixtures(log_p: Tensor, gates: Tensor) -> Tensor:
    """Log of what is answered on average by those who have come to each exit, [N, K, *S].

    The recursion of EENets, from the last exit: Pm_k = h_k p_k + (1 - h_k) Pm_{k+1}. The first one
    is the mixture of the whole network.

    Args:
        log_p: [N, K, *S], log-probabilities of every exit, of the target or of all classes.
        gates: [N, K-1].
    """
    gates, log_p = _alike(wide(gates), wide(log_p))
    gates = gates.reshape(*gates.shape, *[1] * (log_p.dim() - 2))  # [N, K-1, 1...]
    leave, go_on = F.logsigmoid(gates), F.logsigmoid(-gates)
    mixtures = [log_p[:, -1]]  # [N, *S], from the last exit to the first
    for k in reversed(range(gates.shape[1])):
        mixtures.append(torch.logaddexp(leave[:, k] + log_p[:, k], go_on[:, k] + mixtures[-1]))
    return torch.stack(mixtures[::-1], 1)


def suffix_costs(gates: Tensor, costs: Tensor) -> Tensor:
    """Expected cost of those who have come to each exit, [N, K-1], [K] -> [N, K].

    Cm_k = h_k c_k + (1 - h_k) Cm_{k+1}; the first one is the expected cost of the whole network.
    """
    gates = wide(gates)
    costs = costs.to(gates)
    leave, go_on = gates.sigmoid(), (-gates).sigmoid()
    means = [costs[-1].expand(len(gates))]  # [N], from the last exit to the first
    for k in reversed(range(gates.shape[1])):
        means.append(leave[:, k] * costs[k] + go_on[:, k] * means[-1])
    return torch.stack(means[::-1], 1)


def wide(tensor: Tensor) -> Tensor:
    """In float32 or wider: log-probabilities in bf16 have two or three digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _alike(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(one.dtype, other.dtype)
    return one.to(dtype), other.to(dtype)
