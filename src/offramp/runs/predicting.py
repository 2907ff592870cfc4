"""Answers for image files from a bundle, as early as its policy allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..bundle import Bundle
from ..data.preprocess import Preprocess
from ..errors import DataError, RunError, extra
from ..policies import ExitPolicy
from ..runtime.adaptive import run

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Answer(NamedTuple):
    """What a bundle says about one file."""

    file: str
    label: str
    probability: float  # of the label, as the exit that answered has it
    exit: int


def predict(
    bundle: Bundle, files: Sequence[str | Path], *, point: str | None = None, batch_size: int = 32
) -> Iterator[Answer]:
    """Answer for image files, in their order.

    All files are looked at before the first answer, so that one that cannot be read is found before
    anything is said.

    Args:
        bundle: with a policy and the preprocessing of its data.
        files: image files, and folders, whose image files are taken in the order of their names.
        point: operating point of the policy; by default the one it is set to.
        batch_size: images that run together.

    Raises:
        RunError: if the bundle has no policy or does not know how its inputs are made.
        DataError: if a file is not there or is no image.
        UnknownNameError: if there is no such operating point.
    """
    if bundle.policy is None:
        raise RunError("wanted a bundle with a fitted policy, got one without: offramp fit RUN")
    if bundle.preprocess is None:
        raise RunError("wanted a bundle that says how images are prepared, got one without")
    if point is not None:
        bundle.policy.use(point)
    found = _expand(files)
    for file in found:
        _open(file).close()
    return _answers(bundle, bundle.policy, bundle.preprocess, found, batch_size)


def _answers(
    bundle: Bundle, policy: ExitPolicy, prepare: Preprocess, files: Sequence[Path], batch_size: int
) -> Iterator[Answer]:
    for start in range(0, len(files), batch_size):
        chunk = files[start : start + batch_size]
        inputs = torch.stack([_read(prepare, file) for file in chunk])
        prediction = run(bundle.model, policy, inputs)
        shares, labels = prediction.logits.softmax(1).max(1)
        for file, share, label, left in zip(
            chunk, shares.tolist(), labels.tolist(), prediction.exits.tolist(), strict=True
        ):
            name = bundle.class_names[label] if bundle.class_names else str(label)
            yield Answer(str(file), name, share, left)


def _expand(files: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, files):
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        if path.is_dir() and not inside:
            raise DataError(f"wanted a folder with images, got {path}, which has none")
        found += inside if path.is_dir() else [path]
    if not found:
        raise DataError("wanted at least one image file, got none")
    return found


def _open(file: Path) -> Image.Image:
    with extra("data"):
        from PIL import Image, UnidentifiedImageError
    try:
        return Image.open(file)
    except FileNotFoundError:
        raise DataError(f"wanted an image file, got {file}, which does not exist") from None
    except (UnidentifiedImageError, OSError):
        raise DataError(f"wanted an image file, got {file}, which is none") from None


def _read(prepare: Preprocess, file: Path) -> Tensor:
    with _open(file) as image:
        try:
            return prepare(image)
        except OSError as error:
            raise DataError(f"wanted a whole image file, got {file}: {error}") from None
