"""Real inputs, grouped by the exit they leave at, from easy to hard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .looks import Looks, exit_swatch, letter
from .markup import Markup, element
from .points import Curve, Figures, Point
from .study import Gallery, Study
from .words import class_name, middle

if TYPE_CHECKING:
    from .schema import LabelSamples, MapSamples

RIGHT, WRONG = "\N{CHECK MARK}", "\N{BALLOT X}"
_SHOWN = 40  # classes that a legend lists openly

_DRAWN = (
    "A sample of the test part, drawn so that every exit has some at the middle budget of the "
    "first policy: how many there are is no exit rate. What leaves early is what the network finds "
    "easy. "
)
_LABELS = (
    "Pictures of one class stand together; how many there are does not say how common it is. "
    f"{RIGHT} is a right answer, {WRONG} and a dashed frame a wrong one; the first "
    "word is what the picture shows."
)
_MAPS = "Of each: the image, its target, and the answer of the exit at which it leaves."


def gallery(studies: Sequence[Study], looks: Looks) -> Markup:
    """Pictures of the test part at the slider's budget; each is in the page once."""
    parts = [
        _pictures(number, study, study.gallery, looks)
        for number, study in enumerate(studies)
        if study.gallery
    ]
    if not parts:
        return Markup("")
    note = _DRAWN + (_MAPS if studies[0].task == "map" else _LABELS)
    return element(
        "section", element("h2", "From easy to hard"), element("p", note, class_="note"), *parts
    )


def exits_at(pictures: Gallery, curve: Curve, point: Figures) -> list[int] | None:
    """Exit of every picture, [n]; None where the pictures' run has no such point."""
    if not isinstance(point, Point):
        return pictures.rules.get(curve.policy)
    return pictures.exits.get(curve.policy, {}).get(point.key)


def in_order(pictures: Gallery) -> list[int]:
    """Numbers of the pictures: by class where they have one, so that these stand together."""
    samples = pictures.samples
    if samples.kind == "map":
        return list(range(len(samples.images)))
    return sorted(range(len(samples.labels)), key=lambda i: (samples.labels[i], i))


def _pictures(number: int, study: Study, pictures: Gallery, looks: Looks) -> Markup:
    at, exits = _at_first(study, pictures)
    groups = [_group(k, study, pictures, exits) for k in range(study.num_exits)]
    seed = f" Pictures of seed {pictures.seed}." if len(study.seeds) > 1 else ""
    name = element("h3", f"{letter(number)}: {study.name}") if looks.several else ""
    shown = element("p", element("span", at, data_at=True), seed, class_="note")
    maps = pictures.samples.kind == "map"
    legend = _legend(study, pictures.samples) if pictures.samples.kind == "map" else ""
    return element(
        "div",
        name,
        shown,
        legend,
        *groups,
        class_=f"of-study pictures{' maps' if maps else ''}",
        data_study=number,
    )


def _at_first(study: Study, pictures: Gallery) -> tuple[str, list[int]]:
    """Where the pictures leave at the middle budget of the first policy that has them."""
    for curve in [*study.policies, *study.curves]:
        exits = exits_at(pictures, curve, curve.points[middle(curve)])
        if exits is not None:
            budget = curve.points[middle(curve)].budget
            return f"{curve.policy}, budget {100 * budget:.4g}%.", exits
    last = study.num_exits - 1
    return f"All at exit {last}.", [last] * len(pictures.samples.images)


def _group(k: int, study: Study, pictures: Gallery, exits: Sequence[int]) -> Markup:
    here, samples = [i for i in in_order(pictures) if exits[i] == k], pictures.samples
    if samples.kind == "map":
        figures = [_mapped(i, k, samples) for i in here]
    else:
        figures = [_labelled(i, k, study, samples) for i in here]
    title = element(
        "h4",
        exit_swatch(k, study.num_exits),
        f"exit {k} ",
        element("span", f"{len(here)} of {len(exits)}", class_="share"),
    )
    return element("div", title, element("div", *figures, class_="grid"), data_exit=k)


def _labelled(i: int, k: int, study: Study, samples: LabelSamples) -> Markup:
    label, answer = samples.labels[i], samples.answers[k][i]
    shows, said = class_name(study, label), class_name(study, answer)
    right = None if label < 0 else label == answer
    verdict = said if right is None else f"{RIGHT} right" if right else f"{WRONG} {said}"
    return element(
        "figure",
        element("img", src=samples.images[i], alt=f"a picture of {shows}"),
        element("figcaption", element("b", shows, title=shows), element("span", verdict)),
        data_i=i,
        class_="unknown" if right is None else "right" if right else "wrong",
    )


# ------------------------------------------------------------------------ maps
def _mapped(i: int, k: int, samples: MapSamples) -> Markup:
    """Image, target, and the answers of all exits, of which one is shown."""
    answers = [
        element("img", src=answers[i], alt=f"answer of exit {a}", data_answer=a, hidden=a != k)
        for a, answers in enumerate(samples.answers)
    ]
    parts = {
        "image": [element("img", src=samples.images[i], alt="a picture of the test part")],
        "target": [element("img", src=samples.targets[i], alt="its target")],
        "answer": answers,
    }
    columns = [element("div", *shown, element("span", name)) for name, shown in parts.items()]
    return element("figure", *columns, data_i=i)


def _legend(study: Study, samples: MapSamples) -> Markup:
    """The colours of the classes, and what stands for no class."""
    items = list(_keys(study, samples))
    listed = element("ul", *items, class_="legend")
    if len(samples.colours) <= _SHOWN:
        return listed
    return element("details", element("summary", f"{len(samples.colours)} classes"), listed)


def _keys(study: Study, samples: MapSamples) -> Iterator[Markup]:
    for number, colour in enumerate(samples.colours):
        square = element("rect", x=1, y=1, width=12, height=12, fill=colour)
        drawn = element("svg", square, class_="square", viewBox="0 0 14 14", aria_hidden="true")
        yield element("li", drawn, class_name(study, number))
    yield element("li", element("span", class_="square no-class"), "does not count")
