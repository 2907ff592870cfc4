"""Two processes reduce to what one with the joint batch has; alone, nothing is sent."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from offramp.errors import TrainingError
from offramp.train.checkpoint import load_tensors
from offramp.train.world import World

ROWS = 7


def model() -> nn.ModuleDict:
    """Parameters of several dtypes and layouts; some are used by one process, or by none."""
    torch.manual_seed(0)
    parts = nn.ModuleDict(
        {
            "conv": nn.Conv2d(2, 3, 3, padding=1).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            "wide": nn.Linear(3, 2, dtype=torch.float64),
            "low": nn.Linear(3, 2, dtype=torch.bfloat16),
            "first": nn.Linear(3, 1),
            "second": nn.Conv2d(3, 2, 1).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            "unused": nn.Linear(2, 2),
        }
    )
    parts.register_parameter("scale", nn.Parameter(torch.tensor(0.5)))
    return parts


def losses(parts: nn.ModuleDict, x: Tensor, rank: int | None) -> Tensor:
    """The sum of the rows' losses; a process's own part where the rank says one."""
    state = parts["conv"](x).relu() * parts.get_parameter("scale")
    hidden = state.mean((2, 3))  # [n, 3]
    loss = parts["wide"](hidden.double()).square().sum()
    loss = loss + parts["low"](hidden.detach().bfloat16()).double().square().sum()
    if rank != 1:
        first = slice(0, (ROWS + 1) // 2) if rank is None else slice(None)
        loss = loss + parts["first"](hidden[first]).double().square().sum()
    if rank != 0:
        second = slice((ROWS + 1) // 2, None) if rank is None else slice(None)
        loss = loss + parts["second"](state[second]).double().square().sum()
    return loss


def inputs() -> Tensor:
    return torch.randn(ROWS, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def buffers(rank: int) -> dict[str, Tensor]:
    """One tensor of every kind, with other values in every process."""
    return {
        "float": torch.full((3, 2), 1.5 + rank),
        "transposed": torch.arange(6.0).reshape(2, 3).t() + rank,
        "double": torch.full((2,), 1 / 3 + rank, dtype=torch.float64),
        "half": torch.full((3,), 0.1 + rank).bfloat16(),
        "count": torch.tensor(2**40 + rank),
        "bool": torch.tensor([rank == 0, rank == 1, True]),
        "complex": torch.full((2,), complex(rank, 1)),
        "empty": torch.empty(0, 4),
    }


# ----------------------------------------------------------------------- what a process does
def work(out: Path) -> None:
    """Run by each of two processes, which leave what they have in a file of their own."""
    from torch import distributed as dist

    from offramp.train.checkpoint import save_tensors

    torch.set_num_threads(1)
    sent: list[int] = []
    world = World.current()
    real = dist.all_reduce
    dist.all_reduce = lambda t, *a, **k: (sent.append(t.numel()), real(t, *a, **k))[1]
    kept = {"world": torch.tensor([*world, *World.current()])}

    parts = model()
    rows = world.share(torch.arange(ROWS))
    losses(parts, inputs()[rows], world.rank).backward()
    world.reduce_gradients(parts.parameters(), torch.tensor(len(rows)))
    kept["sent"] = torch.tensor(sent)
    for name, parameter in parts.named_parameters():
        if parameter.grad is not None:
            kept[f"grad/{name}"] = parameter.grad
            kept[f"stride/{name}"] = torch.tensor(parameter.grad.stride())

    parts = model()  # a batch of one row: the second process has nothing
    if len(world.share(torch.arange(1))):
        losses(parts, inputs()[:1], world.rank).backward()
    world.reduce_gradients(parts.parameters(), torch.tensor(1.0 - world.rank))
    kept["one row"] = parts["wide"].weight.grad  # type: ignore[assignment]

    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.zeros(2)
    world.reduce_gradients([weight], torch.tensor(0))
    kept["no weight"] = weight.grad
    world.reduce_gradients([], torch.tensor(1))

    precise = nn.Parameter(torch.ones(2, dtype=torch.float64))
    precise.grad = torch.full((2,), (1 + world.rank) / 7, dtype=torch.float64)
    world.reduce_gradients([weight, precise], torch.tensor(1))
    kept["precise"] = precise.grad

    figure = torch.tensor([[1, 2], [3, 4]]).t() * (world.rank + 1)
    kept["total"], kept["figure"] = world.total(figure), figure
    values = buffers(world.rank)
    world.broadcast(values.values())
    kept |= {f"buffer/{name}": value for name, value in values.items()}

    mark = out / "second was here"
    if world.rank == 1:
        mark.write_text("")
    world.barrier()
    kept["met"] = torch.tensor(mark.exists())
    save_tensors(out / f"rank-{world.rank}.safetensors", kept)
    if world.rank == 1:
        os._exit(0)  # without a word, as a process that is killed
    calls = {"total": world.barrier, "broadcast": lambda: world.broadcast([figure])}
    for name, call in calls.items():
        try:
            call()
        except TrainingError as error:
            (out / f"{name}.txt").write_text(str(error))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What the first process said when the second one was gone."""
    return []


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> list[dict[str, Tensor]]:
    """What two processes, launched as torchrun launches them, have at their end."""
    out = tmp_path_factory.mktemp("world")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        f"import sys, json, pathlib; sys.path[:0] = json.loads({json.dumps(json.dumps(sys.path))})"
        f"; import test_world; test_world.work(pathlib.Path({str(out)!r}))"
    )
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here = {"cwd": Path(__file__).parent, "stderr": subprocess.PIPE, "text": True}
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", "-c", code],
            env={**os.environ, **shared, "RANK": r, "LOCAL_RANK": r, "OMP_NUM_THREADS": "1"},
            **here,  # type: ignore[call-overload]
        )
        for r in ("0", "1")
    ]
    try:
        said = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], said
    told.extend((out / f"{name}.txt").read_text() for name in ("total", "broadcast"))
    return [load_tensors(out / f"rank-{rank}.safetensors") for rank in (0, 1)]


