"""The tensors of a bundle: under which names, each once, and files checked before they are read.

A cut network's tensors have the network's own names, so that ``network.load_state_dict`` of
whoever has no offramp can read them; the heads' stand beside them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BundleError
from ..model import MultiExitModel
from .document import Plain, short

Table = dict[str, tuple[str, tuple[int, ...]]]  # name -> dtype and shape

HEADS = ("heads.", "exit_heads.")  # the second, where a network has names like the first of its own

_MOST_HEADER = 16 * 2**20  # bytes
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


# --------------------------------------------------------------------------- names
class Named:
    """The tensors of a model under the names of the file, each once.

    Args:
        model: what `MultiExitModel.state_dict` holds is taken.

    Raises:
        BundleError: if it holds something else than tensors with values.
    """

    def __init__(self, model: MultiExitModel) -> None:
        state: dict[str, Any] = model.state_dict()
        inner = "network." if model.network is not None else ""
        own = [n.removeprefix(inner) for n in state if not n.startswith("heads.")]
        self.heads = next((h for h in HEADS if not any(n.startswith(h) for n in own)), HEADS[-1])
        if any(name.startswith(self.heads) for name in own):
            raise BundleError(f"wanted a network without names that begin with {HEADS}, got both")
        self.names: dict[str, str] = {}  # the model's -> the file's; of shared ones the first
        self.tensors: dict[str, Tensor] = {}
        seen: dict[Any, str] = {}
        for name, value in state.items():
            _check_value(name, value)
            begins = name.startswith("heads.")
            stored = (
                self.heads + name.removeprefix("heads.") if begins else name.removeprefix(inner)
            )
            # heads stand apart: one that was tied to another is made untied again
            one = stored if begins else seen.setdefault(_identity(value, name), stored)
            self.names[name] = one
            self.tensors.setdefault(one, value)

    def load(self, model: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Set the model's tensors to those of a file, which has been compared with them."""
        model.load_state_dict({name: values[stored] for name, stored in self.names.items()})


def table_of(tensors: Mapping[str, Tensor]) -> Table:
    """Dtypes and shapes of tensors."""
    return {name: (DTYPES[t.dtype], tuple(t.shape)) for name, t in tensors.items()}


def fingerprint(table: Table) -> str:
    """SHA-256 of the names, dtypes and shapes of a network and its heads."""
    rows = (f"{n} {dtype} {list(shape)}" for n, (dtype, shape) in sorted(table.items()))
    text = "\n".join(rows)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def network_table(network: nn.Module) -> Table:
    """Dtypes and shapes of a network by its own names, shared ones once."""
    seen: dict[Any, str] = {}
    made: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        _check_value(name, value)
        made.setdefault(seen.setdefault(_identity(value, name), name), value)
    return table_of(made)


def check_same(wanted: Table, came: Table, what: str) -> None:
    """Check that two tables are one.

    Raises:
        BundleError: if not; the message has the first names and shapes that differ.
    """
    differing = [n for n in wanted if n in came and wanted[n] != came[n]]
    parts = []
    if differing:
        name = differing[0]
        parts.append(f"wanted {name} as {_told(wanted[name])}, got {_told(came[name])}")
    for some, others, word in ((wanted, came, "missing"), (came, wanted, "unknown")):
        names = [n for n in some if n not in others]
        if names:
            shown = short(", ".join(names[:3]), 120)
            parts.append(f"{len(names)} tensors are {word}, as {shown}")
    if parts:
        raise BundleError(f"{what} does not fit this bundle: {'; '.join(parts)}")


def _told(entry: tuple[str, tuple[int, ...]]) -> str:
    return f"{entry[0]} {entry[1]}"


def _check_value(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise BundleError(f"wanted tensors of numbers, got {type(value).__name__} as {name!r}")
    if value.is_meta or value.layout != torch.strided or value.dtype not in DTYPES:
        place = " on the meta device" if value.is_meta else ""
        layout = "" if value.layout == torch.strided else f", {value.layout}"
        raise BundleError(
            f"wanted tensors of numbers, got {value.dtype}{layout}{place} as {name!r}"
        )


def _identity(value: Tensor, name: str) -> Any:
    """What two names of one tensor have in common."""
    if not value.numel():
        return name
    return value.data_ptr(), value.device, value.dtype, tuple(value.shape), value.stride()


# --------------------------------------------------------------------------- files
def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors as safetensors.

    Raises:
        BundleError: if one has a layout that safetensors does not hold.
    """
    from safetensors.torch import save

    try:
        plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        places = Counter(t.untyped_storage().data_ptr() for t in plain.values())
        # two tensors in one storage would be refused
        own = {
            n: t if _is_whole(t) and places[t.untyped_storage().data_ptr()] == 1 else t.clone()
            for n, t in plain.items()
        }
        # save_file lets nobody else read what it writes
        file.write_bytes(save(own, {"format": "pt"}))
    except (ValueError, RuntimeError) as error:
        raise BundleError(f"the tensors cannot be saved: {short(error)}") from error


def _is_whole(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def entry_of(file: Path) -> Plain:
    """What the document says of a file: bytes and SHA-256."""
    return {"bytes": file.stat().st_size, "sha256": _sha256(file)}


def check_file(file: Path, entry: Any) -> Table:
    """Check a file of tensors against its entry in the document; dtypes and shapes of what it has.

    Raises:
        BundleError: if it is not the file that was saved.
    """
    from safetensors import SafetensorError

    try:
        return _checked(file, entry)
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise BundleError(f"{file} is damaged: {short(error)}") from error


def _checked(file: Path, entry: Any) -> Table:
    from safetensors import safe_open

    if not isinstance(entry, dict) or entry.keys() != {"bytes", "sha256"}:
        raise BundleError(f"wanted bytes and sha256 of {file.name} in the document, got neither")
    came = file.stat().st_size
    if came != entry["bytes"]:
        raise BundleError(f"wanted {file} with {entry['bytes']} bytes, got {came}")
    with file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if header > min(came, _MOST_HEADER):
        raise BundleError(f"{file} is damaged: wanted a header within the file, got {header} bytes")
    with safe_open(file, framework="pt") as stored:
        slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
        table = {n: (str(s.get_dtype()), tuple(s.get_shape())) for n, s in slices.items()}
    if _sha256(file) != entry["sha256"]:
        raise BundleError(f"{file} is damaged: its checksum is not the one of the document")
    return table


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a file that has been checked.

    Raises:
        BundleError: if it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise BundleError(f"{file} cannot be read: {short(error)}") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
