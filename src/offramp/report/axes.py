"""Axes of a chart in SVG: from figures to places, with a grid and round numbers on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .markup import Markup, element, join

WIDE, NARROW = (960, 500), (380, 380)  # for a desktop, and for a phone


@dataclass(frozen=True)
class Axes:
    """A rectangle in a picture, and the range of figures on each side of it."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 56
    right: float = 16
    top: float = 14
    bottom: float = 46

    def x(self, value: float) -> float:
        """Place of a figure along the width."""
        low, high = self.x_range
        inner = self.width - self.left - self.right
        return round(self.left + inner * (value - low) / (high - low), 2)

    def y(self, value: float) -> float:
        """Place of a figure along the height; larger ones are higher up."""
        low, high = self.y_range
        inner = self.height - self.top - self.bottom
        return round(self.height - self.bottom - inner * (value - low) / (high - low), 2)

    def frame(self, x_label: str, y_label: str, *, most: int = 6) -> Markup:
        """Grid, ticks and labels; figures are shares and are written in percent."""
        foot, parts = self.height - self.bottom, []
        for value in ticks(*self.x_range, most):
            place = self.x(value)
            parts += [
                element("line", x1=place, x2=place, y1=self.top, y2=foot, class_="grid"),
                element("text", share_tick(value), x=place, y=foot + 17, text_anchor="middle"),
            ]
        parts += self.rows(most=most)
        return element("g", *parts, self.labels(x_label, y_label), aria_hidden="true")

    def rows(self, *, most: int = 6, text: Callable[[float], str] | None = None) -> list[str]:
        """The grid's lines across and their figures: as ``text`` has it, else in percent."""
        written = text or share_tick
        parts: list[str] = []
        for value in ticks(*self.y_range, most):
            place = self.y(value)
            parts += [
                element(
                    "line",
                    x1=self.left,
                    x2=self.width - self.right,
                    y1=place,
                    y2=place,
                    class_="grid",
                ),
                element("text", written(value), x=self.left - 7, y=place + 4, text_anchor="end"),
            ]
        return parts

    def labels(self, x_label: str, y_label: str) -> Markup:
        """What the axes measure."""
        middle = (self.top + self.height - self.bottom) / 2
        return join(
            element(
                "text",
                x_label,
                x=(self.left + self.width - self.right) / 2,
                y=self.height - 8,
                text_anchor="middle",
                class_="axis",
            ),
            element(
                "text",
                y_label,
                text_anchor="middle",
                class_="axis",
                transform=f"translate(14,{middle:g}) rotate(-90)",
            ),
        )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers in a range, at most so many."""
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10, 20) if size * m >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def padded(values: list[float], share: float = 0.06) -> tuple[float, float]:
    """Range of figures with some room on both sides, never empty."""
    low, high = min(values), max(values)
    room = max((high - low) * share, 0.004)
    return low - room, high + room


def picture(width: float, height: float, *children: str, label: str, class_: str) -> Markup:
    """A picture that scales with the page."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="group",
        aria_label=label,
        class_=class_,
    )


def share_tick(value: float) -> str:
    """Write a share on an axis, in percent."""
    return f"{100 * value:.6g}".replace("-", "\N{MINUS SIGN}")
