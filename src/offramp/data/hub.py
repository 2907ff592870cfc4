"""Data sets of images from the Hugging Face hub, or from a local folder with the same columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import DataError, extra
from .base import Splits, register
from .encoded import read_file
from .parts import Draw, Labelled, Official, assemble
from .preprocess import IMAGENET_MEAN, IMAGENET_STD, Mode, Preprocess, frozen

_VALIDATION = ("validation", "valid", "val", "dev")
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w.-]+")


class Columns(NamedTuple):
    """Where images and labels stand; None: the only column of that type."""

    image: str | None = None
    label: str | None = None


@register("huggingface")
def huggingface(
    *,
    path: str | Path,
    image: str | None = None,
    label: str | None = None,
    subset: str | None = None,
    mode: Mode = "RGB",
    image_size: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    images_per_class: int | None = None,
    validation: float | None = None,
    calibration: float = 0.1,
    test: float = 0.15,
    in_memory: bool | None = None,
) -> Splits:
    """Any data set of the Hugging Face hub with a column of images and one of labels.

    Labels are numbered as the data set says, or by the alphabet where they are words. Splits named
    train, validation (or valid, val, dev) and test are used as `offramp.data.parts` says; labels
    of -1 are hidden ones. The middle of each image is cut out, after its shorter side has become
    8/7 of ``image_size``.

    Args:
        path: hub id, ``owner/name``, or a local folder that ``datasets.load_dataset`` reads.
        image: the column of images; by default the only one of that type.
        label: the column of labels; by default the only one of classes.
        subset: the configuration, where the data set has several.
        mode: ``RGB``, or ``L`` for gray.
        image_size: height and width of the inputs, in pixels.
        mean: for normalisation; by default ImageNet's, or their mean for gray.
        std: likewise.
        seed: of what is drawn.
        images_per_class: keep so many images of each class in train; see `offramp.data.parts.Draw`.
        validation: share of train; by default the official split, else a tenth.
        calibration: share of train.
        test: share of train, where no official split can be the test part.
        in_memory: hold decoded images in memory; by default where they take 2 GB at most.

    Raises:
        DataError: if the data set cannot be read, or lacks what is needed.
        MissingExtraError: if ``datasets`` or Pillow is not installed.
    """
    draw = Draw(seed, images_per_class, validation, calibration, test, in_memory)
    preprocess = cropped(image_size, mean, std, mode)
    found = load(path, None, subset=subset, columns="an image and a label")
    official, class_names = read(found, Columns(image, label))
    return assemble(official, class_names, preprocess, draw)


def cropped(
    image_size: int, mean: Sequence[float], std: Sequence[float], mode: Mode = "RGB"
) -> Preprocess:
    """Preprocessing of photographs: the middle, after the shorter side has become 8/7 as long.

    That is 256 and 224 pixels for ImageNet.

    Raises:
        DataError: if a value is not as `Preprocess` wants it.
    """
    check_size(image_size)
    mean, std = for_mode(mean, std, mode)
    return Preprocess((image_size, image_size), round(image_size * 8 / 7), mean, std, mode)


def for_mode(
    mean: Sequence[float], std: Sequence[float], mode: Mode
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as given; ImageNet's become their mean where images are gray."""
    given = frozen(mean), frozen(std)
    if mode == "L" and given == (IMAGENET_MEAN, IMAGENET_STD):
        return (sum(mean) / 3,), (sum(std) / 3,)
    return given


def check_size(image_size: int) -> None:
    """Raise what says that an image has at least one pixel.

    Raises:
        DataError: if it has not.
    """
    if not isinstance(image_size, int) or isinstance(image_size, bool) or image_size < 1:
        raise DataError(f"wanted image_size as a whole number of pixels from 1, got {image_size!r}")


