"""Recording a model, and records on disk."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from offramp import records as records_module
from offramp.errors import DataError, RecordsError, ValidationError
from offramp.heads import DenseHead, LinearHead
from offramp.model import MultiExitModel
from offramp.records import load_records, record, save_records
from offramp.types import ExitOutput, Records

NUM = 11


class Hidden(nn.Module):
    """A segment over a dictionary: masked mean of embedded tokens, or one more layer on it."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6) if first else None
        self.layer = nn.Linear(6, 6)

    def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.embed is not None:
            weight = state["attention_mask"].float().unsqueeze(2)
            hidden = (self.embed(state["input_ids"]) * weight).sum(1) / weight.sum(1)
        else:
            hidden = state["hidden"]
        return {"hidden": self.layer(hidden).tanh(), "attention_mask": state["attention_mask"]}


def label_model() -> MultiExitModel:
    segments = [nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    segments += [nn.Sequential(nn.Dropout(0.5), nn.Conv2d(8, 8, 3), nn.ReLU())]
    return MultiExitModel(segments, [LinearHead(8, 4, gate=True), LinearHead(8, 4)])


def map_model() -> MultiExitModel:
    segments = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Upsample(scale_factor=2)]
    return MultiExitModel(segments, [DenseHead(8, 4, gate=True), DenseHead(8, 4)])


def text_model() -> MultiExitModel:
    heads = [LinearHead(6, 3, reads="hidden"), LinearHead(6, 3, reads="hidden")]
    return MultiExitModel([Hidden(True), Hidden(False)], heads)


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(NUM, 3, 8, 8), torch.randint(4, (NUM,))


def maps() -> tuple[Tensor, Tensor]:
    return torch.randn(NUM, 3, 8, 8), torch.randint(-1, 4, (NUM, 16, 16))


def text() -> tuple[dict[str, Tensor], Tensor]:
    ids, mask = torch.randint(7, (NUM, 5)), torch.ones(NUM, 5, dtype=torch.long)
    mask[:, 3:] = torch.randint(2, (NUM, 2))
    return {"input_ids": ids, "attention_mask": mask}, torch.randint(3, (NUM,))


def row_by_row(model: MultiExitModel, inputs: object, num: int) -> list[list[ExitOutput]]:
    """The slow way: every input alone, in evaluation mode."""
    model.eval()
    rows = []
    with torch.no_grad():
        for i in range(num):
            one = (
                {name: value[i : i + 1] for name, value in inputs.items()}
                if isinstance(inputs, dict)
                else inputs[i : i + 1]
            )
            rows.append(model(one))
    return rows


