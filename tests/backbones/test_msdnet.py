"""MSDNet against the figures of the public code, and against a literal run of its state dicts."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from offramp.errors import CheckpointError, ValidationError
from offramp.model import MultiExitModel, create_model
from offramp.trees import take

_IMAGENET = {
    "num_classes": 1000,
    "num_exits": 5,
    "channels": 32,
    "growth": 16,
    "growth_factors": (1, 2, 4, 4),
    "bottleneck_factors": (1, 2, 4, 4),
    "stem": "imagenet",
}
# options, image side, cumulative parameters in millions, cumulative million multiply-adds, both as
# counted by the public code, which counts ReLU and pooling too
_PUBLISHED = {
    "cifar100": (
        {},
        32,
        [0.434, 0.877, 1.275, 1.696, 2.178, 2.603, 3.068],
        [15.14, 25.51, 37.10, 46.33, 57.34, 66.96, 75.94],
    ),
    "cifar10": (
        {"num_classes": 10},
        32,
        [0.422, 0.854, 1.240, 1.649, 2.120, 2.534, 2.987],
        [15.13, 25.48, 37.06, 46.28, 57.28, 66.89, 75.86],
    ),
    "cifar100-lin_grow": (
        {"num_exits": 5, "base": 1, "step": 1, "step_mode": "lin_grow"},
        32,
        [0.300, 0.650, 1.018, 1.492, 2.079],
        [6.86, 14.35, 27.54, 41.71, 58.48],
    ),
    "imagenet-4": (
        {**_IMAGENET, "base": 4, "step": 4},
        224,
        [4.239, 8.772, 13.073, 16.748, 23.958],
        [339.90, 685.46, 1008.16, 1254.47, 1360.53],
    ),
    "imagenet-7": (
        {**_IMAGENET, "base": 7, "step": 7},
        224,
        [8.759, 20.155, 31.730, 41.860, 62.314],
        [615.69, 1436.39, 2283.21, 2967.42, 3253.79],
    ),
}
# small networks that use every option, with the side of their images
_SMALL = {
    "even": ({"num_exits": 3, "base": 2, "step": 2, "channels": 4, "growth": 4}, 32),
    "lin_grow": ({"num_exits": 3, "base": 1, "step": 1, "step_mode": "lin_grow", "growth": 2}, 32),
    "min": ({"num_exits": 3, "base": 2, "step": 2, "growth": 2, "prune": "min"}, 32),
    "plain": ({"num_exits": 2, "base": 2, "step": 2, "growth": 2, "bottleneck": False}, 32),
    "no transitions": ({"num_exits": 2, "base": 3, "step": 3, "growth": 2, "reduction": 0.0}, 32),
    "two scales": (
        {
            "num_exits": 2,
            "base": 1,
            "step": 3,
            "growth": 4,
            "growth_factors": (1, 3),
            "bottleneck_factors": (2, 1),
        },
        16,
    ),
    "imagenet": (
        {**_IMAGENET, "num_classes": 10, "num_exits": 3, "base": 2, "step": 3, "channels": 4}
        | {"growth": 2},
        224,
    ),
}


def _small(name: str, **options: object) -> MultiExitModel:
    return create_model("msdnet", **{"num_classes": 10, **_SMALL[name][0], **options})


# --------------------------------------------------------------------------- published figures
@pytest.mark.parametrize("name", _PUBLISHED)
def test_msdnet_has_the_published_parameters_at_every_exit(name: str) -> None:
    options, _, published, _ = _PUBLISHED[name]
    with torch.device("meta"):
        model = create_model("msdnet", **options)
    total, cumulative = 0, []
    for segment, head in zip(model.segments, model.heads, strict=True):
        total += sum(p.numel() for module in (segment, head) for p in module.parameters())
        cumulative.append(round(total / 1e6, 3))
    assert cumulative == published


@pytest.mark.parametrize("name", _PUBLISHED)
def test_msdnet_has_the_published_macs_at_every_exit(name: str) -> None:
    options, side, _, published = _PUBLISHED[name]
    with torch.device("meta"):
        model = create_model("msdnet", **options).eval()
        state = torch.zeros(1, 3, side, side)
    cumulative = []
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for k in range(model.num_exits):
            state, _ = model.step(k, state)
            cumulative.append(counter.get_total_flops() / 2e6)
    assert cumulative == pytest.approx(published, rel=0.03)


# --------------------------------------------------------------------------- public checkpoints
@pytest.mark.parametrize("name", _SMALL)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_msdnet_with_a_public_checkpoint_answers_as_the_public_network(name, prefix, tmp_path):
    options, side = _SMALL[name]
    public = _public_state(**options)
    path = tmp_path / "msdnet.pth.tar"
    torch.save({"state_dict": {prefix + key: value for key, value in public.items()}}, path)
    model = create_model("msdnet", checkpoint=path, **{"num_classes": 10, **options}).eval()
    images = torch.randn(3, 3, side, side)
    with torch.no_grad():
        ours, theirs = [out.logits for out in model(images)], _public_run(public, images)
    assert len(ours) == len(theirs) == options["num_exits"]
    for k, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert other.std() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=lambda m, k=k: f"{k}: {m}")


@pytest.mark.parametrize("name", _PUBLISHED)
def test_msdnet_knows_every_name_and_shape_of_the_public_models(name: str) -> None:
    from offramp.backbones.msdnet_public import from_public

    options = _PUBLISHED[name][0]
    with torch.device("meta"):
        ours = create_model("msdnet", **options).state_dict()
        public = from_public(_public_state(**{"num_classes": 100, "num_exits": 7, **options}))
    shapes = {key: tuple(value.shape) for key, value in ours.items()}
    assert {key: tuple(value.shape) for key, value in public.items()} == shapes


# The networks of github.com/savertm/Block-Dependent-Losses-for-Multi-Exit-Networks, by ``--arch``:
# seven exits on CIFAR, without DataParallel; five on ImageNet, with it, which puts ``module.`` in
# front. Narrower here than there; the names are the same.
_BDL_CIFAR = {"num_exits": 7, "base": 4, "step": 2, "channels": 4, "growth": 2}
_BDL_IMAGENET = {**_IMAGENET, "num_classes": 10, "base": 4, "step": 4, "channels": 4, "growth": 2}
_BDL = {
    "msdnet": (_BDL_CIFAR, 32, ""),
    "msdnet_overlap": (_BDL_CIFAR, 32, ""),
    "msdnet on ImageNet": (_BDL_IMAGENET, 224, "module."),
    "msdnet_overlap_imagenet": (_BDL_IMAGENET, 224, "module."),
}


def _bdl_checkpoint(arch: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The weights, and all that the public code saves with those of its best epoch."""
    options, _, prefix = _BDL[arch]
    public = _public_state(**options)
    learned = [torch.nn.Parameter(value) for value in public.values() if value.is_floating_point()]
    optimizer = torch.optim.SGD(learned[:3], 0.1, momentum=0.9, weight_decay=1e-4)
    for parameter in learned[:3]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return public, {
        "epoch": 299,
        "arch": arch.split(" ")[0],
        "state_dict": OrderedDict((prefix + name, value) for name, value in public.items()),
        "best_prec1": 76.5,
        "optimizer": optimizer.state_dict(),
    }