# ------------------------------------------------------------------------ reading
def local_folder(path: str | Path) -> Path | None:
    """The folder that a path names; None where it can only be a hub id.

    Raises:
        DataError: if it is neither a folder nor fit to be a hub id.
    """
    if not isinstance(path, str | Path):
        raise DataError(f"wanted path as text, got {path!r}")
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(path, Path) or folder.exists() or not _HUB_ID.fullmatch(path):
        wanted = "a folder, or owner/name on the Hugging Face hub"
        raise DataError(f"wanted path as {wanted}, got {str(path)!r}: no such folder")
    return None


def load(
    path: str | Path | None, hub_id: str | None, *, subset: str | None = None, columns: str
) -> Mapping[str, Any]:
    """The splits of a data set, by name, as ``datasets.load_dataset`` gives them.

    Args:
        path: local folder or hub id; None: ``hub_id``.
        hub_id: where the data set is on the hub.
        subset: the configuration, where there are several; a local folder may hold it alone.
        columns: what a local folder must have, for the message.

    Raises:
        DataError: if the data set cannot be read.
    """
    with extra("data"):
        import datasets
    wanted = path if path is not None else hub_id
    if wanted is None:
        raise DataError(f"wanted path= as a folder with {columns}, or a hub id; got none")
    folder = local_folder(wanted)
    source = str(wanted) if folder is None else str(folder)
    try:
        with _quiet():
            if folder is not None and subset is not None:
                known = datasets.get_dataset_config_names(source)
                subset = subset if subset in known else None
            found = datasets.load_dataset(source, subset)
    except Exception as error:  # of a dozen kinds: network, gates, formats, disks
        said = " ".join(str(error).split())[:200]
        cause = f"{type(error).__name__}: {said}"
        if folder is not None:
            raise DataError(f"cannot read the folder {source} as a data set ({cause})") from error
        raise DataError(
            f"there is no folder {source!r}, and the Hugging Face hub does not give it ({cause}); "
            f"give path= a local folder with {columns}"
        ) from error
    return {str(name): table for name, table in found.items()}


def read(found: Mapping[str, Any], columns: Columns) -> tuple[Official, list[str]]:
    """The official splits with labels, and the names of the classes.

    Raises:
        DataError: if a column or the training split is missing, or labels are no labels.
    """
    train, validation, test = split_names(found)
    image, label = find_columns(found[train], columns)
    names = class_names(found[train], label)
    learn, *others = [
        None if name is None else _labelled(found[name], image, label, names, name)
        for name in (train, validation, test)
    ]
    if learn is None:
        raise DataError(f"wanted labels in the split {train!r}, got only hidden ones (-1)")
    return Official(learn, *others), names


