"""Costs are those of formulas: multiply-accumulates, distinct parameters, times on the way."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from offramp.costs import Pieces, count_macs, dear_heads, in_words, measure, percent
from offramp.errors import OfframpWarning, ValidationError
from offramp.heads import DenseHead
from offramp.model import MultiExitModel
from offramp.types import ExitOutput


class Say(nn.Module):
    """A head around a classifier."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, state: Tensor) -> ExitOutput:
        return ExitOutput(self.classifier(state))


def convs() -> MultiExitModel:
    """Two convolutions, inputs [N, 3, 8, 8]; heads on flat maps."""
    segments = [
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5)),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.ReLU()),
    ]
    heads = [Say(nn.Sequential(nn.Flatten(), nn.Linear(n, 5))) for n in (256, 96)]
    return MultiExitModel(segments, heads)


CONV = [64 * 4 * 3 * 9, 16 * 6 * 2 * 9]  # positions * out * in / groups * kernel
HEAD = [256 * 5, 96 * 5]


@pytest.mark.parametrize("rows", [1, 3])
def test_measure_counts_macs_of_segments_and_of_all_heads_on_the_way(rows):
    costs = measure(convs(), torch.zeros(rows, 3, 8, 8), latency=False)
    assert costs.macs.tolist() == [CONV[0] + HEAD[0], sum(CONV) + sum(HEAD)]
    assert costs.full["macs"] == sum(CONV) + HEAD[1]
    assert float(costs.relative()[-1]) > 1
    assert costs.latency_ms is None and "latency_ms" not in costs.full


def test_measure_counts_parameters_cumulatively():
    costs = measure(convs(), torch.zeros(1, 3, 8, 8), latency=False)
    segments = [4 * 3 * 9 + 4 + 8, 6 * 2 * 9 + 6]
    heads = [256 * 5 + 5, 96 * 5 + 5]
    assert costs.params is not None
    assert costs.params.tolist() == [segments[0] + heads[0], sum(segments) + sum(heads)]
    assert costs.full["params"] == sum(segments) + heads[1]


def test_measure_counts_shared_parameters_once():
    shared, classifier = nn.Linear(4, 4), nn.Linear(4, 2)
    model = MultiExitModel([shared, shared, shared], [Say(classifier) for _ in range(3)])
    costs = measure(model, torch.zeros(2, 4), latency=False)
    assert costs.params is not None
    assert costs.params.tolist() == [30, 30, 30]
    assert costs.full["params"] == 30
    assert costs.macs.tolist() == [24, 48, 72]
    assert costs.full["macs"] == 3 * 16 + 8


def vit_block_macs(tokens: int, width: int, mlp: int) -> int:
    projections = 4 * tokens * width * width  # query, key, value, output
    attention = 2 * tokens * tokens * width
    return projections + attention + 2 * tokens * width * mlp


def tiny_vit() -> tuple[MultiExitModel, int, int]:
    """A VisionTransformer cut after each block, its blocks' MACs and those of its stem."""
    vit = VisionTransformer(
        image_size=16,
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=24,
        num_classes=3,
    )

    class Stem(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            tokens = vit._process_input(images)
            return torch.cat([vit.class_token.expand(len(tokens), -1, -1), tokens], 1)

    class First(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens[:, 0]

    blocks = list(vit.encoder.layers)
    segments = [nn.Sequential(Stem(), blocks[0]), blocks[1]]
    heads = [Say(nn.Sequential(First(), nn.Linear(8, 3))) for _ in range(2)]
    return MultiExitModel(segments, heads), vit_block_macs(17, 8, 24), 16 * 8 * 3 * 16


@pytest.mark.parametrize("fast", [True, False])
def test_measure_counts_attention_as_the_formula_does(fast):
    model, block, stem = tiny_vit()
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        costs = measure(model, torch.zeros(2, 3, 16, 16), latency=False)
        assert torch.backends.mha.get_fastpath_enabled() is fast
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
    assert costs.macs.tolist() == [stem + block + 24, stem + 2 * block + 48]
    assert costs.full["macs"] == stem + 2 * block + 24


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inference", [False, True])
def test_measure_counts_an_encoder_layer_in_eval_mode(precision, inference):
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)]
    heads = [Say(nn.Linear(8, 3)) for _ in range(2)]
    model = MultiExitModel(layers, heads).eval()
    autocast = torch.autocast("cpu", precision, enabled=precision != torch.float32)
    with autocast, torch.inference_mode(inference):
        costs = measure(model, torch.zeros(2, 5, 8), latency=False)
    block, head = vit_block_macs(5, 8, 16), 5 * 8 * 3
    assert costs.macs.tolist() == [block + head, 2 * (block + head)]


