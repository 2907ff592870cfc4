import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import offramp
from offramp.config import load_config
from offramp.runs.profiling import profile

Command = Callable[..., Any]


def test_profile_counts_what_measure_counts() -> None:
    model = offramp.create_model("resnet_cifar", **load_config("digits").model.options)
    wanted = offramp.measure(model, torch.zeros(1, 1, 8, 8), latency=False)
    found = profile("digits", shape="1,8,8", batch_sizes=[2], repeats=2)
    assert (found.model, found.shape) == ("resnet_cifar", (1, 8, 8))
    [costs] = found.costs
    assert costs.macs.tolist() == wanted.macs.tolist()
    assert costs.params is not None and wanted.params is not None
    assert costs.params.tolist() == wanted.params.tolist()
    assert (costs.batch_size, costs.full["macs"]) == (2, wanted.full["macs"])
    assert costs.latency_ms is not None and bool((costs.latency_ms > 0).all())
    assert costs.full["latency_ms"] > 0 and found.full_spread_ms[0] >= 0


def test_profile_takes_the_shape_of_the_data() -> None:
    found = profile("digits", ["model.at=[layer1]"], batch_sizes=[1], repeats=1)
    assert found.shape == (1, 8, 8)
    assert found.costs[0].num_exits == 2


def test_profile_takes_classes_of_a_few_images(tmp_path: Path) -> None:
    for name in ("bus", "tram"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (9, 9)).save(tmp_path / name / f"{number}.png")
    changes = [f"data.path={tmp_path}", "data.image_size=16"]
    found = profile("folder", changes, batch_sizes=[1], repeats=1)
    assert found.shape == (3, 16, 16)


def test_profile_fetches_no_weights() -> None:
    found = profile(
        "resnet50_folder", ["model.network=resnet18"], shape="3x64x64", batch_sizes=[1], repeats=1
    )
    assert found.costs[0].num_exits == 4


def test_profile_of_a_run_and_of_its_bundle_agree(trained: Path) -> None:
    run = profile(trained, batch_sizes=[1], repeats=1).to_dict()
    bundle = profile(trained / "bundle", shape="1,8,8", batch_sizes=[1], repeats=1).to_dict()
    assert run["relative"] == bundle["relative"]
    assert (run["shape"], bundle["shape"]) == ([1, 8, 8], [1, 8, 8])


def test_profile_json_is_one_document(command: Command) -> None:
    words = ["--shape", "1,8,8", "--batch-size", "1", "--batch-size", "3", "--repeats", "2"]
    said = command("profile", "digits", *words, "--json")
    assert (said.code, said.err) == (0, "")
    told = json.loads(said.out)
    assert [costs["batch_size"] for costs in told["costs"]] == [1, 3]
    assert len(told["relative"]) == 4
    assert all(len(costs["latency_ms"]) == len(costs["spread_ms"]) == 4 for costs in told["costs"])


def test_profile_table_has_a_row_per_exit_and_the_full_network(command: Command) -> None:
    said = command("profile", "digits", "--shape", "1,8,8", "--batch-size", "1", "--repeats", "2")
    assert said.code == 0
    rows = [line.split() for line in said.out.splitlines() if line.strip()]
    assert [row[0] for row in rows if row[0].isdigit()] == ["0", "1", "2", "3"]
    full = next(row for row in rows if row[:2] == ["full", "network"])
    assert full[2:6] == ["1.63", "M", "172", "k"] and "±" in full


RECIPE = """\
data: {name: digits}
model: {name: resnet_cifar, depth: 8, in_channels: 1, at: [conv1], head: conv}
train: {epochs: 1}
"""


def test_profile_shows_heads_beside_their_segments_and_names_the_dear_ones(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "dear.yaml").write_text(RECIPE)
    words = ["--shape", "1,8,8", "--batch-size", "1", "--repeats", "1"]
    said = command("profile", str(tmp_path / "dear.yaml"), *words)
    assert (said.code, said.err) == (0, "")
    # one convolution of 3 x 3 to 16 channels on 8 x 8; two of stride 2, and 10 classes
    segment, head = 64 * 9 * 16, 16 * 9 * 16 * 16 + 4 * 9 * 16 * 16 + 160
    rows = [line.split() for line in said.out.splitlines() if line.startswith(" exit ")]
    assert [row[:2] for row in rows[-2:]] == [["exit", "0"], ["exit", "1"]]
    assert rows[-2][2:] == ["9.22", "k", "46.2", "k", "502", "%"]
    wanted = f"the head of exit 0 takes {head / 1e3:.3g} k multiply-accumulates, 502 % of its"
    # whole, however narrow what reads it is
    assert any(line.startswith(wanted) for line in said.out.splitlines())
    assert (segment, head) == (9216, 46240)
    told = json.loads(command("profile", str(tmp_path / "dear.yaml"), *words, "--json").out)
    assert told["pieces"]["segments"][0] == segment and told["pieces"]["heads"][0] == head


MAPS = """\
data: {name: camvid, path: nowhere}
model: {name: small_fcn, num_exits: 2, width: 8, blocks: 1}
train: {epochs: 1}
"""


def test_profile_without_data_says_for_how_many_classes_it_is(
    command: Command, tmp_path: Path
) -> None:
    """The heads of maps cost by the class, and only the data know how many there are."""
    (tmp_path / "maps.yaml").write_text(MAPS)
    words = [str(tmp_path / "maps.yaml"), "--shape", "3,16,24", "--batch-size", "1", "--repeats"]
    assert "small_fcn, 11 classes, 3 x 16 x 24, cpu" in command("profile", *words, "1").out
    few, many = (
        json.loads(command("profile", *words, "1", f"model.num_classes={num}", "--json").out)
        for num in (3, 103)
    )
    assert (few["num_classes"], many["num_classes"]) == (3, 103)
    # on a quarter of 16 x 24 from 8 channels, and once more from their mean
    assert many["pieces"]["heads"][0] - few["pieces"]["heads"][0] == 100 * (4 * 6 * 8 + 8)
    assert many["pieces"]["segments"] == few["pieces"]["segments"]


@pytest.mark.parametrize("shape", ["", "0,8,8", "1,-8,8", "1;8;8", "1,8,99999999"])
def test_profile_refuses_what_is_no_shape(shape: str, command: Command) -> None:
    said = command("profile", "digits", "--shape", shape)
    assert (said.code, said.out) == (2, "")
    assert "wanted the shape of one input" in said.err
