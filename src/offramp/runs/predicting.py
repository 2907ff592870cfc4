"""Answers for image files from a bundle, as early as its policy allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from ..bundle import Bundle
from ..data.encoded import Paths, decode
from ..data.folder import image_files
from ..data.preprocess import Preprocess
from ..errors import DataError, RunError, extra
from ..policies import ExitPolicy
from ..runtime.adaptive import run


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

    The heads of all files are read before the first answer, so that what is no image is found
    before anything is said.

    Args:
        bundle: with a policy and the preprocessing of its data.
        files: image files, and folders, whose image files at any depth are taken in the order of
            their names, less hidden ones.
        point: operating point of the policy, such as a budget; by default the one it is set to.
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
        bundle.policy.use(_named(point, bundle.policy))
    images = Paths(_expand(files))
    for file in images.paths:
        _check(file)
    return _answers(bundle, bundle.policy, bundle.preprocess, images, batch_size)


def _named(point: str, policy: ExitPolicy) -> str:
    """The operating point of that name, or of that number: 0.50 is 0.5."""
    with suppress(ValueError):
        return next((name for name in policy.points if float(name) == float(point)), point)
    return point


def _answers(
    bundle: Bundle, policy: ExitPolicy, prepare: Preprocess, images: Paths, batch_size: int
) -> Iterator[Answer]:
    names = list(bundle.class_names or [])
    for start in range(0, len(images), batch_size):
        rows = range(len(images))[start : start + batch_size]
        inputs = prepare.normalise(torch.stack([decode(images, row, prepare) for row in rows]))
        prediction = run(bundle.model, policy, inputs)
        shares, labels = prediction.logits.softmax(1).max(1)
        for row, share, label, left in zip(
            rows, shares.tolist(), labels.tolist(), prediction.exits.tolist(), strict=True
        ):
            name = names[label] if label < len(names) else str(label)  # a model may have more
            yield Answer(images.name(row), name, share, left)


def _expand(files: Sequence[str | Path]) -> list[str]:
    found: list[str] = []
    for path in map(Path, files):
        inside = image_files(path) if path.is_dir() else [str(path)]
        if not inside:
            raise DataError(f"wanted a folder with images, got {path}, which has none")
        found += inside
    if not found:
        raise DataError("wanted at least one image file, got none")
    return found


def _check(file: str) -> None:
    """Look at the head of an image file."""
    with extra("data"):
        from PIL import Image
    try:
        Image.open(file).close()
    except FileNotFoundError:
        raise DataError(f"wanted an image file, got {file}, which does not exist") from None
    except Exception:  # damaged files raise whatever the decoder stumbles over
        raise DataError(f"wanted an image file, got {file}, which is none") from None
