"""Randomness without a memory: seeds that depend on the run's seed and on counters alone.

What a step draws can so be drawn again after a crash, and no random state need be saved.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch


def mix(*parts: int | str) -> int:
    """A seed from counters and words; other parts give an unrelated one.

    Example:
        >>> mix(0, "order", 3) != mix(0, "order", 4)
        True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # 63 bits, which every generator takes


def reseed(seed: int, device: torch.device) -> None:
    """Seed torch's default generators of the processor and of this device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def random_states_kept(device: torch.device) -> Iterator[None]:
    """Put the random states of torch, Python and NumPy back afterwards, whatever happens."""
    python, arrays = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(arrays)
