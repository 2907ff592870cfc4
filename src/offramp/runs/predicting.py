"""Answers for image files from a bundle, as early as its policy allows: labels, or maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..bundle import Bundle
from ..costs import device_of
from ..data.encoded import Paths, decode
from ..data.folder import image_files
from ..data.preprocess import Preprocess
from ..errors import DataError, RunError, extra
from ..files import replacing
from ..functional import nearest
from ..policies import ExitPolicy
from ..runtime.adaptive import run
from ..types import Prediction
from .colours import class_colours, picture, png_options

_PIXELS = 2**23  # of the images that run together, where nobody says how many


class Answer(NamedTuple):
    """What a bundle says about one file."""

    file: str
    label: str
    probability: float  # of the label, as the exit that answered has it
    exit: int


class MapAnswer(NamedTuple):
    """What a bundle says about the positions of one file."""

    file: str
    map: str  # the PNG file with the class numbers
    classes: dict[str, float]  # share of the positions of each class that is there, largest first
    exit: int


def predict(
    bundle: Bundle,
    files: Sequence[str | Path],
    *,
    point: str | None = None,
    batch_size: int | None = None,
) -> Iterator[Answer]:
    """Answer for image files, in their order.

    The heads of all files are read before the first answer, so that what is no image is found
    before anything is said.

    Args:
        bundle: with a policy and the preprocessing of its data.
        files: image files, and folders, whose image files at any depth are taken in the order of
            their names, less hidden ones.
        point: operating point of the policy, such as a budget; by default the one it is set to.
        batch_size: images that run together; by default 32, fewer where they are very large.

    Raises:
        RunError: if the bundle has no policy, does not know how its inputs are made, or answers
            with maps.
        DataError: if a file is not there or is no image.
        UnknownNameError: if there is no such operating point.
    """
    policy, prepare = _ready(bundle, point)
    if answers_maps(bundle):
        raise RunError(
            "wanted a folder for the answers of this bundle, which are maps: "
            "offramp predict BUNDLE FILES --out FOLDER"
        )
    images = Paths([file for file, _ in _expand(files)])
    for file in images.paths:
        _check(file)
    return _labels(bundle, policy, prepare, images, _rows(prepare, batch_size))


def predict_maps(
    bundle: Bundle,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    point: str | None = None,
    batch_size: int | None = None,
) -> Iterator[MapAnswer]:
    """Answer for image files with maps, in their order: a PNG of class numbers for each.

    A map has a palette of the classes' colours. It is made at the resolution that figures are taken
    at, by the nearest neighbour brought to the size of the image; where preprocessing cuts the
    middle out of an image, the map is of that and has its size.

    Args:
        bundle: as for `predict`.
        files: as for `predict`.
        out: folder for the maps; each has the name of its image, with the ending .png, at the
            place that it has in the folder that was given. What is there before is replaced.
        point: as for `predict`.
        batch_size: as for `predict`.

    Raises:
        RunError: if the bundle has no policy, does not know how its inputs are made, or answers
            with labels.
        DataError: if a file is not there or is no image, or two maps would have one name, or one
            that of an image.
        UnknownNameError: if there is no such operating point.
    """
    policy, prepare = _ready(bundle, point)
    if not answers_maps(bundle):
        raise RunError("wanted a bundle that answers with maps to write some, got one of labels")
    found = _expand(files)
    images, targets = Paths([file for file, _ in found]), _targets(found, Path(out))
    for file in images.paths:
        _check(file)
    return _maps(bundle, policy, prepare, images, targets=targets, rows=_rows(prepare, batch_size))


@torch.inference_mode()
def answers_maps(bundle: Bundle) -> bool:
    """Whether a bundle's answers are maps, seen on one blank image.

    Raises:
        RunError: if it does not know how its inputs are made.
    """
    model, shape = bundle.model, _prepare(bundle).shape
    _, output = model.step(0, torch.zeros(1, *shape, device=device_of(model)))
    return output.logits.dim() == 4


# ------------------------------------------------------------------------ answers
def _labels(
    bundle: Bundle, policy: ExitPolicy, prepare: Preprocess, images: Paths, size: int
) -> Iterator[Answer]:
    names = list(bundle.class_names or [])
    for rows in _batches(images, size):
        prediction = run(bundle.model, policy, _inputs(bundle, prepare, images, rows))
        shares, labels = prediction.logits.softmax(1).max(1)
        for row, share, label, left in zip(
            rows, shares.tolist(), labels.tolist(), prediction.exits.tolist(), strict=True
        ):
            name = names[label] if label < len(names) else str(label)  # a model may have more
            yield Answer(images.name(row), name, share, left)


def _maps(
    bundle: Bundle,
    policy: ExitPolicy,
    prepare: Preprocess,
    images: Paths,
    *,
    targets: Sequence[Path],
    rows: int,
) -> Iterator[MapAnswer]:
    known = list(bundle.class_names or [])
    for batch in _batches(images, rows):
        inputs = _inputs(bundle, prepare, images, batch)
        prediction = run(bundle.model, policy, inputs, size=prepare.size)
        names = [*known, *map(str, range(len(known), prediction.logits.shape[1]))]
        for row, classes, left in zip(batch, *_answered(prediction), strict=True):
            shown = nearest(classes[None], _shown_size(images.name(row), prepare))[0]
            made = picture(shown, class_colours(names))
            with replacing(targets[row]) as partial:
                made.save(partial, "PNG", **png_options(made))
            yield MapAnswer(images.name(row), str(targets[row]), _shares(classes, names), left)


def _answered(prediction: Prediction) -> tuple[Tensor, list[int]]:
    """Class numbers [n, H, W], and exits."""
    return prediction.logits.argmax(1).cpu(), prediction.exits.tolist()


def _shares(classes: Tensor, names: list[str]) -> dict[str, float]:
    """Share of the positions of each class that is there, the largest first."""
    counts = classes.flatten().bincount(minlength=len(names)).tolist()
    order = sorted(range(len(names)), key=lambda k: -counts[k])
    return {names[k]: counts[k] / classes.numel() for k in order if counts[k]}


def _shown_size(file: str, prepare: Preprocess) -> tuple[int, int]:
    """Height and width of the map of a file: its own, but where only a part of it was looked at."""
    if prepare.resize is not None:
        return prepare.size
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        turned = ImageOps.exif_transpose(image) if "exif" in image.info else image
        return turned.height, turned.width


# ------------------------------------------------------------------------ inputs
def _ready(bundle: Bundle, point: str | None) -> tuple[ExitPolicy, Preprocess]:
    """The policy, set to an operating point, and the preprocessing."""
    if bundle.policy is None:
        raise RunError("wanted a bundle with a fitted policy, got one without: offramp fit RUN")
    prepare = _prepare(bundle)
    if point is not None:
        bundle.policy.use(_named(point, bundle.policy))
    return bundle.policy, prepare


def _prepare(bundle: Bundle) -> Preprocess:
    if bundle.preprocess is None:
        raise RunError("wanted a bundle that says how images are prepared, got one without")
    return bundle.preprocess


def _named(point: str, policy: ExitPolicy) -> str:
    """The operating point of that name, or of that number: 0.50 is 0.5."""
    with suppress(ValueError):
        return next((name for name in policy.points if float(name) == float(point)), point)
    return point


def _rows(prepare: Preprocess, asked: int | None) -> int:
    """Images that run together."""
    height, width = prepare.size
    return max(1, min(32, _PIXELS // (height * width))) if asked is None else asked


def _batches(images: Paths, size: int) -> Iterator[range]:
    return (range(len(images))[start : start + size] for start in range(0, len(images), size))


def _inputs(bundle: Bundle, prepare: Preprocess, images: Paths, rows: range) -> Tensor:
    pixels = torch.stack([decode(images, row, prepare) for row in rows])
    return prepare.normalise(pixels).to(device_of(bundle.model))


def _expand(files: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """Image files, and the place of each in the folder that was given."""
    found: list[tuple[str, Path]] = []
    for path in map(Path, files):
        inside = image_files(path) if path.is_dir() else [str(path)]
        if not inside:
            raise DataError(f"wanted a folder with images, got {path}, which has none")
        base = path if path.is_dir() else path.parent
        found += [(file, Path(file).relative_to(base)) for file in inside]
    if not found:
        raise DataError("wanted at least one image file, got none")
    return found


def _targets(found: Sequence[tuple[str, Path]], out: Path) -> list[Path]:
    """Where the map of each image goes."""
    if out.exists() and not out.is_dir():
        raise DataError(f"wanted a folder for the maps, got the file {out}")
    images = {Path(file).resolve(): file for file, _ in found}
    taken: dict[Path, Path] = {}
    made = []
    for file, place in found:
        target, source = out / place.with_suffix(".png"), Path(file).resolve()
        if target.resolve() in images:
            raise DataError(f"wanted another folder for the maps: {target} is an image to answer")
        if taken.setdefault(target, source) != source:
            raise DataError(
                f"wanted images whose maps have names of their own, got {taken[target]} and "
                f"{source} for {target}"
            )
        made.append(target)
    return made


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
