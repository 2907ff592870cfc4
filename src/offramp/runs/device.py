"""Where a study runs."""

from __future__ import annotations

import torch

from ..errors import ValidationError


def find_device(device: torch.device | str | None) -> torch.device:
    """A device by name; by default a GPU, where there is one.

    Raises:
        ValidationError: if there is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):  # torch has no common error for it
        seen = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise ValidationError(
            f"wanted a device that is here, such as {' or '.join(seen)}, got {str(device)!r}"
        ) from None