@pytest.mark.parametrize("arch", _BDL)
def test_msdnet_with_a_checkpoint_of_the_public_bdl_code_answers_as_its_network(arch, tmp_path):
    options, side, _ = _BDL[arch]
    public, saved = _bdl_checkpoint(arch)
    path = tmp_path / "model_best.pth.tar"
    torch.save(saved, path)
    model = create_model("msdnet", checkpoint=path, **{"num_classes": 10, **options}).eval()
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        ours, theirs = [out.logits for out in model(images)], _public_run(public, images)
    assert len(ours) == len(theirs) == model.num_exits
    for k, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert other.std() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=lambda m, k=k: f"{k}: {m}")


def test_msdnet_reads_checkpoints_written_by_an_old_torch(tmp_path) -> None:
    """Before 1.6, torch wrote no zip files; before 0.4.1, batch norm counted no batches."""
    public, saved = _bdl_checkpoint("msdnet_overlap")
    saved["state_dict"] = {n: v for n, v in public.items() if not n.endswith("num_batches_tracked")}
    path = tmp_path / "model_best.pth.tar"
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    model = create_model("msdnet", checkpoint=path, num_classes=10, **_BDL_CIFAR)
    weight = public["classifier.6.linear.weight"]
    assert torch.equal(model.state_dict()["heads.6.classifier.weight"], weight)


