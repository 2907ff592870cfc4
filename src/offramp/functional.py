"""The tensor mathematics that policies share: certainty, maps, hits, rates, thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import BudgetError, ValidationError
from .types import Records

Reduce = Literal["mean", "quantile", "worst_patch"]

_PATCH = 8  # side of a patch for "worst_patch", in positions of the head's own map
_QUANTILE = 0.1  # the share of least certain positions that "quantile" looks past


# ----------------------------------------------------------------------- certainty
def log_odds(logits: Tensor) -> Tensor:
    """Log-odds of the top class: its logit minus logsumexp of the others, [N, C, *S] -> [N, *S].

    A strictly increasing function of the top probability that does not saturate: where the
    probability rounds to 1.0, the log-odds still tell inputs apart.
    """
    top, others = _split(logits)
    return top - others.logsumexp(1)


def log_margin(logits: Tensor) -> Tensor:
    """-log(1 - (p_1 - p_2)) for the two top probabilities, [N, C, *S] -> [N, *S].

    A strictly increasing function of the margin that does not saturate: 1 - (p_1 - p_2) is the
    mass of all classes but the first, with the second counted twice.
    """
    _, others = _split(logits)
    doubled = torch.cat([others, others.amax(1, keepdim=True)], 1)
    return logits.float().logsumexp(1) - doubled.logsumexp(1)


def log_certainty(logits: Tensor) -> Tensor:
    """-log of the entropy in nats, [N, C, *S] -> [N, *S], in log space, so it does not saturate."""
    top, others = _split(logits)
    odds = top - others.logsumexp(1)
    log_p = others.sub(top.unsqueeze(1)) - F.softplus(-odds).unsqueeze(1)
    # log of -p log p for every class but the top; it is -inf for p = 0, not -inf + inf
    parts = torch.where(log_p.isneginf(), log_p, log_p + log_p.neg().clamp_min(1e-30).log())
    # the top class: log p = -softplus(-odds), and that is -exp(-odds) where odds are large
    surprise = torch.where(odds > 15, -odds, F.softplus(-odds).clamp_min(1e-30).log())
    return -torch.cat([parts, (surprise - F.softplus(-odds)).unsqueeze(1)], 1).logsumexp(1)


def squash(score: Tensor) -> Tensor:
    """Map any score into [0, 0.999], increasing: a tie-break that cannot reach the next integer.

    Softsign, not sigmoid: its tails are heavy enough that large log-odds stay apart in float32.
    NaN stays NaN, so that it is never ready to leave.
    """
    bounded = score.clamp(-1e6, 1e6)
    return 0.4995 * (1 + bounded / (1 + bounded.abs()))


def reduce_positions(values: Tensor, how: Reduce = "mean") -> Tensor:
    """One number per input from one per position, [N, *S] -> [N].

    ``mean`` over positions; ``quantile``: the 10 % quantile, so that a tenth of the positions may
    be uncertain; ``worst_patch``: the least mean over patches of 8 x 8 positions. NaN at any
    position makes the number NaN.
    """
    if values.dim() == 1:
        return values
    if how == "mean":
        return values.flatten(1).mean(1)
    if how == "quantile":
        flat = values.flatten(1)
        tenth = flat.kthvalue(max(1, int(_QUANTILE * flat.shape[1])), 1).values
        # kthvalue sorts NaN last, as if such positions were certain
        return tenth.masked_fill(flat.isnan().any(1), float("nan"))
    if how == "worst_patch":
        maps = values.unsqueeze(1)  # [N, 1, H, W], or [N, 1, L] for a line
        side = [min(_PATCH, size) for size in maps.shape[-2:]]
        patches = F.avg_pool2d(maps, side, ceil_mode=True, count_include_pad=False)
        return patches.flatten(1).amin(1)
    raise ValidationError(f"wanted reduce 'mean', 'quantile' or 'worst_patch', got {how!r}")


def _split(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The top logit [N, *S], and the logits [N, C, *S] with -inf in its place; float32."""
    if logits.dim() < 2 or logits.shape[1] < 2:
        raise ValidationError(f"wanted logits [N, C, *S] with C >= 2, got {tuple(logits.shape)}")
    logits = logits.float()
    top, index = logits.max(1, keepdim=True)  # NaN counts as the largest
    return top.squeeze(1), logits.scatter(1, index, float("-inf"))


