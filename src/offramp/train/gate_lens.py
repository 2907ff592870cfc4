"""What goes into a gate, as it is best fitted: standardised and, where wide, reduced.

A gate on a flattened map can have hundreds of thousands of features, more than there are inputs.
Beyond `WIDEST` it is fitted on the `LEADING` directions in which standardised features vary most
(Halko et al. 2011, algorithm 4.4 with one pass more), which are as many numbers per input. Either
way the gate that comes out is linear in the features as they were.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDEST = 1024  # features that are fitted as they are
LEADING = 256  # directions that are left of more

_BLOCK = 2048  # rows or columns that are worked on at once, in float32


class Lens:
    """Inputs of one gate for fitting, and the way back.

    Args:
        features: [N, F].
    """

    inputs: Tensor  # [N, D] float32, each of mean 0 and of standard deviation 1, or constant 0

    def __init__(self, features: Tensor) -> None:
        self.mean, self.scale = _moments(features)
        self.directions: Tensor | None = None
        if features.shape[1] <= WIDEST:
            self.inputs = (features.float() - self.mean) / self.scale
            return
        rank = min(LEADING, len(features))
        self.directions = _leading(features, self.mean, self.scale, rank)  # [F, D]
        reduced = _times(features, self.mean, self.scale, self.directions)
        spread = reduced.double().std(0, correction=0).float()
        # of N rows at most N - 1 directions vary; along the others there is rounding alone
        kept = spread > 1e-3 * spread.max()
        spread = spread[kept]
        self.inputs = reduced[:, kept] / spread
        self.directions = self.directions[:, kept] / spread

    def fold(self, weights: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
        """Gates on these inputs as gates on the features, [D, A], [A] -> [A, F], [A]."""
        weights = weights if self.directions is None else self.directions @ weights  # [F, A]
        scaled = weights.double() / self.scale.double().unsqueeze(1)
        folded = biases.double() - self.mean.double() @ scaled
        return scaled.T.float().contiguous(), folded.float()


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, [F]; the latter is 1 where it is constant."""
    pairs = [
        torch.std_mean(block.double(), 0, correction=0) for block in features.split(_BLOCK, 1)
    ]  # double: float32 would round away a small spread around a large mean
    scale, mean = (torch.cat(column) for column in zip(*pairs, strict=True))
    moves = scale > 1e-6 * mean.abs() + 1e-12
    return mean.float(), torch.where(moves, scale, 1.0).float()


def _leading(features: Tensor, mean: Tensor, scale: Tensor, rank: int) -> Tensor:
    """Orthonormal directions in which standardised features vary most, [F, rank]."""
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(features.shape[1], rank, generator=generator)
    for _ in range(2):
        sketch = torch.linalg.qr(_times(features, mean, scale, found)).Q  # [N, rank]
        pairs = zip(features.split(_BLOCK), sketch.split(_BLOCK), strict=True)
        back = sum(((rows.float() - mean) / scale).T @ part for rows, part in pairs)
        found = torch.linalg.qr(torch.as_tensor(back)).Q
    return found


def _times(features: Tensor, mean: Tensor, scale: Tensor, directions: Tensor) -> Tensor:
    """Standardised features along some directions, [N, F], [F, D] -> [N, D]."""
    parts = [((rows.float() - mean) / scale) @ directions for rows in features.split(_BLOCK)]
    return torch.cat(parts)