def test_msdnet_with_other_exits_or_classes_than_the_checkpoint_says_so(tmp_path) -> None:
    path = tmp_path / "model_best.pth.tar"
    torch.save(_bdl_checkpoint("msdnet_overlap")[1], path)
    came = r"wanted .* num_exits={}, num_classes={}; got .* num_exits=7, num_classes=10$"
    for num_exits, num_classes in ((6, 10), (8, 10), (7, 100)):
        options = {**_BDL_CIFAR, "num_exits": num_exits, "num_classes": num_classes}
        with pytest.raises(CheckpointError, match=came.format(num_exits, num_classes)):
            create_model("msdnet", checkpoint=path, **options)


def test_msdnet_refuses_a_checkpoint_that_lacks_a_name_or_has_another_shape(tmp_path) -> None:
    options, path = _SMALL["even"][0], tmp_path / "msdnet.pth"
    public = _public_state(**options)
    name, ours = "blocks.0.1.layers.2.conv_down.net.0.weight", "segments.0.1.scales.2.down.0.weight"
    wrong = {
        "lacks": {key: value for key, value in public.items() if key != name},
        "shape": {**public, name: public[name][:, :-1]},
        "unknown": {**public, "blocks.9.weight": torch.zeros(1)},
    }
    for kind, state in wrong.items():
        torch.save(state, path)
        with pytest.raises(CheckpointError, match=r"segments\.9" if kind == "unknown" else ours):
            create_model("msdnet", checkpoint=path, num_classes=10, **options)


# --------------------------------------------------------------------------- behaviour
def test_msdnet_steps_through_states_of_any_number_of_rows() -> None:
    model = _small("even").eval()
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        whole = model(images)
        state, out = model.step(0, images)
        rows = torch.tensor([4, 1])
        for k in (1, 2):
            state = take(state, rows) if k == 1 else state
            state, out = model.step(k, state)
            torch.testing.assert_close(out.logits, whole[k].logits[rows], rtol=1e-5, atol=1e-5)


def test_msdnet_state_is_its_live_scales_finest_first() -> None:
    model = _small("even").eval()  # six layers, three scales: one is dropped at layers 3 and 5
    state, shapes = torch.zeros(2, 3, 32, 32), []
    with torch.no_grad():
        for k in range(3):
            state, _ = model.step(k, state)
            shapes.append([tuple(value.shape) for value in state])
    # 4 + 2 * 4 = 12 channels per factor; dropping: (12 + 4) // 2 = 8, + 4 = 12; (12 + 4) // 2 + 4
    assert shapes == [
        [(2, 12, 32, 32), (2, 24, 16, 16), (2, 48, 8, 8)],
        [(2, 24, 16, 16), (2, 48, 8, 8)],
        [(2, 48, 8, 8)],
    ]


def test_msdnet_does_not_change_a_state_that_it_was_given() -> None:
    model = _small("even").train()
    state, _ = model.step(0, torch.randn(4, 3, 32, 32))
    before = [value.clone() for value in state]
    after, out = model.step(1, state)
    for value, kept in zip(state, before, strict=True):
        assert torch.equal(value, kept)
    out.logits.sum().backward()
    assert all(p.grad is not None for p in model.heads[1].parameters())
    assert len(after) == 2


def test_msdnet_gates_every_exit_but_the_last() -> None:
    images = torch.randn(4, 3, 32, 32)
    gates = [out.gate for out in _small("even", gate=True).eval()(images)]
    assert [None if gate is None else tuple(gate.shape) for gate in gates] == [(4,), (4,), None]
    assert all(out.gate is None for out in _small("even").eval()(images))


