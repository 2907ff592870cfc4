"""Checkpoints: a tree of plain values and tensors in a folder, safetensors and JSON, no pickle.

A checkpoint is a folder ``step-000000012`` with ``state.safetensors`` and ``state.json``. It is
written under a name that ends in ``.partial``, brought to the disk, and then renamed, so it is
there whole or not at all, also after a power cut. Only the newest one is kept; a second one of the
same step is ``step-000000012.1``, so that no name ever changes its meaning under a reader.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import replacing, sync

FORMAT = "offramp-checkpoint"
VERSION = 1

_TENSORS, _STATE = "state.safetensors", "state.json"
_WHOLE = re.compile(r"step-(\d{9,})(?:\.(\d+))?")
_LEFT_OVER = re.compile(r"step-\d{9,}(\.\d+)?(\.old)?\.partial")
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by number of dimensions
_NOTHING: Mapping[str, str] = MappingProxyType({})


def save_checkpoint(folder: str | Path, step: int, tree: Any) -> Path:
    """Save a tree as the newest checkpoint of a folder, then remove older ones.

    Args:
        folder: where checkpoints lie; made where it is not there.
        step: how far training is; never less than that of the checkpoint that is there.
        tree: dicts (keys str or int), lists, tuples, None, bool, int, float, str and tensors. A
            tensor that is in it several times is saved once.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: if the tree holds something else, or the step is a lower one.

    Example:
        >>> save_checkpoint("run/checkpoints", 12, {"model": model.state_dict(), "epoch": 3}).name
        'step-000000012'
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    older = _whole(folder)
    lowest, again = _number(older[-1]) if older else (0, 0)
    if step < lowest:
        raise CheckpointError(f"wanted a step of at least {lowest} in {folder}, got {step}")
    _clear(folder)
    suffix = f".{again + 1}" if older and step == lowest else ""
    place = folder / f"step-{step:09d}{suffix}"
    partial = place.with_name(f"{place.name}.partial")
    try:
        _write(partial, step, tree)
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync(folder)
    for other in older:
        _remove(other)
    return place