# ----------------------------------------------------------------------- maps
def nearest(values: Tensor, size: Sequence[int]) -> Tensor:
    """Values at another resolution by nearest neighbour, [N, *S] -> [N, *size].

    Position i of a side takes position i * S // size. `torch.nn.functional.interpolate` means the
    same, takes real numbers only and, as it rounds in float32, misses by one for some sizes.
    """
    for axis, (before, after) in enumerate(zip(values.shape[1:], size, strict=True), 1):
        if before != after:
            taken = torch.arange(after, device=values.device) * before // after
            values = values.index_select(axis, taken)
    return values


def upsample(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Maps of logits at another resolution, as losses and figures compare them with targets.

    Bilinear, with corners not aligned, [N, C, *S] -> [N, C, *size]; a label stays as it is.
    """
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits.float(), list(size), mode="bilinear", align_corners=False)


def class_counts(answers: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """How often each class is right, is answered and is wanted, [n, P], [n, P] -> [n, 3, C] int64.

    Positions whose target is negative do not count; a negative answer is of no class. The counts
    of several parts add up, and `class_iou` takes any such sum.
    """
    # what counts for no class has a place of its own, so that the device need not be waited for
    rows = torch.arange(len(targets), device=targets.device).unsqueeze(1) * (num_classes + 1)
    zeros = targets.new_zeros(len(targets) * (num_classes + 1), dtype=torch.long)
    wanted = targets.long().where(targets >= 0, num_classes).clamp_max(num_classes)
    answered = answers.long().where((answers >= 0) & (targets >= 0), num_classes)
    right = wanted.where(wanted == answered, num_classes)
    ones = torch.ones_like(wanted).flatten()
    found = [
        zeros.scatter_add(0, (rows + place).flatten(), ones).view(-1, num_classes + 1)
        for place in (right, answered, wanted)
    ]
    return torch.stack(found, 1)[..., :num_classes]


def class_iou(counts: Tensor) -> Tensor:
    """Intersection over union of each class, [*, 3, C] -> [*, C] float64.

    It is NaN for a class that is neither wanted nor answered anywhere: ``nanmean`` leaves that out,
    as the evaluation of Cityscapes does.
    """
    right, answered, wanted = counts.double().unbind(-2)
    return right / (answered + wanted - right)


# ----------------------------------------------------------------------- hits
def correctness(answers: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Share of an input's positions that each exit gets right, [n, K]; targets < 0 do not count."""
    hits, counts = count_hits(answers, targets)
    return hits / counts.clamp_min(1).unsqueeze(1)


def count_hits(answers: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """How many positions of an input each exit gets right, [n, K], and how many count, [n].

    As in an evaluation, maps are resampled bilinearly to the targets' resolution, targets below 0
    do not count, and an answer with NaN is wrong; float64.
    """
    valid = (targets >= 0).reshape(len(targets), -1)
    hits = [
        (_right(logits, targets).reshape(valid.shape) & valid).sum(1, dtype=torch.float64)
        for logits in answers
    ]
    return torch.stack(hits, 1), valid.sum(1, dtype=torch.float64)


def _right(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the top class is the target, [n, C, *S], [n, *T] -> [n, *T]."""
    if logits.shape[2:] == targets.shape[1:]:
        top, label = logits.max(1)  # NaN counts as the largest
        return (label == targets) & ~top.isnan()
    # one row at a time: at the targets' resolution logits may be large
    rows = zip(logits.split(1), targets.split(1), strict=True)
    return torch.cat([_right(upsample(row, wanted.shape[1:]), wanted) for row, wanted in rows])


# ----------------------------------------------------------------------- temperature
def temperatures(records: Records, steps: int = 24) -> Tensor:
    """The temperature of each exit that minimises its negative log-likelihood, [K] float32.

    The likelihood is convex in the inverse temperature, so its slope is bisected; 24 steps leave
    an error of a millionth. Rows whose logits are NaN do not count; where none does, it is 1.
    """
    exits = records.num_exits
    low, high = torch.full((exits,), -6.0).double(), torch.full((exits,), 6.0).double()
    for _ in range(steps):
        middle = (low + high) / 2
        slope = torch.zeros(exits, dtype=torch.float64)
        for shard in records:
            for k, out in enumerate(shard.outputs):
                slope[k] += _slope(out.logits, shard.targets, float(middle[k].exp()))
        # a slope of exactly 0, such as that of no rows at all, ends the search where it is
        low, high = torch.where(slope <= 0, middle, low), torch.where(slope >= 0, middle, high)
    return (-(low + high) / 2).exp().float()


def _slope(logits: Tensor, targets: Tensor, inverse: float) -> Tensor:
    """Derivative of the summed negative log-likelihood by the inverse temperature, []."""
    logits = logits.double().clamp(-1e30, 1e30)  # 0 * -inf is not 0, and -inf rules out a class
    targets = nearest(targets, logits.shape[2:])
    valid = targets >= 0
    mean = ((inverse * logits).softmax(1) * logits).sum(1)
    own = logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
    return ((mean - own) * valid).nansum()


# ----------------------------------------------------------------------- budgets
def expected_cost(rates: Tensor, costs: Tensor) -> Tensor:
    """Mean cost under exit rates, [K], [K] -> []."""
    return (rates.double() * costs.double()).sum(-1)


def check_budget(costs: Tensor, budget: float, full: float = 1.0, unit: str = "") -> float:
    """The most that a mean cost may be under a budget: the budget, and the slack of rounding.

    Args:
        costs: [K], cumulative cost of each exit, non-decreasing.
        budget: bound of the mean cost, on the scale of ``costs``.
        full: what the message multiplies costs by, to state them in ``unit``.
        unit: unit of the message; none for relative costs.

    Raises:
        BudgetError: if the budget is not within the costs of the first and the last exit.
    """
    low, high = float(costs[0]), float(costs[-1])
    slack = 1e-9 * max(abs(high), 1.0)
    if not low - slack <= budget <= high + slack:
        asked, first, last = (f"{full * cost:.4g}" for cost in (budget, low, high))
        named = f" {unit}" if unit else ""
        raise BudgetError(
            f"a budget of {asked}{named} is out of reach: the first exit costs {first} and the "
            f"last {last}, so the reachable range is [{first}, {last}]{named}"
        )
    return budget + slack


def rates_for_budget(costs: Tensor, budget: float, prior: Tensor | None = None) -> Tensor:
    """Exit rates whose expected cost is the budget, from below: ``prior[k] * q**k``, normalised.

    Without a prior this is the geometric family of budgeted batch classification (Huang et al.
    2018, MSDNet); a learned scheduler passes its own rates.

    Args:
        costs: [K], cumulative cost of each exit, non-decreasing.
        budget: bound of the mean cost, on the scale of ``costs``.
        prior: [K], non-negative rates to tilt.

    Raises:
        BudgetError: if the budget is not within the costs of the first and the last exit.

    Example:
        >>> rates_for_budget(torch.tensor([0.2, 0.6, 1.0]), 0.6).tolist()
        [0.333..., 0.333..., 0.333...]
    """
    check_budget(costs, budget)
    costs = costs.double()
    base = torch.zeros_like(costs) if prior is None else prior.double().clamp_min(1e-12).log()
    steps = torch.arange(len(costs), dtype=torch.float64)

    def rates(tilt: float) -> Tensor:
        return (base + tilt * steps).softmax(0)

    low, high = (
        -100.0,
        100.0,
    )  # exp(-100) is nothing: these ends are the first and the last exit alone
    if float(expected_cost(rates(high), costs)) <= budget:
        return rates(high)
    for _ in range(100):
        middle = (low + high) / 2
        within = float(expected_cost(rates(middle), costs)) <= budget
        low, high = (middle, high) if within else (low, middle)
    return rates(low)


def cascade(scores: Tensor, rates: Tensor) -> Tensor:
    """Thresholds that let at least these shares of inputs leave, [N, K], [K] -> [K] float32.

    Exit counts are rounded up, cumulatively, so that on these scores the mean cost never exceeds
    the expected cost under ``rates``, whatever the costs. A threshold lies midway between the
    score of the last input that leaves and the next lower one, so it never equals an input's own
    score; inputs with equal scores leave together. The last exit takes everyone.
    """
    num, exits = scores.shape
    scores = finite(scores)
    leave_by = (rates.double().cumsum(0) * num - 1e-9).ceil().clamp(0, num).long().tolist()
    thresholds = torch.full((exits,), float("inf"))
    thresholds[-1] = float("-inf")
    left = torch.ones(num, dtype=torch.bool)
    for k in range(exits - 1):
        wanted = leave_by[k] - (num - int(left.sum()))
        if rates[k] > 0 and wanted > 0:
            thresholds[k] = _threshold(scores[left, k], wanted)
            left &= scores[:, k] < thresholds[k]
    return thresholds


def one_threshold(scores: Tensor, costs: Tensor, budget: float) -> Tensor:
    """The one threshold for all exits that spends the most within a budget, [N, K], [K] -> [].

    The mean cost does not fall as the threshold rises, so the places between neighbouring scores
    of all early exits are bisected; that finds the very best one. -inf lets everyone leave at the
    first exit, +inf nobody before the last.

    Raises:
        BudgetError: if the budget is not within the costs of the first and the last exit.
    """
    bound, costs, scores = check_budget(costs, budget), costs.double(), finite(scores)
    levels = scores[:, :-1].unique()  # ascending

    def between(i: int) -> Tensor:  # who scores levels[i] leaves, who scores levels[i - 1] does not
        if i == len(levels):
            return torch.tensor(float("inf"))
        return _middle(levels[i - 1], levels[i]) if i else torch.tensor(float("-inf"))

    low, high = 0, len(levels)
    while low < high:
        middle = (low + high + 1) // 2
        exits = first_exit(scores, between(middle).expand(len(costs)))
        within = float(costs[exits].mean()) <= bound
        low, high = (middle, high) if within else (low, middle - 1)
    return between(low)


def _threshold(scores: Tensor, wanted: int) -> Tensor:
    """A threshold that ``wanted`` scores reach, and as few more as ties allow, [n] -> []."""
    cut = scores.topk(wanted).values[-1]
    below = scores[scores < cut]
    return _middle(below.max(), cut) if len(below) else torch.tensor(float("-inf"))


def _middle(floor: Tensor, cut: Tensor) -> Tensor:
    """Midway between two scores, above the lower one; [], [] -> [] float32."""
    middle = ((cut.double() + floor.double()) / 2).float()
    return middle if floor < middle <= cut else cut  # neighbouring floats have no middle


def finite(scores: Tensor) -> Tensor:
    """Scores as float32 without NaN (never ready to leave) and infinities."""
    big = torch.finfo(torch.float32).max
    return scores.float().nan_to_num(nan=-big, posinf=big, neginf=-big)


def first_exit(scores: Tensor, thresholds: Tensor) -> Tensor:
    """The first exit whose threshold is reached, the last where none is, [N, K], [K] -> [N]."""
    leave = scores >= thresholds
    leave[:, -1] = True
    return leave.int().argmax(1)
