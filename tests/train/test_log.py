"""The log of a run holds each line once, however often training was killed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from offramp.errors import TrainingError
from offramp.train.log import Log


def test_lines_are_json_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    log = Log(path, keep=0)
    assert (log.lines, path.read_text()) == (0, "")
    log.write({"kind": "epoch", "loss": 0.1, "per_exit": [1, 2.5], "name": "ä\n"})
    assert len(path.read_text().splitlines()) == 1  # at once, not when it is closed
    log.write({"nested": {"a": (1, None, True)}})
    assert log.lines == 2
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"kind": "epoch", "loss": 0.1, "per_exit": [1, 2.5], "name": "ä\n"},
        {"nested": {"a": [1, None, True]}},
    ]


def test_numbers_not_finite_become_null(tmp_path: Path) -> None:
    log = Log(tmp_path / "m.jsonl", keep=0)
    log.write({"a": math.nan, "b": [math.inf, (-math.inf, 1.0)], "c": {"d": math.nan}})
    text = (tmp_path / "m.jsonl").read_text()
    assert json.loads(text) == {"a": None, "b": [None, [None, 1.0]], "c": {"d": None}}
    assert "NaN" not in text


@pytest.mark.parametrize("torn", [b"", b'{"torn": 1', b'\n{"x'])
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_first_lines_are_kept_and_the_rest_is_written_anew(
    keep: int, torn: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "m.jsonl"
    log = Log(path, keep=0)
    for number in range(3):
        log.write({"old": number})
    path.write_bytes(path.read_bytes() + torn)
    log = Log(path, keep=keep)
    assert log.lines == keep
    log.write({"new": keep})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"old": n} for n in range(keep)] + [{"new": keep}]
    assert [file.name for file in tmp_path.iterdir()] == ["m.jsonl"]


def test_kept_lines_keep_their_bytes_and_an_exact_file_is_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{ "a":1 }\r\n{"b": "\xc3\xa4"}\n')
    before = path.stat().st_ino
    assert Log(path, keep=2).lines == 2
    assert path.stat().st_ino == before
    Log(path, keep=1)
    assert path.read_bytes() == b'{ "a":1 }\r\n'


@pytest.mark.parametrize("there", [None, b"", b"{}\n", b'{}\n{"unfinished'])
def test_fewer_lines_than_to_keep_are_told_and_stay(there: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    if there is not None:
        path.write_bytes(there)
    with pytest.raises(TrainingError, match="wanted at least 2 lines"):
        Log(path, keep=2)
    assert (path.read_bytes() if path.exists() else None) == there


def test_what_is_no_json_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    log = Log(tmp_path / "m.jsonl", keep=0)
    log.write({"a": 1})
    with pytest.raises(TypeError):
        log.write({"a": object()})
    assert log.lines == 1
    assert (tmp_path / "m.jsonl").read_text() == '{"a": 1}\n'