def load_checkpoint(folder: str | Path) -> Any:
    """The tree of the newest complete checkpoint of a folder, or None where there is none.

    It comes back equal, tuples as tuples; tensors own their memory, lie on the CPU, in the memory
    format that they were in, and need no gradient.

    Raises:
        CheckpointError: if that checkpoint is damaged, or a newer offramp wrote it.
    """
    while found := _whole(Path(folder)):
        try:
            return _read(found[-1])
        except FileNotFoundError as error:
            if found[-1].exists():  # otherwise a writer has removed it for a newer one
                raise CheckpointError(f"{found[-1]} is damaged: {error}") from None
    return None


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = _NOTHING
) -> None:
    """Save tensors to one safetensors file, which is there whole or not at all.

    Tensors may share memory and need not be contiguous; each is written out on its own.

    Raises:
        CheckpointError: if a tensor is of a kind that safetensors does not know.
    """
    with replacing(path) as partial:
        _write_file(partial, _to_bytes(tensors, metadata))
    sync(Path(path).parent)


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Load the tensors of a safetensors file; they own their memory and lie on the CPU.

    Raises:
        CheckpointError: if there is no such file, or it is damaged.
    """
    try:
        return _from_bytes(Path(path).read_bytes(), Path(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


# ------------------------------------------------------------------------ folders
def _whole(folder: Path) -> list[Path]:
    """Complete checkpoints, newest last."""
    found = folder.glob("step-*")
    return sorted((path for path in found if _WHOLE.fullmatch(path.name)), key=_number)


def _number(place: Path) -> tuple[int, int]:
    """Its step, and which one of that step it is."""
    step, again = cast(Any, _WHOLE.fullmatch(place.name)).groups("0")
    return int(step), int(again)


def _clear(folder: Path) -> None:
    """Remove what killed writes left behind."""
    for path in folder.glob("step-*.partial"):
        if _LEFT_OVER.fullmatch(path.name):
            shutil.rmtree(path)


def _remove(place: Path) -> None:
    """Remove a checkpoint in one step: a reader sees the whole of it or nothing."""
    aside = place.rename(place.with_name(f"{place.name}.old.partial"))
    shutil.rmtree(aside)


# ------------------------------------------------------------------------ one checkpoint
def _write(place: Path, step: int, tree: Any) -> None:
    tensors: dict[str, Tensor] = {}
    encoded = _encode(tree, tensors, {}, "tree")
    data = _to_bytes(tensors)
    state: dict[str, Any] = {"format": FORMAT, "version": VERSION, "step": step}
    state["tensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    state["tree"] = encoded
    place.mkdir()
    _write_file(place / _TENSORS, data)
    _write_file(place / _STATE, _dump({**state, "sha256": _digest(state)}))
    sync(place)


def _read(place: Path) -> Any:
    text, data = (place / _STATE).read_bytes(), (place / _TENSORS).read_bytes()
    try:
        state = json.loads(text)
        own = state.pop("sha256")
        if state["format"] != FORMAT:
            raise ValueError(f"its format is {state['format']!r}, not {FORMAT!r}")
        version, wanted = state["version"], state["tensors"]["sha256"]
        came = _digest(state)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{place / _STATE} is damaged: {error!r}") from None
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"wanted version {VERSION} at most in {place / _STATE}, got {version!r}: install a "
            "newer offramp"
        )
    wrong = _STATE if came != own else _TENSORS
    if (came, hashlib.sha256(data).hexdigest()) != (own, wanted):
        raise CheckpointError(f"{place / wrong} is damaged: its SHA-256 is not that written down")
    tensors = _from_bytes(data, place / _TENSORS)
    try:
        return _decode(state["tree"], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{place / _STATE} is damaged: {error!r}") from None


def _dump(state: Mapping[str, Any]) -> bytes:
    return json.dumps(state, allow_nan=False, separators=(",", ":")).encode()


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(state)).hexdigest()


# ------------------------------------------------------------------------ trees
def _encode(tree: Any, tensors: dict[str, Tensor], seen: dict[Any, str], where: str) -> Any:
    """The tree as JSON; what JSON has no word for is ``{"$kind": ...}``. Fills ``tensors``."""

    def inner(part: Any, key: Any) -> Any:
        return _encode(part, tensors, seen, f"{where}[{key!r}]")

    if tree is None or isinstance(tree, bool | int | str):
        return tree
    if isinstance(tree, float):
        return float(tree) if math.isfinite(tree) else {"$float": repr(float(tree))}
    if isinstance(tree, Tensor):
        return _encode_tensor(tree, tensors, seen)
    if isinstance(tree, list | tuple):
        parts = [inner(part, number) for number, part in enumerate(tree)]
        return parts if isinstance(tree, list) else {"$tuple": parts}
    if isinstance(tree, Mapping):
        wrong = next((key for key in tree if type(key) not in (str, int)), None)
        if wrong is not None:
            raise CheckpointError(f"wanted keys that are str or int at {where}, got {wrong!r}")
        if all(isinstance(key, str) and not key.startswith("$") for key in tree):
            return {key: inner(part, key) for key, part in tree.items()}
        return {"$dict": [[key, inner(part, key)] for key, part in tree.items()]}
    raise CheckpointError(
        "wanted dicts, lists, tuples, None, bool, int, float, str and tensors in a checkpoint, got "
        f"{type(tree).__name__} at {where}"
    )


def _encode_tensor(tensor: Tensor, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    # the same memory seen in the same way; `tensors` keeps it alive, so the address stays taken
    same = (*_view(tensor), tensor.is_conj(), tensor.is_neg())
    name = seen.setdefault(same, str(len(seen)))
    tensors[name] = tensor
    layout = None if tensor.is_contiguous() else _LAYOUTS.get(tensor.dim())
    # arithmetic on another layout may differ in the last bit, and a resumed run is to be the same
    if layout is not None and tensor.is_contiguous(memory_format=layout):
        return {"$tensor": name, "channels_last": True}
    return {"$tensor": name}


def _view(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise CheckpointError(f"wanted dense tensors, got one of layout {tensor.layout}")
    address = (tensor.device, tensor.data_ptr() or id(tensor))
    return *address, tensor.dtype, tuple(tensor.shape), tensor.stride()


def _decode(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_decode(part, tensors) for part in plain]
    if not isinstance(plain, dict):
        return plain
    match plain:
        case {"$tensor": str(name)}:
            tensor = tensors[name]
            layout = _LAYOUTS[tensor.dim()] if plain.get("channels_last") else None
            return tensor if layout is None else tensor.contiguous(memory_format=layout)
        case {"$float": str(text)}:
            return float(text)
        case {"$tuple": list(parts)}:
            return tuple(_decode(part, tensors) for part in parts)
        case {"$dict": list(items)}:
            return {key: _decode(part, tensors) for key, part in items}
    return {key: _decode(part, tensors) for key, part in plain.items()}


# ------------------------------------------------------------------------ files
def _to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = _NOTHING) -> bytes:
    from safetensors import SafetensorError
    from safetensors.torch import save

    try:
        return save(_apart(tensors), dict(metadata) or None)
    except (SafetensorError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"wanted tensors that safetensors knows: {error!r}") from None


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, no two of which share memory."""
    taken: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        address = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if address in taken else plain
        taken.add(address)
    return apart


def _from_bytes(data: bytes, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    # from the bytes, not mapped from the file: a mapped tensor changes when the file does
    try:
        return load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from None


def _write_file(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