def same(first: Records, second: Records) -> bool:
    """Whether all rows are bit for bit the same, however they are sharded."""
    gates = [[s.outputs[k].gate for s in r] for r in (first, second) for k in range(r.num_exits)]
    joined = [None if part[0] is None else torch.cat(part) for part in gates]
    half = len(joined) // 2
    return (
        torch.equal(first.targets, second.targets)
        and all(map(torch.equal, first.logits, second.logits))
        and all(
            (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
            for a, b in zip(joined[:half], joined[half:], strict=True)
        )
    )


def small_records(num: int = NUM) -> Records:
    return Records.from_arrays(
        torch.randn(3, num, 4), torch.randint(4, (num,)), [torch.randn(num), None, None]
    )


# ------------------------------------------------------------------------ record
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize(
    ("make", "data"),
    [(label_model, images), (map_model, maps), (text_model, text)],
    ids=["label", "map", "text"],
)
def test_record_equals_running_row_by_row(
    make: object, data: object, stored: bool, tmp_path: Path
) -> None:
    model, (inputs, targets) = make(), data()
    path = tmp_path / "records" if stored else None
    made = record(model, (inputs, targets), path=path, batch_size=3, shard_rows=4)
    wanted = row_by_row(model, inputs, NUM)
    assert made.lengths == [4, 4, 3]
    assert made.targets.tolist() == targets.tolist()
    row = 0
    for shard in made:
        for i in range(shard.num_rows):
            for k, out in enumerate(shard.outputs):
                alone = wanted[row][k]
                torch.testing.assert_close(out.logits[i : i + 1], alone.logits)
                assert (out.gate is None) == (alone.gate is None)
                if out.gate is not None:
                    torch.testing.assert_close(out.gate[i : i + 1], alone.gate)
            row += 1
    assert row == NUM


def test_record_takes_data_sets_loaders_and_tensors_alike() -> None:
    model, (inputs, targets) = label_model(), images()
    data = TensorDataset(inputs, targets)
    from_tensors = record(model, (inputs, targets), batch_size=4)
    assert same(record(model, data, batch_size=4), from_tensors)
    assert same(record(model, DataLoader(data, batch_size=4)), from_tensors)
    pairs = [(x, int(y)) for x, y in zip(inputs, targets, strict=True)]
    assert same(record(model, pairs, batch_size=4), from_tensors)


def test_record_takes_a_data_set_of_dictionaries() -> None:
    model, (inputs, targets) = text_model(), text()
    rows = [({n: v[i] for n, v in inputs.items()}, int(targets[i])) for i in range(NUM)]
    assert same(record(model, rows, batch_size=4), record(model, (inputs, targets), batch_size=4))


def test_record_keeps_the_order_in_which_a_loader_gives_rows() -> None:
    inputs, _ = images()
    order = [7, 2, 9, 0]
    data = TensorDataset(inputs, torch.arange(NUM) % 4)
    made = record(label_model(), DataLoader(data, batch_size=3, sampler=order))
    assert made.targets.tolist() == [i % 4 for i in order]


def test_record_does_not_depend_on_sharding_or_place(tmp_path: Path) -> None:
    model, data = label_model(), images()
    whole = record(model, data, batch_size=5)
    assert whole.lengths == [NUM]
    for rows in (1, 4, 5, 100):
        stored = record(model, data, batch_size=5, shard_rows=rows, path=tmp_path / str(rows))
        assert same(stored, whole)
        assert stored.lengths == [min(rows, NUM - at) for at in range(0, NUM, rows)]


def test_record_without_a_number_of_rows_fills_shards_by_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = 2 * 4 * 4 + 4 + 8  # bytes: logits of two exits, one gate, the target
    monkeypatch.setattr(records_module, "_SHARD_BYTES", 3 * row + row // 2)
    assert record(label_model(), images(), batch_size=5).lengths == [3, 3, 3, 2]


def test_record_is_float32_without_gradients_whatever_the_model() -> None:
    model = label_model().to(torch.bfloat16)
    inputs, targets = images()
    made = record(model, (inputs.bfloat16(), targets.int()))
    (shard,) = made
    assert {out.logits.dtype for out in shard.outputs} == {torch.float32}
    assert shard.outputs[0].gate is not None and shard.outputs[0].gate.dtype == torch.float32
    assert shard.targets.dtype == torch.int64
    # a learned policy trains on records, which tensors of inference mode would not allow
    weight = torch.ones(4, requires_grad=True)
    (shard.outputs[0].logits * weight).sum().backward()
    assert weight.grad is not None


class Caching(nn.Module):
    """Makes a table at its first run and keeps it, as position codes are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.table = nn.Parameter(torch.ones(1)), None

    def forward(self, state: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(8.0, device=state.device).cos()
        return state + self.table * self.scale


def test_a_model_can_be_trained_after_it_was_recorded() -> None:
    segment = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Caching())
    model, (inputs, targets) = MultiExitModel([segment], [LinearHead(8, 4)]), images()
    record(model, (inputs, targets))
    model(inputs)[0].logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


class Failing(nn.Module):
    def forward(self, state: Tensor) -> Tensor:
        raise RuntimeError("the third segment fails")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("views", [False, True])
def test_record_leaves_every_module_in_its_mode(fails: bool, views: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, 8, 3))
    segments = [network[:2], nn.Sequential(network[2:], Failing() if fails else nn.Identity())]
    heads = [LinearHead(8, 4), LinearHead(8, 4)]
    model = MultiExitModel(segments, heads, network=network if views else None)
    model.train()
    network[1].eval()  # a frozen batch norm, as in fine-tuning
    model.segments[1].training = False
    before = model.state_dict()
    every = [*model.modules(), *model.segments.modules()]
    modes = [module.training for module in every]
    assert True in modes and False in modes
    with pytest.raises(RuntimeError, match="third") if fails else contextlib.nullcontext():
        record(model, images())
    assert [module.training for module in every] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("wrapped", [False, True])
def test_record_leaves_the_global_random_state_alone(wrapped: bool) -> None:
    model, data = label_model(), images()
    before = torch.get_rng_state()
    record(model, TensorDataset(*data) if wrapped else data)
    assert torch.equal(before, torch.get_rng_state())


def test_record_runs_in_evaluation_mode() -> None:
    model, data = label_model().train(), images()
    assert same(record(model, data, batch_size=NUM), record(model, data, batch_size=NUM))
    assert model.training


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (42, {}, DataError, "wanted a pair .*got int"),
        ((torch.zeros(3, 3, 8, 8),), {}, DataError, r"wanted a pair .*got tuple"),
        ((torch.zeros(3, 3, 8, 8), torch.arange(2)), {}, DataError, "3 rows and targets"),
        ((torch.zeros(3, 3, 8, 8), torch.tensor([0, 1, 4])), {}, RecordsError, "below C=4, got 4"),
        ((torch.zeros(3, 3, 8, 8), torch.arange(3.0)), {}, RecordsError, "class numbers"),
        ((torch.zeros(0, 3, 8, 8), torch.zeros(0).long()), {}, DataError, "at least one"),
        ([torch.zeros(3, 8, 8)] * 3, {}, DataError, r"pairs \(input, target\), got Tensor"),
        ((torch.zeros(1, 3, 8, 8), [0]), {"batch_size": 0}, ValidationError, "batch_size of at"),
        ((torch.zeros(1, 3, 8, 8), [0]), {"shard_rows": -1}, ValidationError, "shard_rows of at"),
    ],
)
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "disk"])
def test_record_refuses_what_it_cannot_use(
    data: object, options: dict, error: type, message: str, stored: bool, tmp_path: Path
) -> None:
    path = tmp_path / "records" if stored else None
    with pytest.raises(error, match=message):
        record(label_model(), data, path=path, **options)
    assert not path or not path.exists() or not list(path.iterdir())


@pytest.mark.parametrize("shard_rows", [2, 3])
def test_record_refuses_batches_of_several_shapes(shard_rows: int, tmp_path: Path) -> None:
    batches = [(torch.zeros(2, 3, s, s), torch.zeros(2, s, s, dtype=torch.long)) for s in (8, 16)]
    loader = DataLoader(batches, batch_size=None)
    for path in (None, tmp_path / "records"):
        with pytest.raises(RecordsError, match=r"wanted (batches of one shape|shards alike)"):
            record(map_model(), loader, path=path, shard_rows=shard_rows)


# ------------------------------------------------------------------------ folders
def test_saved_records_come_back_bit_for_bit(tmp_path: Path) -> None:
    made = small_records()
    made.shards[0].outputs[0].logits[0, 0] = float("nan")
    made.shards[0].outputs[1].logits[0, 0] = float("-inf")
    save_records(made, tmp_path / "records", shard_rows=4)
    loaded = load_records(tmp_path / "records")
    assert (len(loaded), loaded.num_exits, loaded.num_classes) == (NUM, 3, 4)
    assert loaded.lengths == [4, 4, 3]
    assert loaded.targets.tolist() == made.targets.tolist()
    for came, wanted in zip(loaded.logits, made.logits, strict=True):
        assert came.numpy().tobytes() == wanted.numpy().tobytes()


def test_stored_records_of_maps_keep_each_exits_resolution(tmp_path: Path) -> None:
    logits = [torch.randn(3, 4, 2, 2), torch.randn(3, 4, 4, 4)]
    made = Records.from_arrays(logits, torch.zeros(3, 8, 8, dtype=torch.long))
    assert same(save_records(made, tmp_path / "records", shard_rows=2), made)


def test_index_says_what_is_there(tmp_path: Path) -> None:
    save_records(small_records(), tmp_path, shard_rows=6)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["version"] == 1 and index["format"] == "offramp-records"
    assert (index["num_rows"], index["num_exits"], index["num_classes"]) == (NUM, 3, 4)
    assert index["exits"] == [{"shape": [4], "gate": gate} for gate in (True, False, False)]
    assert [shard["rows"] for shard in index["shards"]] == [6, 5]
    names = ["shard-00000.safetensors", "shard-00001.safetensors"]
    assert [shard["file"] for shard in index["shards"]] == names
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index.json", *names]
    assert [shard["bytes"] for shard in index["shards"]] == [
        (tmp_path / name).stat().st_size for name in names
    ]


def test_a_stored_shard_is_opened_only_when_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_records(small_records(), tmp_path, shard_rows=2)
    opened: list[str] = []
    plain = records_module.StoredShards._open

    def spy(self: object, file: Path, rows: int) -> object:
        opened.append(file.name[6:11])
        return plain(self, file, rows)

    monkeypatch.setattr(records_module.StoredShards, "_open", spy)
    loaded = load_records(tmp_path)
    assert len(loaded) == NUM and len(loaded.shards) == 6
    assert opened == ["00000"]
    assert loaded.take([5, 9]).lengths == [1, 1]
    assert opened == ["00000", "00002", "00004"]
    assert [shard.num_rows for shard in loaded.shards[1:3]] == [2, 2]
    assert loaded.shards[-1].num_rows == 1


def test_writing_into_a_stored_shard_leaves_the_file_alone(tmp_path: Path) -> None:
    made = small_records()
    loaded = save_records(made, tmp_path)
    loaded.shards[0].outputs[0].logits.zero_()
    assert same(load_records(tmp_path), made)


def test_records_larger_than_a_shard_are_taken_row_by_row(tmp_path: Path) -> None:
    made = small_records()
    loaded = save_records(made, tmp_path, shard_rows=3)
    assert same(loaded.take([0, 4, 10]), made.take([0, 4, 10]))


def test_records_of_ours_are_replaced_and_nothing_is_left_over(tmp_path: Path) -> None:
    save_records(small_records(), tmp_path, shard_rows=2)
    (tmp_path / f"shard-00099.safetensors.{'0a' * 16}.partial").write_bytes(b"left over")
    newer = small_records(5)
    assert same(save_records(newer, tmp_path, shard_rows=3), newer)
    assert len(list(tmp_path.iterdir())) == 3
    assert same(load_records(tmp_path), newer)


def test_records_can_be_saved_over_themselves(tmp_path: Path) -> None:
    made = small_records()
    save_records(made, tmp_path, shard_rows=2)
    assert same(save_records(load_records(tmp_path), tmp_path, shard_rows=5), made)
    assert load_records(tmp_path).lengths == [5, 5, 1]


def broken_shards(good: Records, error: BaseException) -> Iterator[object]:
    yield from good
    raise error


@pytest.mark.parametrize("error", [RuntimeError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("older", [False, True])
def test_an_interrupted_write_leaves_what_was_there(
    older: bool, error: BaseException, tmp_path: Path
) -> None:
    before, newer = small_records(), small_records(6)
    if older:
        save_records(before, tmp_path, shard_rows=4)
    with pytest.raises(type(error)):
        records_module._write(broken_shards(newer, error), tmp_path)
    if older:
        assert same(load_records(tmp_path), before)
        assert len(list(tmp_path.iterdir())) == 4
    else:
        assert not list(tmp_path.iterdir())
        with pytest.raises(RecordsError, match=r"which has no index\.json"):
            load_records(tmp_path)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("victim", ["shard-00003.safetensors", "index.json"])
def test_an_interrupt_beside_a_rename_leaves_complete_records_and_no_partial(
    victim: str, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, newer = small_records(), small_records(9)
    save_records(before, tmp_path, shard_rows=6)  # shards 0 and 1; the newer ones are 2 and 3
    rename = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if target.name != victim or late:
            rename(source, target)
        if target.name == victim:
            raise KeyboardInterrupt

    monkeypatch.setattr("offramp.files.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_records(newer, tmp_path, shard_rows=6)
    monkeypatch.undo()
    done = late and victim == "index.json"
    assert same(load_records(tmp_path), newer if done else before)
    names = {file.name for file in tmp_path.iterdir()}
    left = range(4) if done else range(2)  # the older shards go at the next write
    assert names == {"index.json", *(f"shard-{k:05d}.safetensors" for k in left)}


def test_shards_of_a_killed_write_are_no_records_and_can_be_written_over(tmp_path: Path) -> None:
    made = small_records()
    save_records(made, tmp_path, shard_rows=4)
    (tmp_path / "index.json").unlink()
    (tmp_path / f"shard-00003.safetensors.{'0a' * 16}.partial").write_bytes(b"half a shard")
    with pytest.raises(RecordsError, match="complete records"):
        load_records(tmp_path)
    assert same(save_records(made, tmp_path, shard_rows=4), made)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("marked", [False, True])
def test_shards_that_are_not_ours_are_refused_untouched(marked: bool, tmp_path: Path) -> None:
    save_records(small_records(), tmp_path, shard_rows=6)
    (tmp_path / "index.json").unlink()
    foreign = tmp_path / "shard-00000.safetensors"  # a name that others use too
    metadata = {"format": "pt"} if marked else None
    save_file({"weight": torch.zeros(3)}, foreign, metadata)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(RecordsError, match=r"no index\.json, and \['shard-00000"):
        save_records(small_records(), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("foreign", ["notes.txt", "shard-00000.safetensors.old", "shards"])
def test_a_folder_with_anything_else_is_refused_untouched(foreign: str, tmp_path: Path) -> None:
    (tmp_path / foreign).write_text("precious")
    for write in (
        lambda: save_records(small_records(), tmp_path),
        lambda: record(label_model(), images(), path=tmp_path),
    ):
        with pytest.raises(RecordsError, match=f"records only; .* has .'{foreign}'"):
            write()
    assert [file.name for file in tmp_path.iterdir()] == [foreign]
    assert (tmp_path / foreign).read_text() == "precious"


def test_a_file_or_another_index_in_the_way_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(RecordsError, match="got the file"):
        save_records(small_records(), file)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "index.json").write_text('{"weight_map": {}}')
    with pytest.raises(RecordsError, match="another format"):
        save_records(small_records(), folder)
    assert (folder / "index.json").read_text() == '{"weight_map": {}}'


def edit(folder: Path, **changes: object) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, **changes}))


def truncate(folder: Path) -> None:
    file = folder / "shard-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def scramble(folder: Path) -> None:
    file = folder / "shard-00000.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)


def without_sizes(folder: Path) -> None:
    edit(folder, shards=[{"file": "shard-00000.safetensors"}])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"complete records, got .*no index\.json"),
        (truncate, r"00001\.safetensors with \d+ bytes, got \d+ bytes"),
        (lambda f: (f / "shard-00001.safetensors").unlink(), "got no such file"),
        (scramble, r"00000\.safetensors cannot be read"),
        (lambda f: (f / "index.json").write_text('{"format": '), r"index\.json is damaged"),
        (lambda f: (f / "index.json").write_text("[1, 2]"), "another format"),
        (lambda f: edit(f, format="something"), "another format"),
        (lambda f: edit(f, version=2), "version 1 at most .* got 2: install a newer offramp"),
        (lambda f: edit(f, version=None), "got None"),
        (lambda f: edit(f, exits=None), r"index\.json is damaged"),
        (lambda f: edit(f, shards=[]), "at least one shard"),
        (lambda f: edit(f, exits=[{"shape": [5], "gate": False}]), "wanted tensors"),
        (lambda f: edit(f, exits=[{"shape": [4], "gate": True}] * 2), "cannot be read"),
        (without_sizes, r"index\.json is damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_folders_are_one_clear_error(damage: object, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    save_records(small_records(), folder, shard_rows=6)
    damage(folder)
    with pytest.raises(RecordsError, match=message):
        load_records(folder)
