"""Recording: every exit of a model over a data set, kept in memory or in a folder of shards.

A folder of records holds ``shard-00000.safetensors``, ... and ``index.json``, which names the
shards and is written last: without it, or with a shard that is not as it says, nothing is read.
Maps of logits have the head's own resolution, maps of targets that of the data and 16 bits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from .costs import device_of
from .data.batches import Data, Source, open_data
from .errors import RecordsError, ValidationError
from .files import replacing, write_text
from .model import MultiExitModel
from .modes import keep_modes
from .trees import map_tensors, move, tensors
from .types import ExitOutput, Records, Shard, class_numbers

FORMAT = "offramp-records"
VERSION = 1

_INDEX = "index.json"
_OURS = re.compile(r"(shard-(\d{5,})\.safetensors|index\.json)(\.[0-9a-f]{32}\.partial)?")
_MARK = {"format": FORMAT}  # in every shard, so that one without an index can be told from others
_SHARD_BYTES = 64 * 2**20  # what a shard takes where no number of rows is asked for


def record(
    model: MultiExitModel,
    data: Data,
    *,
    path: str | Path | None = None,
    batch_size: int = 256,
    shard_rows: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Records:
    """Run all exits of a model over a data set and keep what they say.

    The model runs in evaluation mode without gradients; afterwards every module is in the mode it
    was in. Logits and gates are kept in float32, rows in the order in which the data come.

    Args:
        model: the model, on the device where it is to run.
        data: a data set of ``(input, target)``, a loader of ``(inputs, target)`` batches, or a pair
            of tensors in memory (inputs may be any pytree, such as input_ids and attention_mask).
        path: folder to write to; the records returned are then memory-mapped from it, and need not
            fit into memory. A folder that holds records is replaced, in one step and only once
            the new ones are complete; any other folder that is not empty is refused.
        batch_size: rows per batch, where ``data`` is no loader.
        shard_rows: rows per shard; by default as many as take 64 MiB.
        device: where the inputs go and the model is moved to; by default where the model is.
        progress: show a bar with rows per second, on a terminal.

    Raises:
        ValidationError: if a number of rows is below 1.
        DataError: if ``data`` are none of these, are empty or do not fit together.
        RecordsError: if targets do not fit the logits, or the folder is
            refused.

    Example:
        >>> records = record(model, (images, labels))
        >>> len(records), records.num_exits
        (1797, 3)
    """
    _check_rows(batch_size=batch_size, shard_rows=shard_rows)
    target = None if path is None else _target(path)
    if device is not None:
        model.to(device)
    source = open_data(data, batch_size)
    with keep_modes(model, model.segments), _bar(source.rows, progress) as advance:
        shards = _regroup(_run(model.eval(), source, advance), shard_rows)
        if target is None:
            return Records(list(shards))
        _write(shards, target)
    return load_records(target)


def save_records(records: Records, path: str | Path, *, shard_rows: int | None = None) -> Records:
    """Write records to a folder and return them memory-mapped.

    Args:
        records: any records, one shard of them in memory at a time.
        path: as for `record`.
        shard_rows: as for `record`.

    Raises:
        ValidationError: if a number of rows is below 1.
        RecordsError: if the folder is refused.
    """
    _check_rows(shard_rows=shard_rows)
    target = _target(path)
    _write(_regroup(records, shard_rows), target)
    return load_records(target)


def load_records(path: str | Path) -> Records:
    """Memory-map the records of a folder: a shard is opened when it is used, and never read whole.

    Raises:
        RecordsError: if there are no complete records, or a newer offramp wrote them.
    """
    return Records(StoredShards(Path(path)))


class StoredShards(Sequence[Shard]):
    """The shards of a folder of records; each access maps one shard's file.

    Args:
        folder: a folder that `record` or `save_records` wrote.

    Raises:
        RecordsError: if there are no complete records, or a newer offramp wrote them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = _read_index(folder)
        try:
            self._exits = [(tuple(e["shape"]), bool(e["gate"])) for e in index["exits"]]
            self._target_shape = tuple(index["target_shape"])
            self._files = [folder / shard["file"] for shard in index["shards"]]
            self.lengths = [int(shard["rows"]) for shard in index["shards"]]
            sizes = [int(shard["bytes"]) for shard in index["shards"]]
        except (KeyError, TypeError, ValueError) as error:
            raise RecordsError(f"{folder / _INDEX} is damaged: {error!r}") from None
        for file, size in zip(self._files, sizes, strict=True):
            came = file.stat().st_size if file.is_file() else None
            if came != size:
                found = "no such file" if came is None else f"{came} bytes"
                raise RecordsError(f"wanted {file} with {size} bytes, got {found}")

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Shard]: ...
    def __getitem__(self, index: int | slice) -> Shard | Sequence[Shard]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._open(self._files[index], self.lengths[index])

    def _open(self, file: Path, rows: int) -> Shard:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="pt") as stored:
                outputs = [
                    ExitOutput(
                        stored.get_tensor(f"logits.{k}"),
                        stored.get_tensor(f"gate.{k}") if gated else None,
                    )
                    for k, (_, gated) in enumerate(self._exits)
                ]
                shard = Shard(outputs, stored.get_tensor("targets").long())
        except (SafetensorError, OSError) as error:
            raise RecordsError(f"{file} cannot be read: {error}") from error
        shapes = [out.logits.shape for out in outputs], shard.targets.shape
        wanted = [(rows, *shape) for shape, _ in self._exits], (rows, *self._target_shape)
        if shapes != wanted:
            raise RecordsError(f"wanted tensors {wanted} in {file}, got {shapes}")
        return shard


