"""The log of a run: one JSON line per entry, appended."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import TrainingError
from ..files import replacing


class Log:
    """A file of JSON lines that goes on where a checkpoint left it.

    Args:
        path: the file; it and its folder are made where they are not there.
        keep: lines of it to keep, the first ones. What comes after them was written after the
            checkpoint, and would be there twice; it is dropped in one step. An unfinished last
            line counts as none.

    Raises:
        TrainingError: if there are fewer lines than that.

    Example:
        >>> log = Log(Path("run/metrics.jsonl"), keep=0)
        >>> log.write({"kind": "epoch", "loss": 0.25})
        >>> log.lines
        1
    """

    def __init__(self, path: str | Path, keep: int = 0) -> None:
        self.path, self.lines = Path(path), keep
        there = self.path.read_bytes() if self.path.exists() else b""
        lines = there.split(b"\n")[:-1]  # what follows the last line's end is unfinished
        if len(lines) < keep:
            raise TrainingError(
                f"wanted at least {keep} lines in {path}, which the checkpoint says were written "
                f"before it; got {len(lines)}: put the file back, or start afresh"
            )
        kept = b"".join(line + b"\n" for line in lines[:keep])
        if kept != there or not self.path.exists():
            with replacing(self.path) as partial, partial.open("wb") as file:
                _put(file, kept)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line, and wait until it is on the disk; numbers not finite become null."""
        text = json.dumps(_finite(line), allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            _put(file, text.encode())
        self.lines += 1


def _put(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    # a checkpoint tells the number of lines: they must outlast a power cut as it does
    os.fsync(file.fileno())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
