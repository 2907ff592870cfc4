"""Real inputs, grouped by the exit they leave at, from easy to hard."""

from __future__ import annotations

from collections.abc import Sequence

from .looks import Looks, exit_swatch, letter
from .markup import Markup, element
from .study import Curve, Gallery, Point, Study
from .words import class_name, middle

RIGHT, WRONG = "\N{CHECK MARK}", "\N{BALLOT X}"


def gallery(studies: Sequence[Study], looks: Looks) -> Markup:
    """Pictures of the test part at the slider's budget; each is in the page once."""
    parts = [
        _pictures(number, study, study.gallery, looks)
        for number, study in enumerate(studies)
        if study.gallery
    ]
    if not parts:
        return Markup("")
    note = (
        "A sample of the test part, drawn so that every exit has some at the middle budget of the "
        "first policy: how many there are is no exit rate. What leaves early is what the network "
        f"finds easy. {RIGHT} is a right answer, {WRONG} and a dashed frame a wrong one; the first "
        "word is what the picture shows."
    )
    return element(
        "section", element("h2", "From easy to hard"), element("p", note, class_="note"), *parts
    )


def exits_at(pictures: Gallery, curve: Curve, point: Point) -> list[int] | None:
    """Exit of every picture, [n]; None where the pictures' run has no such point."""
    return pictures.exits.get(curve.policy, {}).get(point.key)


def _pictures(number: int, study: Study, pictures: Gallery, looks: Looks) -> Markup:
    at, exits = _at_first(study, pictures)
    groups = [_group(k, study, pictures, exits) for k in range(study.num_exits)]
    seed = f" Pictures of seed {pictures.seed}." if len(study.seeds) > 1 else ""
    name = element("h3", f"{letter(number)}: {study.name}") if looks.several else ""
    shown = element("p", element("span", at, data_at=True), seed, class_="note")
    return element("div", name, shown, *groups, class_="of-study pictures", data_study=number)


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
    here = [i for i, exit in enumerate(exits) if exit == k]
    figures = [_figure(i, k, study, pictures) for i in here]
    title = element(
        "h4",
        exit_swatch(k, study.num_exits),
        f"exit {k} ",
        element("span", f"{len(here)} of {len(exits)}", class_="share"),
    )
    return element("div", title, element("div", *figures, class_="grid"), data_exit=k)


def _figure(i: int, k: int, study: Study, pictures: Gallery) -> Markup:
    samples = pictures.samples
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