# ------------------------------------------------------------------------ running
def _check_rows(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValidationError(f"wanted {name} of at least 1, got {value}")


@torch.no_grad()  # in inference mode a model could cache tensors that fail it in training
def _run(model: MultiExitModel, source: Source, advance: Any) -> Iterator[Shard]:
    device = device_of(model)
    for rows in source.batches(None):
        outputs = model(move(rows.inputs, device))
        kept = [map_tensors(lambda t: t.to("cpu", torch.float32), out) for out in outputs]
        yield Shard(kept, class_numbers(torch.as_tensor(rows.target)).cpu())
        advance(len(rows.target))


@contextmanager
def _bar(total: int | None, shown: bool) -> Iterator[Any]:
    """Show a progress bar on standard error; yields a function that advances it by some rows."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    rows = TextColumn("{task.completed:.0f} rows, {task.fields[speed]:.0f} rows/s")
    columns = (TextColumn("recording"), BarColumn(), rows, TimeRemainingColumn())
    hidden = not (shown and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("recording", total=total, speed=0.0)

        def advance(num: int) -> None:
            bar.advance(task, num)
            bar.update(task, speed=bar.tasks[0].speed or 0.0)

        yield advance


# ------------------------------------------------------------------------ shards
def _regroup(pieces: Iterable[Shard], rows: int | None) -> Iterator[Shard]:
    """Give the same rows in shards of so many rows; the last one has what is left."""
    held: list[Shard] = []
    count = 0
    for piece in pieces:
        size = sum(tensor.nbytes for tensor in tensors(piece))
        rows = rows or max(1, _SHARD_BYTES * piece.num_rows // max(1, size))
        start = 0
        while start < piece.num_rows:
            stop = min(start + rows - count, piece.num_rows)
            held.append(map_tensors(lambda t, a=start, b=stop: t[a:b], piece))
            count, start = count + stop - start, stop
            if count == rows:
                yield _join(held)
                held, count = [], 0
    if held:
        yield _join(held)


def _join(shards: list[Shard]) -> Shard:
    """Join shards into one, of copies, so that no tensor keeps a whole batch alive."""
    named = [_named(shard) for shard in shards]
    shapes = [{name: tuple(t.shape[1:]) for name, t in part.items()} for part in named]
    for other in shapes:
        if other != shapes[0]:
            raise RecordsError(f"wanted batches of one shape per row, {shapes[0]}, got {other}")
    joined = {name: torch.cat([part[name] for part in named]) for name in named[0]}
    exits = range(len(shards[0].outputs))
    outputs = [ExitOutput(joined[f"logits.{k}"], joined.get(f"gate.{k}")) for k in exits]
    return Shard(outputs, joined["targets"])


def _named(shard: Shard) -> dict[str, Tensor]:
    named = {"targets": shard.targets}
    for k, out in enumerate(shard.outputs):
        named[f"logits.{k}"] = out.logits
        if out.gate is not None:
            named[f"gate.{k}"] = out.gate
    return named


# ------------------------------------------------------------------------ folders
def _target(path: str | Path) -> Path:
    """Give the folder to write to, if nothing but records of ours would be replaced."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise RecordsError(f"wanted a folder to write records to, got the file {folder}")
    names = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    foreign = [name for name in names if not _OURS.fullmatch(name)]
    if foreign:
        raise RecordsError(
            f"wanted an empty folder, or one of records only; {folder} has {foreign[:3]}"
        )
    if _INDEX in names:
        _read_index(folder)  # refuses an index that is not ours
        return folder
    unmarked = [name for name in names if not (name.endswith(".partial") or _marked(folder / name))]
    if unmarked:
        raise RecordsError(
            f"wanted an empty folder, or one of records only; {folder} has no {_INDEX}, and "
            f"{unmarked[:3]}, which offramp did not write"
        )
    return folder


def _marked(file: Path) -> bool:
    """Whether a shard is one of ours: without an index, what an interrupted write left."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            return (stored.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def _write(shards: Iterable[Shard], folder: Path) -> None:
    """Write shards beside those of older records, then an index that names them, then tidy up."""
    folder.mkdir(parents=True, exist_ok=True)
    older = list(folder.iterdir())
    numbers = [int(m[2]) for m in map(_OURS.fullmatch, (p.name for p in older)) if m and m[2]]
    written: list[Path] = []
    rows: list[int] = []
    index: dict[str, Any] = {}
    text = None
    try:
        for number, shard in enumerate(shards, max(numbers, default=-1) + 1):
            described = _describe(Records([shard]))
            index = index or described
            if described != index:
                raise RecordsError(f"wanted shards alike, {index}, got {described}")
            written.append(folder / f"shard-{number:05d}.safetensors")
            _save(shard, written[-1])
            rows.append(shard.num_rows)
        if not written:
            raise RecordsError("wanted at least one row to record, got none")
        entries = [
            {"file": file.name, "rows": num, "bytes": file.stat().st_size}
            for file, num in zip(written, rows, strict=True)
        ]
        index = {**index, "num_rows": sum(rows), "shards": entries}
        text = json.dumps(index, indent=1) + "\n"
        write_text(folder / _INDEX, text)
    except BaseException:
        if not _says(folder / _INDEX, text):  # it can come when the new index is in place already
            _remove(written)  # the records that were there stay
        raise
    _remove(file for file in older if file.name != _INDEX)


def _save(shard: Shard, file: Path) -> None:
    from safetensors.torch import save

    with replacing(file) as partial:
        narrow = shard._replace(targets=_narrow(shard.targets))
        named = {name: tensor.contiguous() for name, tensor in _named(narrow).items()}
        partial.write_bytes(save(named, _MARK))  # save_file lets nobody else read what it writes


def _narrow(targets: Tensor) -> Tensor:
    """Maps of class numbers in 16 bits where they fit: they are the larger part of the file."""
    short = torch.iinfo(torch.int16)
    fits = targets.dim() > 1 and short.min <= int(targets.min()) and int(targets.max()) <= short.max
    return targets.short() if fits else targets


def _says(file: Path, text: str | None) -> bool:
    return text is not None and file.is_file() and file.read_text(encoding="utf-8") == text


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _describe(records: Records) -> dict[str, Any]:
    shard = records.shards[0]
    exits = [{"shape": list(o.logits.shape[1:]), "gate": o.gate is not None} for o in shard.outputs]
    numbers = {"num_exits": records.num_exits, "num_classes": records.num_classes}
    shapes = {"exits": exits, "target_shape": list(shard.targets.shape[1:])}
    return {"format": FORMAT, "version": VERSION, **numbers, **shapes}


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / _INDEX
    if not file.is_file():
        raise RecordsError(
            f"wanted a folder with complete records, got {folder}, which has no {_INDEX}"
        )
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordsError(f"{file} is damaged: {error}") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise RecordsError(f"wanted an index of {FORMAT} in {file}, got another format")
    version = index.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise RecordsError(
            f"wanted version {VERSION} at most in {file}, got {version!r}: install a newer offramp"
        )
    return index
