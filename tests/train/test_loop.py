"""`fit` trains as a hand-written loop does, and leaves everything else as it was."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offramp.costs import measure
from offramp.errors import (
    DataError,
    TrainingError,
    UnknownNameError,
    ValidationError,
)
from offramp.model import MultiExitModel
from offramp.objectives.base import Objective
from offramp.objectives.joint import Joint
from offramp.train import fit
from offramp.train.meter import Meter
from offramp.train.seeds import mix
from offramp.types import ExitOutput, Term


def bare_loop(model, inputs, targets, *, epochs, batch_size, lr, seed):
    """SGD with a cosine schedule as one would write it by hand."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    per_epoch = math.ceil(len(targets) / batch_size)
    losses, step = [], 0
    for epoch in range(epochs):
        order = torch.Generator().manual_seed(mix(seed, 0, "order", epoch))
        for rows in torch.randperm(len(targets), generator=order).split(batch_size):
            for group in optimizer.param_groups:
                group["lr"] = lr * ((1 + math.cos(math.pi * (step / (epochs * per_epoch)))) / 2)
            optimizer.zero_grad()
            loss = torch.zeros(())
            for out in model(inputs[rows]):
                loss = loss + F.cross_entropy(out.logits, targets[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
    return losses


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Watch(Objective):
    """Cross-entropy of the last exit; keeps every batch it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.batches, self.outputs, self.costs = [], [], []

    def forward(self, outputs, batch, costs):
        self.batches.append(batch)
        self.outputs.append(outputs)
        self.costs.append(costs)
        return [Term("last", F.cross_entropy(outputs[-1].logits, batch.target))]


def test_fit_equals_a_hand_written_loop_bit_for_bit(tiny, data):
    ours, theirs = tiny(), tiny()
    history = fit(ours, data, epochs=2, batch_size=16, lr=0.05, seed=3, progress=False)
    losses = bare_loop(theirs, *data, epochs=2, batch_size=16, lr=0.05, seed=3)
    assert same(ours, theirs)
    rows = [16, 16, 16, 2]
    for epoch in range(2):
        mean = sum(n * x for n, x in zip(rows, losses[4 * epoch :], strict=False)) / 50
        assert history[epoch]["loss"] == pytest.approx(mean, rel=1e-5)
    assert not same(ours, tiny())


def test_fit_counts_the_right_answers_of_every_exit(tiny, data):
    watch = Watch()
    history = fit(tiny(), data, watch, epochs=1, batch_size=16, progress=False)
    right = [0, 0, 0]
    for outputs, batch in zip(watch.outputs, watch.batches, strict=True):
        for k, out in enumerate(outputs):
            for logits, label in zip(out.logits.tolist(), batch.target.tolist(), strict=True):
                right[k] += logits.index(max(logits)) == label
    assert history[0]["accuracy"] == pytest.approx([n / 50 for n in right])
    assert 0 < sum(right) < 150


def test_fit_learns(tiny, data):
    model = tiny()
    history = fit(model, data, epochs=15, batch_size=16, validation=data, progress=False)
    assert [entry["epoch"] for entry in history] == list(range(15))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["validation_accuracy"][-1] > 0.9
    with torch.no_grad():
        model.eval()
        right = [float((o.logits.argmax(1) == data[1]).float().mean()) for o in model(data[0])]
    assert history[-1]["validation_accuracy"] == pytest.approx(right)
    assert all(entry["images_per_s"] > 0 for entry in history)


def test_fit_same_seed_gives_same_weights_with_dropout(tiny, data):
    def noisy(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)

    def trained(seed: int, draws: int) -> MultiExitModel:
        model = tiny(dropout=0.3)
        torch.rand(draws)  # another global random state
        fit(model, data, epochs=2, batch_size=16, seed=seed, augment=noisy, progress=False)
        return model

    assert same(trained(1, 0), trained(1, 7))
    assert not same(trained(1, 0), trained(2, 0))


def test_fit_leaves_the_global_random_state_alone(tiny, data):
    before = torch.get_rng_state()
    fit(tiny(dropout=0.5), data, epochs=1, validation=data, progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_fit_augment_changes_what_the_model_sees_in_training_only(tiny, data):
    watch, seen = Watch(), []

    def zero(inputs: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(inputs)
        return torch.zeros_like(inputs)

    fit(tiny(), data, watch, epochs=1, batch_size=25, augment=zero, validation=data, progress=False)
    assert len(seen) == 2
    assert all(not batch.inputs.any() for batch in watch.batches)


# ------------------------------------------------------------------ heads only
def test_fit_heads_moves_the_early_heads_and_nothing_else(tiny, data):
    model = tiny(dropout=0.3)
    before = copy.deepcopy(model.state_dict())
    fit(model, data, epochs=2, batch_size=16, train="heads", progress=False)
    after = model.state_dict()
    early = ("heads.0.", "heads.1.")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(early)}
    assert "heads.0.0.running_mean" in moved


def test_fit_heads_of_an_attached_network_leaves_the_network_alone(data):
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    cut = [network[:3], network[3:]]
    last = nn.Module()
    last.forward = ExitOutput  # the network's own logits
    early = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), _Say())
    model = MultiExitModel(cut, [early, last], network=network)
    before, heads = copy.deepcopy(network.state_dict()), copy.deepcopy(early.state_dict())
    fit(model, data, epochs=1, batch_size=16, train="heads", progress=False)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not torch.equal(heads["1.weight"], early[1].weight)
    fit(model, data, epochs=1, batch_size=16, progress=False)
    assert not torch.equal(before["0.weight"], network[0].weight)
    assert not torch.equal(before["1.running_mean"], network[1].running_mean)


class _Say(nn.Module):
    def forward(self, logits: Tensor) -> ExitOutput:
        return ExitOutput(logits)


@pytest.mark.parametrize("train", ["all", "heads"])
@pytest.mark.parametrize("fails", [False, True])
def test_fit_puts_modes_and_flags_back(tiny, data, train, fails):
    model = tiny()
    model.eval()
    model.segments[1].train()
    model.segments[0][0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]

    class Fails(Watch):
        def forward(self, outputs, batch, costs):
            if len(self.batches) == 2:
                raise RuntimeError("on purpose")
            early = F.cross_entropy(outputs[0].logits, batch.target)
            return [*super().forward(outputs, batch, costs), Term("first", early)]

    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            fit(model, data, Fails(), epochs=1, batch_size=16, train=train, progress=False)
    else:
        fit(model, data, epochs=1, train=train, validation=data, progress=False)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert torch.equal(model.segments[0][0].weight, tiny().segments[0][0].weight)


def test_fit_trains_in_train_mode_and_validates_in_eval_mode(tiny, data):
    model = tiny().eval()
    seen = []
    model.segments[0].register_forward_hook(lambda m, i, o: seen.append((m.training, len(o))))
    fit(
        model,
        data,
        epochs=2,
        batch_size=25,
        validation=data,
        costs=measure(tiny(), data[0][:1], latency=False),
        progress=False,
    )
    assert seen == 2 * (2 * [(True, 25)] + 2 * [(False, 25)])


# ------------------------------------------------------------------- objectives
def test_fit_hands_rows_progress_and_costs_to_the_objective(tiny, data):
    inputs, targets = data
    watch = Watch()
    fit(tiny(), data, watch, epochs=2, batch_size=16, progress=False)
    for batch in watch.batches:
        assert torch.equal(batch.inputs, inputs[batch.index])
        assert torch.equal(batch.target, targets[batch.index])
    first = torch.cat([batch.index for batch in watch.batches[:4]])
    second = torch.cat([batch.index for batch in watch.batches[4:]])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()
    assert [batch.progress for batch in watch.batches] == [i / 8 for i in range(8)]
    wanted = measure(tiny(), inputs[:1], latency=False)
    assert all(torch.equal(costs.macs, wanted.macs) for costs in watch.costs)
    assert all(costs.latency_ms is None for costs in watch.costs)


def test_fit_uses_the_costs_it_is_given(tiny, data):
    watch = Watch()
    costs = measure(tiny(), data[0], latency=False)
    fit(tiny(), data, watch, epochs=1, costs=costs, progress=False)
    assert watch.costs[0] is costs


def test_fit_trains_the_objective_too(tiny, data):
    class Learns(Watch):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs, batch, costs):
            return [Term("scaled", F.cross_entropy(self.scale * outputs[-1].logits, batch.target))]

    objective = Learns()
    fit(tiny(), data, objective, epochs=1, batch_size=16, progress=False)
    assert objective.scale.item() != 1.0


def test_fit_trains_only_from_the_segment_that_a_term_says(tiny, data):
    class Routed(Joint):
        def since(self, num_exits, progress):
            return [0, 1, 2]

    model, before = tiny(), tiny()
    fit(model, data, Routed([0, 0, 1]), epochs=1, batch_size=16, weight_decay=0.0, progress=False)
    then = dict(before.named_parameters())
    moved = [name for name, now in model.named_parameters() if not torch.equal(now, then[name])]
    assert moved and all(name.startswith(("segments.2", "heads.2")) for name in moved), moved


def test_fit_stops_at_a_loss_that_is_not_finite(tiny, data):
    class Breaks(Watch):
        def forward(self, outputs, batch, costs):
            value = super().forward(outputs, batch, costs)[0].value
            bad = math.nan if len(self.batches) == 3 else 1.0
            return [Term("fine", value), Term("broken", bad * value)]

    with pytest.raises(TrainingError, match=r"got nan for broken at step 2 \(epoch 0\)"):
        fit(tiny(), data, Breaks(), epochs=1, batch_size=16, progress=False)


# --------------------------------------------------------------------- settings
def test_fit_bf16_runs_the_model_under_autocast_and_the_loss_in_float32(tiny, data):
    model, watch = tiny(), Watch()
    seen = []
    model.segments[0][0].register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    costs = measure(tiny(), data[0][:1], latency=False)
    history = fit(
        model, data, watch, epochs=1, batch_size=25, precision="bf16", costs=costs, progress=False
    )
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert all(out.logits.dtype == torch.float32 for outs in watch.outputs for out in outs)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert math.isfinite(history[0]["loss"])


def test_fit_channels_last_lays_out_weights_and_inputs(tiny, data):
    model, watch = tiny(), Watch()
    fit(model, data, watch, epochs=1, channels_last=True, progress=False)
    last = torch.channels_last
    assert watch.batches[0].inputs.is_contiguous(memory_format=last)
    assert not watch.batches[0].inputs.is_contiguous()
    assert model.segments[1][0].weight.is_contiguous(memory_format=last)
    other = tiny()
    fit(other, data, Watch(), epochs=1, progress=False)
    torch.testing.assert_close(dict(model.state_dict()), dict(other.state_dict()))


def test_fit_sets_the_rate_of_every_step_by_schedule_and_warmup(tiny, data):
    rates = []

    class Watching(torch.optim.SGD):
        def step(self, closure=None):
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    def make(parameters):
        half = len(parameters) // 2
        groups = [{"params": parameters[:half]}, {"params": parameters[half:], "lr": 1.0}]
        return Watching(groups, lr=0.1)

    history = fit(
        tiny(),
        data,
        epochs=2,
        batch_size=16,
        optimizer=make,
        warmup=0.25,
        schedule=lambda progress: 1 - progress,
        progress=False,
    )
    shares = [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [a for a, _ in rates] == pytest.approx([0.1 * share for share in shares])
    assert [b for _, b in rates] == pytest.approx(shares)
    assert history[-1]["lr"] == pytest.approx(0.1 / 6)


def test_fit_adamw_equals_torchs(tiny, data):
    ours, theirs = tiny(), tiny()
    options = {"epochs": 1, "batch_size": 50, "progress": False, "schedule": "constant"}
    fit(ours, data, optimizer="adamw", lr=0.01, weight_decay=0.1, **options)
    theirs.train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(mix(0, 0, "order", 0)))
    sum(F.cross_entropy(o.logits, data[1][order]) for o in theirs(data[0][order])).backward()
    optimizer.step()
    assert same(ours, theirs)


def test_fit_shows_a_bar_on_standard_error_only_when_asked(tiny, data, capsys):
    fit(tiny(), data, epochs=1, progress=False)
    assert capsys.readouterr() == ("", "")
    fit(tiny(), data, epochs=1, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "loss" in shown.err
    assert "1/1" in shown.err


def test_fit_shows_the_phase_and_the_last_validation_figure(tiny, data, monkeypatch):
    shown = []
    monkeypatch.setattr(Meter, "read", lambda self: shown.append(self.note))
    phases = [{}, {"train": "heads"}]
    fit(tiny(), data, epochs=2, phases=phases, validation=data, progress=False)
    assert shown[0] == "phase 1/2  epoch 1/2"
    assert shown[-1].startswith("phase 2/2  epoch 2/2  validation ") and shown[-1].endswith(" %")


# ----------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValidationError, "epochs as a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, ValidationError, "batch_size as a whole number"),
        ({"lr": -1.0}, ValidationError, "lr above 0, got -1"),
        (
            {"optimizer": "lion"},
            ValidationError,
            r"\['sgd', 'adam', 'adamw'\] or a function.*'lion'",
        ),
        ({"schedule": "steep"}, ValidationError, r"\['constant', 'cosine'.*'step'\].*'steep'"),
        ({"precision": "fp8"}, ValidationError, r"\['float32', 'bf16', 'auto'\], got 'fp8'"),
        ({"train": "tail"}, ValidationError, r"\['all', 'heads', 'gates'\].*from 0 to 2.*'tail'"),
        ({"warmup": 1.0}, ValidationError, r"warmup in \[0, 1\), got 1.0"),
        ({"momentum": 1.0}, ValidationError, r"momentum in \[0, 1\), got 1.0"),
        ({"weight_decay": -0.1}, ValidationError, "weight_decay in"),
        ({"nesterov": True, "momentum": 0.0}, ValidationError, "momentum above 0 with nesterov"),
        ({"objective": "jiont"}, UnknownNameError, "did you mean 'joint'"),
        ({"objective": nn.CrossEntropyLoss()}, ValidationError, "got CrossEntropyLoss"),
        ({"model": nn.Linear(2, 2)}, ValidationError, "wanted a MultiExitModel.*got Linear"),
        ({"data": [1, 2, 3]}, DataError, "a Dataset of pairs .*got int"),
        ({"validation": "cifar"}, DataError, "got str"),
        ({"costs": [0.5, 1.0]}, ValidationError, "costs as measure gives them, got list"),
    ],
)
def test_fit_says_what_is_wrong_with_an_option(tiny, data, options, error, message):
    arguments = {"model": tiny(), "data": data, "epochs": 1, "progress": False} | options
    with pytest.raises(error, match=message):
        fit(**arguments)


def test_fit_says_that_costs_are_of_another_model(tiny, data):
    costs = measure(MultiExitModel([nn.Identity()], [_Say()]), torch.zeros(1, 2), latency=False)
    with pytest.raises(ValidationError, match="costs of 3 exits, got 1"):
        fit(tiny(), data, epochs=1, costs=costs, progress=False)


def test_fit_says_that_there_is_nothing_to_train(tiny, data):
    with pytest.raises(ValidationError, match="requires_grad is False for all"):
        fit(tiny().requires_grad_(False), data, epochs=1, progress=False)
    single = MultiExitModel([nn.Flatten()], [nn.Sequential(nn.Linear(72, 3), _Say())])
    with pytest.raises(ValidationError, match="single exit"):
        fit(single, data, epochs=1, train="heads", progress=False)


def test_fit_refuses_what_torch_computes_wrongly_on_a_cpu(tiny, data):
    """Weight gradients of dilated convolutions in bf16 and channels last."""
    model = tiny()
    model.segments[1][0] = nn.Conv2d(4, 6, 3, padding=2, dilation=2)
    options = {"epochs": 1, "precision": "bf16", "progress": False}
    with pytest.raises(ValidationError, match="channels_last=False beside precision='bf16'"):
        fit(model, data, "joint", channels_last=True, **options)
    phases = [{"epochs": 1}, {"epochs": 1, "channels_last": True}]
    with pytest.raises(ValidationError, match="dilated convolutions, got True and 1 of them"):
        fit(model, data, "joint", phases=phases, precision="bf16", progress=False)
    fit(model, data, "joint", **options)


@pytest.mark.parametrize("groups", [1, 24])
def test_dilated_convolutions_in_bf16_have_the_right_gradient_in_the_plain_layout(groups):
    """What `fit` leaves allowed is right."""
    torch.manual_seed(0)
    conv = nn.Conv2d(24, 24, 3, padding=4, dilation=4, groups=groups, bias=False)
    inputs, pull = torch.randn(4, 24, 23, 30), torch.randn(4, 24, 23, 30)
    with torch.autocast("cpu", torch.bfloat16):
        conv(inputs).backward(pull.bfloat16())
    found, conv.weight.grad = conv.weight.grad, None
    conv(inputs).backward(pull)
    assert (found - conv.weight.grad).norm() < 0.02 * conv.weight.grad.norm()
