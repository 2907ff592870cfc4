"""HTML made of elements: text is escaped unless it is markup already, so none can break out."""

from __future__ import annotations

import html
import re


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: object) -> Markup:
    """Write one element; children that are no `Markup` are escaped, and so are attribute values.

    Attributes that are None or False are left out, True is written as the bare name. Underscores
    become hyphens, one at the end is dropped.

    Example:
        >>> element("p", "1 < 2", class_="note")
        '<p class="note">1 &lt; 2</p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Put pieces one after another, escaping those that are no `Markup`."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    )


def escape(text: str) -> Markup:
    """Escape text for HTML, and `clean` it."""
    return Markup(html.escape(clean(text)))


def clean(text: str) -> str:
    """Replace the characters that a page cannot hold, or that reorder the text after them."""
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", text)


_VOID = frozenset({"br", "img", "input", "link", "meta"})
# controls, half pairs (which UTF-8 cannot write), and marks that reorder the text after them
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{escape(text)}"'