def test_measure_counts_scaled_dot_product_attention():
    class Attend(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    model = MultiExitModel([Attend()], [Say(nn.Identity())])
    for dtype in (torch.float32, torch.bfloat16):
        costs = measure(model, torch.zeros(3, 2, 40, 16, dtype=dtype), latency=False)
        assert costs.macs.tolist() == [2 * 2 * 40 * 40 * 16]


def test_measure_leaves_modes_weights_and_random_state_alone():
    model = convs().train()
    model.segments[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    measure(model, torch.randn(2, 3, 8, 8, generator=torch.Generator()), repeats=1)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_measure_puts_modes_back_after_an_error():
    model = convs().train()
    with pytest.raises(RuntimeError):
        measure(model, torch.zeros(2, 4, 8, 8))
    assert all(module.training for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


class Sleep(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.rows = seconds, []

    def forward(self, state: Tensor) -> Tensor:
        self.rows.append(len(state))
        time.sleep(self.seconds)
        return state


def sleepy() -> MultiExitModel:
    return MultiExitModel([Sleep(0.004), Sleep(0.008)], [Say(Sleep(0.010)), Say(Sleep(0.002))])


def test_measure_times_what_is_on_the_way():
    costs = measure(sleepy(), torch.zeros(1, 2), warmup=0, repeats=5)
    assert costs.latency_ms is not None and costs.spread_ms is not None
    first, last = costs.latency_ms.tolist()
    assert 14 <= first < last
    assert last >= 24
    assert 14 <= costs.full["latency_ms"] <= last - 10
    assert costs.spread_ms.shape == (2,)
    assert bool((costs.spread_ms >= 0).all())
    assert costs.batch_size == 1


def test_measure_takes_median_and_interquartile_range_over_repeats(monkeypatch):
    model = MultiExitModel([nn.Identity(), nn.Identity()], [Say(nn.Identity()) for _ in range(2)])
    spans = [[1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 4.0, 5.0], [9.0, 9.0, 9.0, 9.0], [1.0, 1.0, 1.0, 2.0]]
    whole = [7.0, 6.0, 20.0, 3.0]  # in one go: less than segments and last head one by one
    clock, ticks = 0.0, []
    for repeat, all_at_once in zip(spans, whole, strict=True):
        ticks.append(clock)  # one reading before the first piece, and one after each
        for span in (*repeat, all_at_once):
            clock += span / 1000
            ticks.append(clock)
    readings = iter(ticks)
    monkeypatch.setattr("offramp.costs.time.perf_counter", lambda: next(readings))
    costs = measure(model, torch.zeros(1, 2), warmup=1, repeats=3)
    # the first repeat is warm-up; cumulative: [4, 13], [18, 36], [2, 5]; full: 6, 20, 3
    assert costs.latency_ms is not None and costs.spread_ms is not None
    assert costs.latency_ms.tolist() == pytest.approx([4, 13])
    assert costs.spread_ms.tolist() == pytest.approx([11 - 3, 24.5 - 9])
    assert costs.full["latency_ms"] == pytest.approx(6)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_measure_times_at_the_batch_size_asked_for(size):
    model = sleepy()
    costs = measure(model, torch.zeros(3, 2), batch_size=size, warmup=1, repeats=2)
    assert model.segments[0].rows[-3:] == [size] * 3
    assert costs.batch_size == size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": nn.Linear(2, 2)}, "wanted a MultiExitModel.*got Linear"),
        ({"example": torch.zeros(0, 3, 8, 8)}, "at least one row"),
        ({"example": torch.tensor(1.0)}, "first dimension, the batch"),
        ({"example": {"a": torch.zeros(2), "b": torch.zeros(3)}}, "first dimension, the batch"),
        ({"repeats": 0}, "repeats >= 1, got 3 and 0"),
        ({"warmup": -1}, "warmup >= 0"),
        ({"batch_size": 0}, "batch_size of at least 1, got 0"),
    ],
)
def test_measure_says_what_is_wrong(options, message):
    arguments = {"model": convs(), "example": torch.zeros(1, 3, 8, 8)} | options
    with pytest.raises(ValidationError, match=message):
        measure(**arguments)


def test_measure_runs_the_original_network_in_one_go_within_each_repeat(monkeypatch):
    events: list[str] = []

    class Note(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, state: Tensor) -> Tensor:
            events.append(self.name)
            return state

    def clock() -> float:
        events.append("clock")
        return 0.0

    model = MultiExitModel([Note("s0"), Note("s1")], [Say(Note("h0")), Say(Note("h1"))])
    monkeypatch.setattr("offramp.costs.time.perf_counter", clock)
    measure(model, torch.zeros(1, 2), warmup=0, repeats=2)
    pieces = [step for name in ("s0", "h0", "s1", "h1") for step in (name, "clock")]
    one_repeat = ["clock", *pieces, "s0", "s1", "h1", "clock"]
    assert events[4:] == 2 * one_repeat  # the first four count multiply-accumulates


def maps(widths: tuple[int | None, int | None]) -> MultiExitModel:
    """Two convolutions of 4 channels on maps, dense heads of 5 classes."""
    segments = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)]
    return MultiExitModel(segments, [DenseHead(4, 5, width=width) for width in widths])


