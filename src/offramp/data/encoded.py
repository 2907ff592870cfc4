"""Images as they lie on a disk: compressed, and decoded when asked for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import DataError, extra
from .preprocess import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
Advance = Callable[[int], None]

_CHUNK = 256  # images read at a time
_MANY = 2000  # images that take long enough for a progress bar


class Encoded(Protocol):
    """Compressed images by row number."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """The files' contents.

        Raises:
            DataError: if one cannot be read; it is named.
        """
        ...

    def name(self, row: int) -> str:
        """What to call an image in a message."""
        ...


class Paths:
    """Image files.

    Args:
        paths: where they lie.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """The files' contents.

        Raises:
            DataError: if one cannot be read; it is named.
        """
        return [read_file(self.paths[row]) for row in rows]

    def name(self, row: int) -> str:
        """The path."""
        return self.paths[row]


def read_file(path: str | Path) -> bytes:
    """The content of a file.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the image {path}: {error.strerror}") from error


def decode(encoded: Encoded, row: int, preprocess: Preprocess) -> Tensor:  # uint8 [C, H, W]
    """One image, in the size and channels that `preprocess` wants.

    Raises:
        DataError: if it is missing or damaged; it is named.
    """
    return _decoded(encoded.read([row])[0], lambda: encoded.name(row), preprocess)


def decode_all(
    encoded: Encoded, rows: Tensor, preprocess: Preprocess, advance: Advance = lambda num: None
) -> Tensor:  # uint8 [n, C, H, W]
    """Many images, one after another: threads gained nothing, the small ones are mostly Python.

    Args:
        encoded: the images.
        rows: which of them, [n].
        preprocess: what they become.
        advance: told how many more are done.

    Raises:
        DataError: if one is missing or damaged; it is named.
    """
    out = torch.empty((len(rows), *preprocess.shape), dtype=torch.uint8)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK].tolist()
        for i, (row, content) in enumerate(zip(chunk, encoded.read(chunk), strict=True)):
            out[start + i] = _decoded(content, lambda r=row: encoded.name(r), preprocess)
        advance(len(chunk))
    return out


def opened(content: bytes, name: Callable[[], str], use: Callable[[Image], T]) -> T:
    """What ``use`` makes of an image.

    Args:
        content: of its file.
        name: what to call it in a message.
        use: told the decoded image.

    Raises:
        DataError: if it is damaged, or of no use; it is named.
    """
    with extra("data"):
        from PIL import Image
    try:
        image = Image.open(io.BytesIO(content), formats=_formats(content))
        image.load()
        return use(image)
    except DataError as error:
        raise DataError(f"{name()}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise whatever the decoder stumbles over
        raise DataError(f"cannot decode the image {name()}: {_line(error)}") from error


@contextmanager
def progress(total: int) -> Iterator[Advance]:
    """Show a bar on standard error while many images are decoded, if someone watches."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    console = Console(stderr=True)
    columns = (TextColumn("decoding images"), BarColumn(), MofNCompleteColumn(), Left())
    hidden = total < _MANY or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("decoding", total=total)
        yield lambda num: bar.advance(task, num)


def _decoded(content: bytes, name: Callable[[], str], preprocess: Preprocess) -> Tensor:
    return opened(content, name, preprocess.pixels)


def _formats(content: bytes) -> list[str] | None:
    """The format, where the first bytes say so: trying all takes longer than decoding it may."""
    if content.startswith(b"\x89PNG\r\n"):
        return ["PNG"]
    return ["WEBP"] if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "no known image format" if text.startswith("cannot identify image file") else text
