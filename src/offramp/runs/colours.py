"""Maps of class numbers as pictures: PNG files whose palette has a colour for every class."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import extra

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]

VOID = 255  # in a picture: where nothing counts; it is see-through

# what Cityscapes gives the classes of street scenes, and CamVid's names for the like
_KNOWN: dict[str, Colour] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "pavement": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "signsymbol": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "tree": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "pedestrian": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
    "bicyclist": (119, 11, 32),
}
_GOLDEN = 0.618034  # of the circle of hues: neighbours in number are far apart in hue


def class_colours(names: Sequence[str]) -> list[Colour]:
    """A colour for each class, red, green and blue in 0..255.

    Where all are names of street scenes they are those of Cityscapes, else they go round the hues.
    """
    known = [_KNOWN.get(name.lower()) for name in names]
    found = [colour for colour in known if colour is not None]
    if len(found) == len(names) == len(set(found)):
        return found
    return [_drawn(number) for number in range(len(names))]


def picture(classes: Tensor, colours: Sequence[Colour]) -> Image:
    """A map of class numbers as a picture whose pixels are these numbers, [H, W].

    Up to 255 classes it has a palette, and what is negative is see-through, number 255; with more
    it is gray in 16 bits, and what is negative is 65535.
    """
    with extra("data"):
        from PIL import Image
    if len(colours) > VOID:
        return Image.fromarray(classes.where(classes >= 0, 65535).numpy().astype("uint16"))
    made = Image.fromarray(classes.where(classes >= 0, VOID).byte().numpy())
    flat = [part for colour in colours for part in colour]
    made.putpalette(flat + [0] * (3 * (VOID + 1) - len(flat)))  # its mode is P then
    return made


def png_options(made: Image) -> dict[str, Any]:
    """What `picture` needs to be saved as a PNG file."""
    return {"optimize": True, **({"transparency": VOID} if made.mode == "P" else {})}


def hexadecimal(colour: Colour) -> str:
    """A colour as pages write it, such as ``#ff8000``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _drawn(number: int) -> Colour:
    lightness, saturation = (0.45, 0.62, 0.32)[number % 3], (0.75, 0.6)[number % 2]
    parts = colorsys.hls_to_rgb(number * _GOLDEN % 1, lightness, saturation)
    red, green, blue = (round(255 * part) for part in parts)
    return red, green, blue
