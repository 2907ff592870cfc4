"""What a run leaves on the disk while it trains, so that it can go on after a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..errors import TrainingError, ValidationError
from .checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors
from .log import Log
from .world import World

_ABSENT = object()
_TOGETHER = 8  # steps between two looks at the clock that several processes take together


class Position(NamedTuple):
    """How far training is; what is named first is not done yet."""

    phase: int = 0
    epoch: int = 0
    step: int = 0  # of the epoch


class Keeper:
    """The checkpoints and the log of one run; without a folder it keeps nothing.

    Args:
        out: the run's folder.
        every: seconds between two checkpoints within an epoch.
        world: the processes that train together; the first one writes, all of them read.
    """

    def __init__(self, out: Path | None, every: float, world: World) -> None:
        self.out, self.every, self.world = out, every, world
        self.log: Log | None = None
        self.saved = time.perf_counter()

    @property
    def folder(self) -> Path | None:
        """Where checkpoints lie."""
        return None if self.out is None else self.out / "checkpoints"

    def open(self, fingerprint: Mapping[str, Any], resume: bool) -> dict[str, Any] | None:
        """Open the log, and return the newest checkpoint, if there is one.

        Raises:
            TrainingError: if there are checkpoints and they are not to be resumed, or they are of
                another training; the message says what differs.
        """
        if self.out is None or self.folder is None:
            return None
        if not resume and any(p.suffix != ".partial" for p in self.folder.glob("step-*")):
            raise TrainingError(
                f"wanted a folder without checkpoints, got {self.out}, where a training was begun: "
                "give resume=True to go on with it, or another folder"
            )
        tree = load_checkpoint(self.folder) if resume else None
        if tree is not None:
            _check_alike(json.loads(tree["fingerprint"]), json.loads(json.dumps(fingerprint)))
        self.world.barrier()  # nobody writes before everybody has read
        if self.world.rank == 0:
            self._clear()
            self.log = Log(self.out / "metrics.jsonl", keep=0 if tree is None else tree["lines"])
        self.saved = time.perf_counter()
        return tree

    def _clear(self) -> None:
        """Remove what killed writes left behind; checkpoints see to their own."""
        for name in ("metrics.jsonl", "checkpoints/best.safetensors"):
            for path in cast(Path, self.out).glob(f"{name}.*.partial"):
                path.unlink()

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line to the log."""
        if self.log is not None:
            self.log.write(line)

    def is_due(self, step: int) -> bool:
        """Whether it is time for a checkpoint after this step; all processes agree."""
        if self.out is None:
            return False
        late = time.perf_counter() - self.saved >= self.every
        if self.world.size == 1:
            return late
        if step % _TOGETHER:
            return False
        return bool(self.world.total(torch.tensor(float(late and self.world.rank == 0))).item())

    def save(self, step: int, tree: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
        """Save a checkpoint: a tree, after so many steps over all phases."""
        if self.folder is not None and self.world.rank == 0:
            lines = 0 if self.log is None else self.log.lines
            own = {"fingerprint": json.dumps(fingerprint), "lines": lines}
            save_checkpoint(self.folder, step, {**tree, **own})
        self.saved = time.perf_counter()


class Best:
    """The best weights of a phase: in a file of the run, or in memory where it has no folder."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.value: float | None = None
        self.since = 0  # epochs since the value was last exceeded
        self.weights: dict[str, Tensor] = {}

    def take_in(self, value: float, tensors: Mapping[str, Tensor]) -> bool:
        """Note an epoch's figure, and keep its weights where no figure was better before."""
        better = self.value is None or value > self.value
        self.since = 0 if better else self.since + 1
        if not better and value != self.value:
            return False
        self.value = value
        keeper = self.keeper
        if keeper.folder is None:
            self.weights = {n: t.detach().to("cpu", copy=True) for n, t in tensors.items()}
        elif keeper.world.rank == 0:
            save_tensors(keeper.folder / "best.safetensors", tensors)
        return True

    @torch.no_grad()
    def settle(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the best weights into the model."""
        if self.value is None:
            return
        keeper = self.keeper
        if keeper.folder is not None and keeper.world.rank == 0:
            self.weights = load_tensors(keeper.folder / "best.safetensors")
        for name, value in self.weights.items():
            tensors[name].copy_(value)
        keeper.world.broadcast(tensors.values())

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint needs; the weights have a file of their own."""
        return {"value": self.value, "since": self.since}

    def load(self, plain: Mapping[str, Any]) -> None:
        """Go on from what `to_dict` gave."""
        self.value, self.since = plain["value"], plain["since"]


def open_folder(out: str | Path | None, resume: bool) -> Path | None:
    """The run's folder, made where it is not there.

    Raises:
        ValidationError: if it cannot be made, or there is none to resume from.
    """
    if out is None:
        if resume:
            raise ValidationError("wanted out, the folder of the run, beside resume=True; got None")
        return None
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValidationError(f"wanted out as a folder, got {out}: {error.strerror}") from error
    return Path(out)


def _check_alike(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    one, two = dict(_flat(there)), dict(_flat(here))
    unlike = [n for n in {**one, **two} if one.get(n, _ABSENT) != two.get(n, _ABSENT)]
    if unlike:
        shown = [f"{n} was {_show(one, n)} and is {_show(two, n)}" for n in unlike[:4]]
        more = f", and {len(unlike) - 4} more" if len(unlike) > 4 else ""
        raise TrainingError(
            "wanted the training that the checkpoint is of, to resume it; got another one: "
            f"{'; '.join(shown)}{more}"
        )


def _show(flat: Mapping[str, Any], name: str) -> str:
    return repr(flat[name]) if name in flat else "absent"


def _flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, part in tree.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list) and any(isinstance(part, Mapping) for part in tree):
        for number, part in enumerate(tree):
            yield from _flat(part, f"{name}.{number}")
    else:
        yield name, tree