def split_names(found: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """The names of the splits for training, validation and test; None where there is none.

    A single split is the one for training, whatever its name.

    Raises:
        DataError: if there are several, and none is named train.
    """
    train = next(iter(found)) if len(found) == 1 else "train"
    if train not in found:
        raise DataError(f"wanted a split named train, got {sorted(found)}")
    validation = next((name for name in _VALIDATION if name in found and name != train), None)
    return train, validation, "test" if "test" in found and train != "test" else None


def joined(found: Mapping[str, Any], more: str) -> Mapping[str, Any]:
    """The same splits, with another one appended to train.

    Raises:
        DataError: if there is no split of that name.
    """
    import datasets

    if more not in found or "train" not in found:
        raise DataError(f"wanted the splits train and {more}, got {sorted(found)}")
    return {**found, "train": datasets.concatenate_datasets([found["train"], found[more]])}


def find_columns(table: Any, columns: Columns) -> tuple[str, str]:
    """The names of the columns of images and of labels.

    Raises:
        DataError: if one is not there, or cannot be told from others.
    """
    import datasets

    def only(kind: str, named: str | None, types: tuple[type, ...]) -> str:
        if named is not None and named in table.features:
            return named
        found = [name for name, feature in table.features.items() if isinstance(feature, types)]
        if len(found) == 1 and named is None:
            return found[0]
        columns = list(table.features)
        if named is not None:
            raise DataError(f"wanted the column {named!r}, got the columns {columns}")
        raise DataError(
            f"wanted one column of {kind}s, got {found} among {columns}: name one by {kind}="
        )

    label = only("label", columns.label, (datasets.ClassLabel,))
    return only("image", columns.image, (datasets.Image,)), label


def class_names(table: Any, label: str) -> list[str]:
    """Names of the classes by number: the data set's own, sorted words, or the numbers.

    Raises:
        DataError: if the labels are neither numbers from 0 nor words.
    """
    names = getattr(table.features[label], "names", None)
    if names is not None:
        return list(names)
    values = _values(table, label)
    distinct = sorted(set(values))
    if all(isinstance(value, str) for value in distinct):
        return distinct
    return [str(number) for number in range(max(distinct) + 1)]


class Column:
    """Images in a column of a table of the ``datasets`` package.

    Args:
        table: a ``datasets.Dataset``.
        column: the name of the column.
        split: what to call the table in messages.

    Raises:
        DataError: if the column holds no images.
    """

    def __init__(self, table: Any, column: str, split: str) -> None:
        import datasets

        try:
            plain = table.select_columns([column])
            self.table = plain.cast_column(column, datasets.Image(decode=False))
        except Exception as error:  # pyarrow has many ways to say that it cannot
            raise DataError(
                f"wanted images in the column {column!r}, got {table.features[column]}"
            ) from error
        self.column, self.split = column, split

    def __len__(self) -> int:
        return len(self.table)

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """The images' compressed bytes.

        Raises:
            DataError: if one is missing; it is named.
        """
        cells = self.table[list(rows)][self.column]
        return [self._bytes(row, cell) for row, cell in zip(rows, cells, strict=True)]

    def name(self, row: int) -> str:
        """The row, and the file it was made from where that is known."""
        cell = self.table[row][self.column]
        file = f" ({cell['path']})" if cell and cell["path"] else ""
        return f"in row {row} of split {self.split!r}{file}"

    def _bytes(self, row: int, cell: Mapping[str, Any] | None) -> bytes:
        if cell and cell["bytes"] is not None:
            return cell["bytes"]
        if not cell or not cell["path"]:
            raise DataError(f"wanted an image in row {row} of split {self.split!r}, got none")
        return read_file(cell["path"])


def _labelled(
    table: Any, image: str, label: str, names: Sequence[str], split: str
) -> Labelled | None:
    """Images and class numbers of one split; None where labels are hidden."""
    missing = {image, label} - set(table.features)
    if missing == {label} and split != "train":
        return None
    if missing:
        raise DataError(
            f"wanted the columns {image!r} and {label!r} in the split {split!r}, "
            f"got {list(table.features)}"
        )
    values = _values(table, label)
    if values and isinstance(values[0], str):
        known = {name: number for number, name in enumerate(names)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise DataError(f"the split {split!r} has classes that train has not: {unknown[:5]}")
        values = [known[value] for value in values]
    targets = torch.tensor(values, dtype=torch.long)  # [N]
    if bool((targets == -1).all()):
        return None
    return Labelled(Column(table, image, split), targets)


def _values(table: Any, label: str) -> list[Any]:
    """The labels: whole numbers or words.

    Raises:
        DataError: if they are anything else.
    """
    values = table.select_columns([label]).with_format("arrow")[:][label].to_pylist()
    kinds = {type(value) for value in values}
    if kinds not in ({int}, {str}, {bool}) or (kinds == {int} and min(values) < -1):
        names = sorted(kind.__name__ for kind in kinds)
        raise DataError(
            f"wanted whole numbers from 0 or words in the column {label!r}, got {names}"
        )
    return [int(value) for value in values] if kinds == {bool} else values


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of ``datasets`` where no one watches; as before afterwards."""
    import sys

    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
