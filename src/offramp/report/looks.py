"""Colours and shapes: no curve is told from another by its colour alone."""

from __future__ import annotations

from collections.abc import Sequence

from .markup import Markup, element
from .points import Curve, Figures, Spread
from .study import Study

DASHES = (None, "9 4", "3 3", "12 3 3 3")  # one per round of colours
CONTROL_DASHES = {"random": "2 4", "oracle": "8 4"}
SHAPES = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    "M-4.6,-4.6h9.2v9.2h-9.2z",
    "M0,-5.8L5.6,4.4H-5.6z",
    "M0,5.8L5.6,-4.4H-5.6z",
    "M0,-6.2L6.2,0L0,6.2L-6.2,0z",
    "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "M-6,-3L-3,-6L0,-3L3,-6L6,-3L3,0L6,3L3,6L0,3L-3,6L-6,3L-3,0z",
)
CONTROL_SHAPE = "M-2.6,0a2.6,2.6 0 1,0 5.2,0a2.6,2.6 0 1,0 -5.2,0z"
STAR = "M0,-9L2.3,-3.1L8.6,-2.8L3.7,1.2L5.3,7.3L0,3.8L-5.3,7.3L-3.7,1.2L-8.6,-2.8L-2.3,-3.1z"
CROSS = "M-7,-4L-4,-7L0,-3L4,-7L7,-4L3,0L7,4L4,7L0,3L-4,7L-7,4L-3,0z"
DIAMOND = "M0,-6.5L6.5,0L0,6.5L-6.5,0z"
RULE = (  # eight points, so that it is not the full network's star
    "M0,-11L2.1,-5.1L7.8,-7.8L5.1,-2.1L11,0L5.1,2.1L7.8,7.8L2.1,5.1"
    "L0,11L-2.1,5.1L-7.8,7.8L-5.1,2.1L-11,0L-5.1,-2.1L-7.8,-7.8L-2.1,-5.1z"
)

# From blue (easy, early) over grey to orange (hard, late): ordered for any colour vision.
_RAMP = ((27, 94, 158), (95, 162, 207), (201, 201, 201), (240, 179, 90), (217, 114, 15))


class Looks:
    """Which colour and shape each curve has, the same in every picture of a page.

    Curves of one study are told apart by policy, and those of several by study.
    """

    def __init__(self, studies: Sequence[Study]) -> None:
        names = dict.fromkeys(c.policy for study in studies for c in study.policies)
        self._numbers = {name: number for number, name in enumerate(names)}
        self.several = len(studies) > 1
        points = [p for study in studies for curve in study.curves for p in curve.all_points]
        self._by_miou = self.several and all(point.miou is not None for point in points)
        self.measure = studies[0].measure if self._by_miou and points else "accuracy"

    @property
    def sweep(self) -> str:
        """Class that gives the colour of a sweep over alpha: one that no policy has."""
        return f"c{len(self._numbers) % len(SHAPES)}"

    def value(self, point: Figures) -> Spread:
        """What charts of curves show: accuracy, or mIoU where several studies all have it."""
        return point.miou if self._by_miou and point.miou is not None else point.accuracy

    def colour(self, study: int, curve: Curve) -> str:
        """Class that gives the colour of a curve."""
        if self.several:
            return self.study(study)
        if curve.control:
            return "control"
        return f"c{self._numbers[curve.policy] % len(SHAPES)}"

    def shape(self, study: int, curve: Curve) -> str:
        """Outline of a curve's marks; after one round of colours the pairs differ."""
        if self.several:
            return self.study_shape(study)
        if curve.control:
            return CONTROL_SHAPE
        return _outline(self._numbers[curve.policy])

    def dashes(self, study: int, curve: Curve) -> str | None:
        """Dashes of a curve's line; controls have their own."""
        if self.several:
            return self.study_dashes(study)
        return CONTROL_DASHES.get(curve.policy, "1 4") if curve.control else None

    def study(self, number: int) -> str:
        """Class that gives the colour of one of several studies."""
        return f"c{number % len(SHAPES)}"

    def study_shape(self, number: int) -> str:
        """Outline of a study's marks."""
        return _outline(number)

    def study_dashes(self, number: int) -> str | None:
        """Dashes of a study's lines, which begin with the second round of colours."""
        return DASHES[number // len(SHAPES) % len(DASHES)]


def _outline(number: int) -> str:
    return SHAPES[(number + number // len(SHAPES)) % len(SHAPES)]


def letter(study: int) -> str:
    """Short name of a study in pictures: A, B, ... Z, A2, ..."""
    return chr(ord("A") + study % 26) + (str(study // 26 + 1) if study >= 26 else "")


def static_key(index: int) -> str:
    """Short name of a static baseline in pictures: a, b, ..."""
    return letter(index).lower()


def exit_colour(k: int, num_exits: int) -> str:
    """Fill of an exit's part in bars."""
    place = (len(_RAMP) - 1) * k / max(num_exits - 1, 1)
    low = min(int(place), len(_RAMP) - 2)
    mixed = [
        round(a + (b - a) * (place - low)) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True)
    ]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else "#fff"


def swatch(shape: str, class_: str, dashes: str | None = None, *, line: bool = True) -> Markup:
    """A piece of line with a mark on it, for a legend."""
    drawn = element("path", d="M1,9H33", class_="line", stroke_dasharray=dashes) if line else ""
    mark = element("path", d=shape, transform="translate(17,9)", class_="shape")
    return element(
        "svg", drawn, mark, class_=f"swatch {class_}", viewBox="0 0 34 18", aria_hidden="true"
    )


def exit_swatch(k: int, num_exits: int) -> Markup:
    """A filled square, for the legend of exits."""
    square = element("rect", x=1, y=1, width=12, height=12, fill=exit_colour(k, num_exits))
    return element("svg", square, class_="square", viewBox="0 0 14 14", aria_hidden="true")
