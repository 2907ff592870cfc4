"""The report: one HTML page of several runs, which needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ..errors import ReportError
from ..files import write_text
from . import alone, beside, sections
from .compare import Comparison, side_by_side
from .examine import examined
from .gallery import exits_at, gallery
from .looks import Looks
from .markup import Markup, clean, element, escape, join
from .method import method
from .points import Curve, Figures, Point
from .study import Study, gather
from .sweeps import sweeps
from .words import class_name, middle, readout, shares


def write(
    runs: Sequence[str | Path | Mapping[str, Any]],
    out: str | Path | None = None,
    *,
    title: str | None = None,
    labels: Sequence[str | None] | None = None,
    baseline: str | None = None,
) -> Path:
    """Write one self-contained HTML page from the results of runs.

    Runs of one name and objective that differ in their seed are one study: its figures are means
    with their range. Others are other studies, side by side: of one task, on the same data, with
    the same number of exits. The page makes no request, works offline, and can be read without its
    script.

    Args:
        runs: folders of runs, folders of studies (``seed-*`` in them), ``results.json`` files, or
            what such a file holds.
        out: the page. Default: ``report.html`` in the folder of the run or study where there is
            just one, in the current folder otherwise.
        title: heading of the page; by default the names of the studies.
        labels: a name for each of the runs, None where it names itself; runs of one label are one
            study.
        baseline: name of the study that the others are held against; by default the first.

    Returns:
        The path that was written.

    Raises:
        ReportError: if results are missing or do not hold what they must, runs of one study are
            not alike, studies are not comparable, no study has the baseline's name, or there is no
            place to write to.

    Example:
        >>> report.write(["runs/digits"])
        PosixPath('runs/digits/report.html')
    """
    from .schema import read_runs  # pydantic is slow to import

    studies = gather(read_runs(runs, labels))
    path = _place(runs, out)
    write_text(path, build(studies, title=title, baseline=baseline))
    return path


def build(
    studies: Sequence[Study], *, title: str | None = None, baseline: str | None = None
) -> str:
    """Make the page as text."""
    heading = title or _heading(studies)
    compared = side_by_side(studies, baseline)
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("page.html")).substitute(
        title=escape(heading),
        policy=policy,
        style=style,
        script=script,
        body=_body(studies, compared, heading),
        data=_embedded(_data(studies)),
    )


def _heading(studies: Sequence[Study]) -> str:
    """The names of studies, in front of them that of their recipe where they share one."""
    shared = {study.recipe for study in studies} == {studies[0].recipe}
    recipe = f"{studies[0].recipe}: " if shared and len(studies) > 1 else ""
    few = len(studies) <= 3
    names = " \N{MIDDLE DOT} ".join(study.name for study in studies)
    return f"{recipe}{names if few else f'{len(studies)} studies'}"


def _body(studies: Sequence[Study], compared: Comparison, heading: str) -> Markup:
    looks = Looks(studies)
    several = looks.several
    kind = (
        "Early-exit report" if len(studies) == 1 else f"Early-exit report, {len(studies)} studies"
    )
    return join(
        element("header", element("p", kind, class_="kind"), element("h1", heading)),
        element(
            "main",
            beside.side_by_side(compared, looks) if several else "",
            beside.routes(studies, looks) if several else "",
            sections.summary(studies, looks),
            sections.controls(studies, looks),
            sections.reading(studies),
            beside.trade(studies, looks) if several else alone.trade(studies[0], looks),
            sections.exits(studies, looks),
            sweeps(studies, looks),
            examined(studies, looks),
            sections.calibration(studies, looks),
            gallery(studies, looks),
            sections.timings(studies, looks),
            "" if several else beside.routes(studies, looks),
            method(studies),
        ),
    )


def _data(studies: Sequence[Study]) -> dict[str, Any]:
    """What the script needs: texts are made here, so that they are worded in one place."""
    return {"studies": [_study_data(study) for study in studies]}


def _study_data(study: Study) -> dict[str, Any]:
    known, samples = {}, study.gallery.samples if study.gallery else None
    if samples and samples.kind == "label":
        numbers = {*samples.labels, *(a for row in samples.answers for a in row)}
        known = {
            "labels": samples.labels,
            "answers": samples.answers,
            "classes": {n: clean(class_name(study, n)) for n in sorted(numbers)},
        }
    return {
        "name": study.name,
        "curves": [_curve_data(study, curve) for curve in study.curves],
        **known,
    }


def _curve_data(study: Study, curve: Curve) -> dict[str, Any]:
    return {
        "policy": curve.policy,
        "control": curve.control,
        "middle": middle(curve),
        "points": [_point_data(study, curve, point) for point in curve.all_points],
    }


def _point_data(study: Study, curve: Curve, point: Figures) -> dict[str, Any]:
    errors = {}
    if point.rate_errors is not None:
        errors = {"errors": [round(error, 5) for error in point.rate_errors]}
    return {
        "budget": point.budget if isinstance(point, Point) else None,
        "rates": [round(rate, 5) for rate in point.rates],
        **errors,
        "shares": shares(point),
        "text": readout(study, curve, point),
        "exits": exits_at(study.gallery, curve, point) if study.gallery else None,
    }


def _embedded(data: Any) -> str:
    """JSON that no text in it can leave: a script element ends at the first `</script`."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return (files(__package__ or "offramp.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Name the content for the security policy, so that only this script and style count."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _place(runs: Sequence[str | Path | Mapping[str, Any]], out: str | Path | None) -> Path:
    if out is not None:
        path = Path(out)
        if path.is_dir():
            raise ReportError(f"wanted a file to write the page to, got the folder {path}")
        return path
    if len(runs) != 1:
        return Path("report.html")
    if isinstance(runs[0], Mapping):
        raise ReportError("wanted out, the page to write, as a mapping has no folder; got None")
    given = Path(runs[0])
    return (given.parent if given.is_file() else given) / "report.html"
