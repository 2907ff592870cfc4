"""Each head against the same computation written out, gates included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.errors import OptionError, ValidationError
from offramp.heads import Answer, ConvHead, DenseHead, FlatHead, LinearHead, PoolerHead
from offramp.heads.build import KINDS, Site, build_head, per_exit
from offramp.heads.dense import BranchesHead
from offramp.types import ExitOutput


def linear(layer: nn.Linear, features: Tensor) -> Tensor:
    """A linear layer, one row and one class at a time."""
    rows = [
        [row @ w + b for w, b in zip(layer.weight, layer.bias, strict=True)] for row in features
    ]
    return torch.stack([torch.stack(row) for row in rows])


def conv_norm_relu(block: nn.Sequential, x: Tensor, stride: int, padding: int) -> Tensor:
    """Convolution, batch norm with its running statistics, ReLU."""
    conv, norm = block[0], block[1]
    x = F.conv2d(x, conv.weight, None, stride, padding)
    mean, var = (v.view(1, -1, 1, 1) for v in (norm.running_mean, norm.running_var))
    weight, bias = (v.view(1, -1, 1, 1) for v in (norm.weight, norm.bias))
    return ((x - mean) / (var + norm.eps).sqrt() * weight + bias).clamp_min(0)


def lively(head):
    """Statistics and affine weights of batch norms that are not those of a new one."""
    for norm in head.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                nn.init.uniform_(tensor, 0.5, 2.0)
    return head.eval()


def check(out: ExitOutput, logits: Tensor, gate: Tensor) -> None:
    torch.testing.assert_close(out.logits, logits)
    torch.testing.assert_close(out.gate, gate)
    assert gate.shape == (len(logits),)


@pytest.mark.parametrize(
    ("shape", "layout", "over"),
    [
        ((3, 6), "channels_first", ()),
        ((3, 6, 5), "channels_first", (2,)),
        ((3, 6, 5, 4), "channels_first", (2, 3)),
        ((3, 6, 2, 5, 4), "channels_first", (2, 3, 4)),
        ((3, 6), "channels_last", ()),
        ((3, 5, 6), "channels_last", (1,)),
        ((3, 5, 4, 6), "channels_last", (1, 2)),
    ],
)
def test_linear_head_averages_over_positions(shape: tuple, layout: str, over: tuple) -> None:
    head = LinearHead(6, 4, layout=layout, gate=True)  # type: ignore[arg-type]
    x = torch.randn(shape)
    mean = x.mean(over) if over else x
    check(head(x), linear(head.classifier, mean), linear(head.gate, mean).squeeze(1))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((3, 6), "channels_first"),
        ((3, 6, 5), "channels_first"),
        ((3, 6, 5, 4), "channels_first"),
        ((3, 5, 6), "channels_last"),
        ((3, 5, 4, 6), "channels_last"),
    ],
)
def test_linear_head_with_norm_has_batch_norm_before_the_average(
    shape: tuple, layout: str, training: bool
) -> None:
    head = lively(LinearHead(6, 4, layout=layout, norm=True, gate=True))  # type: ignore[arg-type]
    assert head.norm is not None and head.norm.running_mean is not None
    x = torch.randn(shape)
    channels = -1 if layout == "channels_last" else 1
    rows = x.movedim(channels, -1).reshape(-1, 6)  # every position of every input
    old, mean, var = head.norm.running_mean.clone(), head.norm.running_mean, head.norm.running_var
    if training:
        mean, var = rows.mean(0), rows.var(0, unbiased=False)
    normed = (rows - mean) / (var + head.norm.eps).sqrt() * head.norm.weight + head.norm.bias
    features = normed.view(3, -1, 6).mean(1)
    out = head.train(training)(x)
    check(out, linear(head.classifier, features), linear(head.gate, features).squeeze(1))
    assert torch.equal(head.norm.running_mean, old) != training


def test_norm_of_a_linear_head_is_part_of_it() -> None:
    head = LinearHead(6, 4, norm=True)
    assert {"norm.weight", "norm.bias", "norm.running_mean"} <= set(head.state_dict())
    assert sum(p.numel() for p in head.parameters()) == 6 * 4 + 4 + 2 * 6
    assert not head.eval().norm.training
    assert head.to(torch.float64).norm.running_var.dtype == torch.float64


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 5, 4)])
def test_flat_head_reads_every_number_of_the_map(shape: tuple[int, ...]) -> None:
    head = FlatHead(shape, 4, gate=True)
    x = torch.randn(3, *shape)
    flat = torch.stack([torch.tensor(row.flatten().tolist()) for row in x])
    check(head(x), linear(head.classifier, flat), linear(head.gate, flat).squeeze(1))


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("size", [(8, 8), (12, 4)])
def test_flat_head_with_pool_averages_to_so_many_positions(layout: str, size: tuple) -> None:
    head = FlatHead(
        (6, 8, 8) if layout == "channels_first" else (8, 8, 6), 4, pool=2, layout=layout
    )  # type: ignore[arg-type]
    x = torch.randn(3, 6, *size)
    a, b = size[0] // 2, size[1] // 2
    cells = [x[..., i * a : (i + 1) * a, j * b : (j + 1) * b] for i in (0, 1) for j in (0, 1)]
    flat = torch.stack([cell.mean((2, 3)) for cell in cells], 2).flatten(1)  # [N, 6 * 4]
    given = x if layout == "channels_first" else x.movedim(1, 3)
    torch.testing.assert_close(head(given).logits, linear(head.classifier, flat))


def test_flat_head_pooled_to_one_position_is_a_linear_head() -> None:
    flat, mean = FlatHead((6, 5, 5), 4, pool=1, gate=True), LinearHead(6, 4, gate=True)
    flat.load_state_dict(mean.state_dict())
    x = torch.randn(3, 6, 5, 5)
    check(flat(x), mean(x).logits, mean(x).gate)


def test_flat_head_without_pool_refuses_a_map_of_another_size() -> None:
    head = FlatHead((6, 5, 5), 4)
    with pytest.raises(ValidationError, match=r"\(6, 5, 5\) at a flat head.*got \(6, 7, 5\).*pool"):
        head(torch.randn(2, 6, 7, 5))


def test_flat_head_where_leenet_has_it_is_as_wide_as_its_docstring_says() -> None:
    with torch.device("meta"):
        flat, mean = FlatHead((256, 56, 56), 1000), LinearHead(256, 1000)
    assert flat.classifier.in_features == 802_816
    assert flat.classifier.weight.numel() == 802_816_000
    assert mean.classifier.weight.numel() + mean.classifier.bias.numel() == 257_000


@pytest.mark.parametrize("pool", [0, 2])
def test_conv_head_is_two_strided_convolutions_and_an_average(pool: int) -> None:
    head = lively(ConvHead(6, 4, width=5, pool=pool, gate=True))
    x = torch.randn(3, 6, 8, 8)
    inside = x
    for block in head.convs:  # type: ignore[union-attr]
        inside = conv_norm_relu(block, inside, 2, 1)
    mean = inside.mean((2, 3))  # [3, 5]: the map is 2 x 2, which both poolings take whole
    check(head(x), linear(head.classifier, mean), linear(head.gate, mean).squeeze(1))


@pytest.mark.parametrize("width", [None, 5])
def test_dense_head_classifies_every_position_and_gates_on_the_mean(width: int | None) -> None:
    head = lively(DenseHead(6, 4, width=width, gate=True))
    x = torch.randn(3, 6, 4, 5)
    features = x if width is None else conv_norm_relu(head.project[0:3], x, 1, 0)
    weight, bias = head.classifier.weight[:, :, 0, 0], head.classifier.bias
    logits = torch.empty(3, 4, 4, 5)
    for n in range(3):
        for i in range(4):
            for j in range(5):
                logits[n, :, i, j] = weight @ features[n, :, i, j] + bias
    check(head(x), logits, linear(head.gate, features.mean((2, 3))).squeeze(1))


@pytest.mark.parametrize("width", [None, 5])
def test_dense_head_with_context_looks_around_by_channel_and_pooled_at_all(
    width: int | None,
) -> None:
    head = lively(DenseHead(6, 4, width=width, context=2, pooled=True, gate=True))
    x = torch.randn(3, 6, 7, 8)
    layers = list(head.project)
    features = x if width is None else conv_norm_relu(head.project[0:3], x, 1, 0)
    kernel = layers[-3].weight[:, 0]  # [F, 3, 3]
    padded, around = F.pad(features, (2, 2, 2, 2)), torch.zeros_like(features)
    for i in range(3):
        for j in range(3):
            shifted = padded[:, :, 2 * i : 2 * i + 7, 2 * j : 2 * j + 8]
            around += kernel[:, i, j, None, None] * shifted
    features = layers[-2](around).clamp_min(0)
    mean = features.mean((2, 3))
    weight, bias = head.classifier.weight[:, :, 0, 0], head.classifier.bias
    logits = torch.einsum("cf,nfhw->nchw", weight, features) + bias[:, None, None]
    logits = logits + torch.einsum("cf,nf->nc", head.scene.weight, mean)[:, :, None, None]
    check(head(x), logits, linear(head.gate, mean).squeeze(1))


@pytest.mark.parametrize("width", [None, 5])
def test_branches_head_classifies_all_maps_enlarged_and_stacked(width: int | None) -> None:
    head = lively(BranchesHead([3, 2, 4], 6, width=width, gate=True))
    maps = [torch.randn(2, 3, 9, 12), torch.randn(2, 2, 5, 6), torch.randn(2, 4, 3, 3)]
    grown = [F.interpolate(m, (9, 12), mode="bilinear", align_corners=False) for m in maps]
    features = torch.cat(grown, 1)
    mean = torch.cat([m.mean((2, 3)) for m in maps], 1)
    if width is not None:
        features = head.norm(head.project(features)).clamp_min(0)
        mean = features.mean((2, 3))
    check(head(maps), head.classifier(features), linear(head.gate, mean).squeeze(1))


def test_head_of_a_kind_takes_options() -> None:
    site = Site((2, 6, 4, 4), 3, "x", auto="dense", gate=True)
    head = build_head({"width": 5, "context": 1}, site)
    assert isinstance(head, DenseHead) and head.project[0].out_channels == 5
    assert head({"x": torch.randn(2, 6, 4, 4)}).gate is not None
    conv = build_head({"kind": "conv", "width": 7}, site)
    assert isinstance(conv, ConvHead) and conv.classifier.in_features == 7
    assert per_exit({"kind": "conv"}, 2) == [{"kind": "conv"}] * 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "dense", "widht": 5}, "DenseHead takes width, context, pooled, got ..widht"),
        ({"kind": "linear", "width": 5}, "LinearHead takes norm, got ..width"),
        ({"kind": "flat", "width": 5}, "FlatHead takes pool, got ..width"),
        ({"kind": "flat", "shape": (3,)}, "FlatHead takes pool, got ..shape"),
        ({"kind": "dense", "gate": True}, "got ..gate"),
        ({"kind": "dense", "channels": 3}, "got ..channels"),
    ],
)
def test_option_that_a_head_does_not_take_is_refused(spec: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build_head(spec, Site((2, 6, 4, 4), 3, "x"))


def test_pooler_head_reads_the_first_token_and_drops_in_training_alone() -> None:
    head = PoolerHead(6, 4, dropout=0.5, gate=True).eval()
    x = torch.randn(3, 5, 6)
    first = torch.tanh(linear(head.pooler, x[:, 0]))
    check(head(x), linear(head.classifier, first), linear(head.gate, first).squeeze(1))
    assert not torch.equal(head.train()(x).logits, head.eval()(x).logits)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda **o: LinearHead(6, 4, **o), (3, 6, 8, 8)),
        (lambda **o: ConvHead(6, 4, **o), (3, 6, 8, 8)),
        (lambda **o: DenseHead(6, 4, **o), (3, 6, 8, 8)),
        (lambda **o: PoolerHead(6, 4, **o), (3, 5, 6)),
        (lambda **o: FlatHead((6, 8, 8), 4, **o), (3, 6, 8, 8)),
        (lambda **o: LinearHead(6, 4, norm=True, **o), (3, 6, 8, 8)),
    ],
)
def test_head_reads_its_value_from_the_state_and_has_a_gate_only_where_asked(
    make, shape: tuple[int, ...]
) -> None:
    x, other = torch.randn(shape), torch.full(shape, torch.nan)
    whole, named = make(gate=True).eval(), make(gate=True, reads="x").eval()
    plain, numbered = make().eval(), make(reads=1).eval()
    numbered.load_state_dict(plain.state_dict())
    named.load_state_dict(whole.state_dict())
    for out, wanted in (
        (named({"x": x, "other": other}), whole(x)),
        (numbered([other, x]), plain(x)),
    ):
        assert torch.equal(out.logits, wanted.logits)
    assert torch.equal(named({"x": x}).gate, whole(x).gate)
    assert plain(x).gate is None and not any("gate" in name for name in plain.state_dict())


def test_answer_is_the_networks_own_logits() -> None:
    logits = torch.randn(3, 4)
    out = Answer("logits")({"logits": logits, "other": torch.zeros(3)})
    assert out.logits is logits and out.gate is None


BNPOOL = {"kind": "linear", "norm": True}
POOLED = {"kind": "flat", "pool": 2}


@pytest.mark.parametrize("kind", [*KINDS, BNPOOL, POOLED], ids=str)
def test_every_kind_of_head_learns_through_logits_and_gate(kind: Any) -> None:
    shape = (3, 5, 6) if kind == "pooler" else (3, 6, 8, 8)
    head = build_head(kind, Site(shape, 4, "x", gate=True))
    x = torch.randn(shape, requires_grad=True)
    out = head({"x": x})
    (out.logits.square().sum() + out.gate.square().sum()).backward()
    assert x.grad is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.gate.parameters())
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize(
    ("spec", "site", "message"),
    [
        ("conv", Site((2, 6), 4, "x"), r"conv head does not fit a channels_first .*\(2, 6\)"),
        ("dense", Site((2, 5, 5, 6), 4, "x", "channels_last"), "dense head does not fit"),
        ("round", Site((2, 6), 4, "x"), "head among auto, linear, conv, dense, pooler, flat"),
        (None, Site((2, 6), 4, "x"), "a function, got None"),
        ({"kind": "round"}, Site((2, 6), 4, "x"), "a function, got 'round'"),
        (
            {"kind": "dense", "context": -1},
            Site((2, 6, 4, 4), 4, "x"),
            "context of a dense head as a whole number of at least 0, got -1",
        ),
        (
            {"kind": "dense", "width": "8"},
            Site((2, 6, 4, 4), 4, "x"),
            "width of a dense head as a whole number of at least 1, got '8'",
        ),
        (POOLED, Site((2, 5, 6), 4, "x"), r"a map to pool in a flat head, got .*\(5, 6\)"),
        (
            {"kind": "flat", "pool": 0},
            Site((2, 6, 4, 4), 4, "x"),
            "pool of a flat head as a whole number of at least 1, got 0",
        ),
        (
            {"kind": "linear", "norm": 1},
            Site((2, 6, 4, 4), 4, "x"),
            "norm of a linear head as True or False, got 1",
        ),
        ("linear", Site((2, 6), 4, "x", gate="no"), "wanted gate as True or False, got 'no'"),  # type: ignore[arg-type]
        (nn.Linear(6, 4), Site((2, 6), 4, "x"), "got the module Linear"),
        (lambda shape: 3, Site((2, 6), 4, "x"), "wanted a module from the function"),
        (lambda shape: nn.Identity(), Site((2, 6), 4, "x", gate=True), "wanted gate=False"),
    ],
)
def test_head_that_does_not_fit_is_refused(spec, site: Site, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        build_head(spec, site)


@pytest.mark.parametrize("specs", [None, 3, {"linear"}])
def test_heads_of_the_wrong_type_are_refused(specs: object) -> None:
    kind = type(specs).__name__
    with pytest.raises(ValidationError, match=f"a head among auto, .* per early exit, got {kind}"):
        per_exit(specs, 2)  # type: ignore[arg-type]