def test_msdnet_starts_from_he_initialisation_over_the_fan_out() -> None:
    model = _small("even", channels=64)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 10_000:
            wanted = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert module.weight.detach().std().item() == pytest.approx(wanted, rel=0.05)
        elif isinstance(module, torch.nn.Linear):
            assert not module.bias.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": "middle"}, "wanted prune among max, min, got 'middle'"),
        ({"step_mode": "odd"}, "wanted step_mode among even, lin_grow, got 'odd'"),
        ({"stem": "mnist"}, "wanted stem among cifar, imagenet, got 'mnist'"),
        ({"num_exits": 0}, "wanted num_exits as a whole number of at least 1, got 0"),
        ({"num_classes": 0}, "wanted num_classes .* got 0"),
        ({"base": 1.5}, "wanted base .* got 1.5"),
        ({"step": -1}, "wanted step .* got -1"),
        ({"channels": "16"}, "wanted channels .* got '16'"),
        ({"growth": True}, "wanted growth .* got True"),
        ({"growth": 3, "growth_factors": (1, 3, 4)}, "even number of new channels .* growth=3"),
        ({"growth_factors": (1, 2)}, r"of the same length.* got \(1, 2\) and \(1, 2, 4\)"),
        ({"growth_factors": (), "bottleneck_factors": ()}, "of the same length"),
        ({"growth_factors": 4}, "wanted growth_factors as whole numbers of at least 1, got 4"),
        ({"bottleneck_factors": (1, 2, 0)}, r"wanted bottleneck_factors .* got \(1, 2, 0\)"),
        ({"bottleneck": "false"}, "wanted bottleneck as True or False, got 'false'"),
        ({"gate": 1}, "wanted gate as True or False, got 1"),
        ({"reduction": 1.5}, r"wanted reduction in \[0, 1\], got 1.5"),
        ({"reduction": 0.01}, "no channel is left after layer 7 of 16"),
        ({"prune": "min", "num_exits": 1, "base": 1}, "wanted at least 2 layers .* got 1"),
    ],
)
def test_msdnet_says_what_it_wanted(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        create_model("msdnet", **options)


# --------------------------------------------------------------------------- public reference
# Names and shapes in the layout of github.com/kalviny/MSDNet-PyTorch, written out here on its own.
def _public_state(
    *,
    num_classes: int = 10,
    num_exits: int,
    base: int = 4,
    step: int = 2,
    step_mode: str = "even",
    channels: int = 16,
    growth: int = 6,
    growth_factors: tuple[int, ...] = (1, 2, 4),
    bottleneck_factors: tuple[int, ...] = (1, 2, 4),
    bottleneck: bool = True,
    prune: str = "max",
    reduction: float = 0.5,
    stem: str = "cifar",
) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    scales, f, b = len(growth_factors), growth_factors, bottleneck_factors

    def conv_bn(name: str, n_in: int, n_out: int, kernel: int, first: int = 0) -> None:
        state[f"{name}.{first}.weight"] = torch.randn(n_out, n_in, kernel, kernel) / kernel / 4
        for part, value in (
            ("weight", torch.rand(n_out) + 0.5),
            ("bias", torch.randn(n_out) / 4),
            ("running_mean", torch.randn(n_out) / 4),
            ("running_var", torch.rand(n_out) + 0.5),
            ("num_batches_tracked", torch.tensor(7)),
        ):
            state[f"{name}.{first + 1}.{part}"] = value

    def conv(name: str, n_in: int, n_out: int, factor: int) -> None:
        inner = min(n_in, factor * n_out) if bottleneck else n_in
        if bottleneck:
            conv_bn(f"{name}.net", n_in, inner, 1)
        conv_bn(f"{name}.net", inner, n_out, 3, first=3 if bottleneck else 0)

    steps = [base] + [step if step_mode == "even" else step * i + 1 for i in range(1, num_exits)]
    depth, done, n = sum(steps), 0, channels
    for i, length in enumerate(steps):
        j = 0
        if i == 0:
            if stem == "imagenet":
                conv_bn("blocks.0.0.layers.0", 3, n * f[0], 7)
                state["blocks.0.0.layers.0.0.bias"] = torch.randn(n * f[0])
            else:
                conv_bn("blocks.0.0.layers.0.net", 3, n * f[0], 3)
            for s in range(1, scales):
                conv_bn(f"blocks.0.0.layers.{s}.net", n * f[s - 1], n * f[s], 3)
            j = 1
        for _ in range(length):
            done += 1
            if prune == "min":
                live_in, live = min(scales, depth - done + 2), min(scales, depth - done + 1)
            else:
                interval = math.ceil(depth / scales)
                live_in = scales - max(0, done - 2) // interval
                live = scales - (done - 1) // interval
            offset = scales - live
            for s in range(offset, scales):
                at, new = f"blocks.{i}.{j}.layers.{s - offset}", growth * f[s]
                if s == offset and live_in == live:
                    conv(f"{at}.conv_normal", n * f[s], new, b[s])
                else:
                    conv(f"{at}.conv_down", n * f[s - 1], new // 2, b[s - 1])
                    conv(f"{at}.conv_normal", n * f[s], new // 2, b[s])
            j, n = j + 1, n + growth
            third = prune == "min" and done in (math.floor(depth / 3), math.floor(2 * depth / 3))
            if reduction > 0 and (third or (prune == "max" and live_in > live)):
                left = math.floor(reduction * n)
                for s in range(offset, scales):
                    at = f"blocks.{i}.{j}.m.{s - offset}.net"
                    conv_bn(at, n * f[s], left * f[s], 1)
                j, n = j + 1, left
        width = 128 if stem == "cifar" else n * f[-1]
        conv_bn(f"classifier.{i}.m.0.net", n * f[-1], width, 3)
        conv_bn(f"classifier.{i}.m.1.net", width, width, 3)
        state[f"classifier.{i}.linear.weight"] = torch.randn(num_classes, width) / 4
        state[f"classifier.{i}.linear.bias"] = torch.randn(num_classes)
    return state


def _public_run(state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """Logits of every exit, computed from the names alone, in evaluation mode."""

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix + ".") for name in state)

    def conv_bn_relu(name: str, x: Tensor, stride: int, first: int = 0) -> Tensor:
        weight, bias = state[f"{name}.{first}.weight"], state.get(f"{name}.{first}.bias")
        x = F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)
        bn = [f"{name}.{first + 1}.{p}" for p in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *(state[part] for part in bn)))

    def conv(name: str, x: Tensor, stride: int) -> Tensor:
        if f"{name}.net.3.weight" in state:
            x = conv_bn_relu(f"{name}.net", x, 1)
            return conv_bn_relu(f"{name}.net", x, stride, first=3)
        return conv_bn_relu(f"{name}.net", x, stride)

    def first_layer(at: str) -> list[Tensor]:
        if f"{at}.layers.0.0.weight" in state:
            x = F.max_pool2d(conv_bn_relu(f"{at}.layers.0", images, 2), 3, 2, 1)
        else:
            x = conv_bn_relu(f"{at}.layers.0.net", images, 1)
        xs = [x]
        while has(f"{at}.layers.{len(xs)}"):
            xs.append(conv_bn_relu(f"{at}.layers.{len(xs)}.net", xs[-1], 2))
        return xs

    def layer(at: str, xs: list[Tensor]) -> list[Tensor]:
        dropped, out = int(has(f"{at}.layers.0.conv_down")), []
        while has(f"{at}.layers.{len(out)}"):
            name, s = f"{at}.layers.{len(out)}", len(out) + dropped
            new = [conv(f"{name}.conv_down", xs[s - 1], 2)] if has(f"{name}.conv_down") else []
            out.append(torch.cat([xs[s], *new, conv(f"{name}.conv_normal", xs[s], 1)], 1))
        return out

    xs, logits, i = [], [], 0
    while has(f"blocks.{i}"):
        j = 0
        while has(f"blocks.{i}.{j}"):
            at = f"blocks.{i}.{j}"
            if has(f"{at}.m"):
                xs = [conv_bn_relu(f"{at}.m.{s}.net", x, 1) for s, x in enumerate(xs)]
            else:
                xs = layer(at, xs) if has(f"{at}.layers.0.conv_normal") else first_layer(at)
            j += 1
        y = conv_bn_relu(f"classifier.{i}.m.0.net", xs[-1], 2)
        y = F.avg_pool2d(conv_bn_relu(f"classifier.{i}.m.1.net", y, 2), 2).flatten(1)
        linear = f"classifier.{i}.linear"
        logits.append(F.linear(y, state[f"{linear}.weight"], state[f"{linear}.bias"]))
        i += 1
    return logits