def test_count_macs_gives_segments_and_heads_apart():
    pieces = count_macs(maps((None, 7)).eval(), torch.zeros(2, 3, 6, 8))
    assert pieces.segments.tolist() == [48 * 4 * 3 * 9, 48 * 4 * 4 * 9]
    assert pieces.heads.tolist() == [48 * 4 * 5, 48 * (4 * 7 + 7 * 5)]
    assert pieces.shares.tolist() == pytest.approx([20 / 108, 63 / 144])


def test_measure_warns_once_of_an_early_head_on_a_map_that_is_dear():
    wanted = "the head of exit 0 takes 960 multiply-accumulates, 19 % of its segment's 5.18 k"
    with pytest.warns(OfframpWarning) as seen:
        measure(maps((None, 7)), torch.zeros(2, 3, 6, 8), latency=False)
    assert [str(each.message) for each in seen] == [wanted]  # the last head is the network's own
    assert seen[0].filename == __file__


def test_measure_says_nothing_of_heads_on_labels_nor_of_cheap_ones():
    measure(convs(), torch.zeros(1, 3, 8, 8), latency=False)  # 1280 of 6912
    model = maps((None, 7))
    model.segments[0] = nn.Sequential(nn.Conv2d(3, 9, 5, padding=2), nn.Conv2d(9, 4, 1))
    measure(model, torch.zeros(1, 3, 6, 8), latency=False)  # 20 of 711


def test_dear_heads_are_told_by_exit_and_a_tenth_is_not_dear():
    pieces = Pieces(
        torch.tensor([2e8, 6e8, 1e6]).double(), torch.tensor([2e7, 6.6e8, 9e6]).double()
    )
    [line] = dear_heads(pieces)
    assert line == (
        "the head of exit 1 takes 660 M multiply-accumulates, 110 % of its segment's 600 M"
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (123456, "123 k"), (2.5e6, "2.5 M"), (1e12, "1e+03 G")],
)
def test_counts_are_told_in_three_digits(number: float, words: str):
    assert in_words(number) == words


@pytest.mark.parametrize(("share", "words"), [(0.0, "0.0 %"), (0.0312, "3.1 %"), (2.5, "250 %")])
def test_shares_are_told_in_per_cent(share: float, words: str):
    assert percent(share) == words