# ----------------------------------------------------------------------- two processes
def test_processes_know_their_number_also_when_asked_again(ranks: list[dict[str, Tensor]]) -> None:
    assert [rank["world"].tolist() for rank in ranks] == [[0, 2, 0, 2], [1, 2, 1, 2]]


def test_reduced_gradients_are_those_of_the_joint_batch_everywhere(
    ranks: list[dict[str, Tensor]],
) -> None:
    parts = model()
    (losses(parts, inputs(), None) / ROWS).backward()
    wanted = {n: p.grad for n, p in parts.named_parameters() if p.grad is not None}
    assert len(wanted) == len([*parts.parameters()]) - 2  # but for those that nobody uses
    for rank in ranks:
        came = {key[5:]: grad for key, grad in rank.items() if key.startswith("grad/")}
        assert came.keys() == wanted.keys()
        for name, grad in wanted.items():
            assert came[name].dtype == grad.dtype
            tolerance = 1e-2 if grad.dtype == torch.bfloat16 else 1e-6
            torch.testing.assert_close(came[name], grad, rtol=tolerance, atol=tolerance / 10)
    assert all(torch.equal(ranks[0][key], ranks[1][key]) for key in ranks[0] if "grad/" in key)


def test_gradients_have_the_memory_format_of_their_parameters(
    ranks: list[dict[str, Tensor]],
) -> None:
    for rank in ranks:  # the second has never been used by the first process
        for name in ("conv.weight", "second.weight"):
            assert rank[f"stride/{name}"].tolist() == list(model().get_parameter(name).stride())


def test_one_message_of_one_flat_tensor_is_sent_for_a_step(ranks: list[dict[str, Tensor]]) -> None:
    parameters = list(model().parameters())
    wanted = sum(p.numel() for p in parameters) + 1 + len(parameters)
    assert [rank["sent"].tolist() for rank in ranks] == [[wanted], [wanted]]


def test_process_without_rows_gets_the_gradients_of_the_other(
    ranks: list[dict[str, Tensor]],
) -> None:
    parts = model()
    losses(parts, inputs()[:1], 0).backward()
    for rank in ranks:
        torch.testing.assert_close(rank["one row"], parts["wide"].weight.grad)


def test_batch_in_which_nothing_counts_has_gradients_of_zero(
    ranks: list[dict[str, Tensor]],
) -> None:
    assert [rank["no weight"].tolist() for rank in ranks] == [[0, 0], [0, 0]]


def test_gradients_in_float64_are_summed_in_float64(ranks: list[dict[str, Tensor]]) -> None:
    for rank in ranks:
        assert rank["precise"].tolist() == pytest.approx([3 / 14, 3 / 14], rel=1e-14)


def test_total_is_a_new_tensor_with_the_sum(ranks: list[dict[str, Tensor]]) -> None:
    for number, rank in enumerate(ranks):
        assert rank["total"].tolist() == [[3, 9], [6, 12]]
        assert rank["figure"].tolist() == [
            [1 + number, 3 + 3 * number],
            [2 + 2 * number, 4 + 4 * number],
        ]


def test_broadcast_gives_everyone_the_first_ones_tensors(ranks: list[dict[str, Tensor]]) -> None:
    for name, wanted in buffers(0).items():
        for rank in ranks:
            assert rank[f"buffer/{name}"].dtype == wanted.dtype
            assert torch.equal(rank[f"buffer/{name}"], wanted), name


def test_barrier_waits_for_the_other(ranks: list[dict[str, Tensor]]) -> None:
    assert all(bool(rank["met"]) for rank in ranks)


@pytest.mark.usefixtures("ranks")
def test_process_says_in_one_line_that_another_is_gone(told: list[str]) -> None:
    for text in told:
        assert text.startswith("wanted all processes to go on together, but another one is gone: ")
        assert "\n" not in text


# ----------------------------------------------------------------------- shares
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 10])
def test_shares_are_consecutive_parts_of_nearly_equal_size(size: int, count: int) -> None:
    rows = torch.randperm(count)
    parts = [World(rank, size).share(rows) for rank in range(size)]
    assert torch.equal(torch.cat(parts), rows)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(0, [0, 0, 0]), (1, [1, 0, 0]), (2, [2, 0, 0]), (5, [3, 2, 0]), (6, [2, 2, 2])],
)
def test_shares_have_at_least_so_many_rows_or_none(count: int, wanted: list[int]) -> None:
    parts = [World(rank, 3).share(torch.arange(count), least=2) for rank in range(3)]
    assert torch.equal(torch.cat(parts), torch.arange(count))
    assert [len(part) for part in parts] == wanted


# ----------------------------------------------------------------------- alone
@pytest.mark.parametrize("size", [None, "", "1"])
def test_alone_there_is_no_group_and_accelerate_is_not_imported(
    size: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    assert World.current() == World(0, 1) == World()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("missing", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_described_group_is_told(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    monkeypatch.delenv(missing)
    with pytest.raises(TrainingError, match=f"WORLD_SIZE=2.*{missing}'. are not set"):
        World.current()


def test_alone_gradients_are_divided_and_nothing_else_is_done() -> None:
    parts, world = model(), World()
    losses(parts, inputs(), None).backward()
    before = {n: p.grad.clone() for n, p in parts.named_parameters() if p.grad is not None}
    world.reduce_gradients(parts.parameters(), torch.tensor(1001))
    for name, parameter in parts.named_parameters():
        if name not in before:
            assert parameter.grad is None
            continue
        wide = before[name].double() / 1001
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, wide.to(parameter.dtype), rtol=1e-7, atol=0)
    world.reduce_gradients(parts.parameters(), torch.tensor(0))
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in parts.parameters())
    values = buffers(0)
    world.broadcast(values.values())
    world.barrier()
    figure = torch.tensor([1.0, 2.0], requires_grad=True)
    copy = world.total(figure)
    copy += 1
    assert figure.tolist() == [1.0, 2.0]
    assert all(torch.equal(values[name], wanted) for name, wanted in buffers(0).items())
