from __future__ import annotations

import copy
import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

from offramp.backbones.encoder import cut_stack, is_stack, stack_places, trim_padding
from offramp.errors import PlaceError, UnsupportedError, ValidationError
from offramp.heads import LinearHead
from offramp.model import MultiExitModel
from offramp.trees import take
from offramp.types import ExitOutput

tr = pytest.importorskip("transformers")

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
TEXT = {**SIZE, "vocab_size": 50, "max_position_embeddings": 40, "num_labels": 3}
DISTIL = {
    "dim": 32,
    "hidden_dim": 64,
    "n_layers": 4,
    "n_heads": 2,
    "vocab_size": 50,
    "num_labels": 3,
}
IMAGE = {
    **SIZE,
    "image_size": 16,
    "patch_size": 4,
    "num_labels": 3,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
SPECIAL = {name: 1 for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")}
MODERN = {
    **TEXT,
    **SPECIAL,
    "pad_token_id": 0,
    "global_attn_every_n_layers": 2,
    "local_attention": 4,
    "attention_dropout": 0.1,
    "mlp_dropout": 0.1,
    "embedding_dropout": 0.1,
}
# the name of the list of layers changed within version 5 of transformers
VIT = "layers" if hasattr(tr.ViTModel(tr.ViTConfig(**IMAGE)), "layers") else "encoder.layer"
FAMILIES = {
    "Bert": ("ForSequenceClassification", TEXT, "bert.encoder.layer"),
    "Roberta": ("ForSequenceClassification", TEXT, "roberta.encoder.layer"),
    "DistilBert": ("ForSequenceClassification", DISTIL, "distilbert.transformer.layer"),
    "Electra": (
        "ForSequenceClassification",
        {**TEXT, "embedding_size": 16},
        "electra.encoder.layer",
    ),
    "ModernBert": ("ForSequenceClassification", MODERN, "model.layers"),
    "ViT": ("ForImageClassification", IMAGE, f"vit.{VIT}"),
    "DeiT": ("ForImageClassification", IMAGE, f"deit.{VIT}"),
    "Dinov2": ("ForImageClassification", IMAGE, "dinov2.encoder.layer"),
}
TEXTS = [name for name, (task, _, _) in FAMILIES.items() if task == "ForSequenceClassification"]
LENGTHS = (9, 4, 7, 2, 5)

every_family = pytest.mark.parametrize("family", FAMILIES)
both_attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def _network(family: str, attention: str = "sdpa", **options: object) -> nn.Module:
    task, config, _ = FAMILIES[family]
    made = getattr(tr, f"{family}Config")(**{**config, **options}, attn_implementation=attention)
    return _loud(getattr(tr, family + task)(made)).eval()


def _loud(network: nn.Module) -> nn.Module:
    """Weights large enough that every part of the network moves the logits."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(noise, alpha=0.2)
    return network


def _inputs(family: str, rows: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    if family not in TEXTS:
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}
    lengths = torch.tensor(LENGTHS)[torch.arange(rows) % len(LENGTHS)]
    mask = (torch.arange(9) < lengths[:, None]).long()  # [N, L]
    ids = torch.randint(4, 50, (rows, 9), generator=generator)
    pad = 1 if family == "Roberta" else 0
    return {"input_ids": ids.where(mask.bool(), pad), "attention_mask": mask}


def _places(family: str, *numbers: int) -> list[str]:
    return [f"{FAMILIES[family][2]}.{number}" for number in numbers]


def _model(network: nn.Module, at: list[str], example: object, **options: object) -> MultiExitModel:
    parts = cut_stack(network, at, example, **options)  # type: ignore[arg-type]
    model = MultiExitModel(
        parts.segments, parts.heads, network=parts.network, compact=parts.compact
    )
    return model.train(network.training)


def _last(model: MultiExitModel, inputs: object) -> torch.Tensor:
    """The last exit's logits, early heads not run."""
    state = inputs
    for segment in model.segments:
        state = segment(state)
    return model.heads[-1](state).logits


# ----------------------------------------------------------- the same as the uncut network
@both_attentions
@every_family
def test_last_exit_equals_uncut_bit_for_bit_in_eval(family: str, attention: str) -> None:
    network = _network(family, attention)
    model = _model(network, _places(family, 1), _inputs(family, 3))
    for rows in (5, 1):  # other batch sizes than the example's
        inputs = _inputs(family, rows)
        with torch.no_grad():
            wanted, outputs = network(**inputs).logits, model(inputs)
        assert torch.equal(outputs[-1].logits, wanted)
        assert [out.logits.shape for out in outputs] == [(rows, 3)] * 2


@both_attentions
@every_family
def test_last_exit_equals_uncut_with_the_same_seed_in_training(family: str, attention: str) -> None:
    network = _network(family, attention).train()
    model = _model(network, _places(family, 0, 2), _inputs(family, 3))
    inputs, answers = _inputs(family, 5), []
    assert model.training and all(module.training for module in network.modules())
    for run in (lambda: network(**inputs).logits, lambda: _last(model, inputs)):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            answers.append(run())
    assert torch.equal(*answers)
    assert not torch.equal(answers[0], network.eval()(**inputs).logits)  # dropout was on


@every_family
def test_gradients_of_the_last_exit_equal_those_of_the_uncut_network(family: str) -> None:
    network, inputs, target = _network(family), _inputs(family, 5), torch.tensor([0, 1, 2, 0, 1])
    model = _model(network, _places(family, 0, 1), inputs)
    grads = []
    for run in (lambda: network(**inputs).logits, lambda: _last(model, inputs)):
        network.zero_grad()
        nn.functional.cross_entropy(run(), target).backward()
        grads.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert f"{_places(family, 0)[0]}." in " ".join(grads[0])
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


@every_family
def test_segments_share_out_the_parameters_that_are_used(family: str) -> None:
    network, inputs = _network(family), _inputs(family, 3)
    model = _model(network, _places(family, 0, 2), inputs)
    network(**inputs).logits.sum().backward()
    owned = [{id(p) for p in segment.parameters()} for segment in model.segments]
    union = set().union(*owned)
    assert sum(map(len, owned)) == len(union)
    assert {id(p) for p in network.parameters() if p.grad is not None} <= union
    assert union <= {id(p) for p in network.parameters()}
    for k, numbers in enumerate([(0,), (1, 2), (3,)]):
        for name in _places(family, *numbers):
            assert {id(p) for p in network.get_submodule(name).parameters()} <= owned[k]
    embedding = network.base_model.embeddings  # type: ignore[union-attr]
    assert {id(p) for p in embedding.parameters()} <= owned[0]
    assert id(network.classifier.parameters().__next__()) in owned[-1]  # type: ignore[union-attr]


def test_early_exit_reads_its_layer_and_moves_nothing_behind_it() -> None:
    network, inputs = _network("Bert"), _inputs("Bert", 5)
    model = _model(network, _places("Bert", 1), inputs)
    state, out = model.step(0, inputs)
    with torch.no_grad():
        wanted = network.bert(**inputs, output_hidden_states=True).hidden_states[2]  # type: ignore[operator]
    assert torch.equal(state["hidden"], wanted)
    out.logits.sum().backward()
    moved = {
        n.split(".")[3]
        for n, p in network.named_parameters()
        if ".layer." in n and p.grad is not None
    }
    assert moved == {"0", "1"}


@pytest.mark.slow
@both_attentions
@every_family
def test_three_cuts_equal_uncut(family: str, attention: str) -> None:
    for at in ((0,), (2,), (0, 1, 2)):
        network, inputs = _network(family, attention), _inputs(family, 5)
        model = _model(network, _places(family, *at), _inputs(family, 2))
        assert model.num_exits == len(at) + 1
        assert torch.equal(_last(model, inputs), network(**inputs).logits)


# ---------------------------------------------------------------------------- compaction
@both_attentions
@pytest.mark.parametrize("family", TEXTS)
def test_compaction_drops_trailing_padding_and_keeps_every_answer(
    family: str, attention: str
) -> None:
    network, inputs = _network(family, attention), _inputs(family, 5)
    model = _model(network, _places(family, 0, 1), inputs)
    with torch.no_grad():
        wanted = network(**inputs).logits
        state, _ = model.step(0, inputs)
        state = model.compact(state, torch.tensor([1, 2, 3]))
        assert state["hidden"].shape == (3, 7, 32) and state["attention_mask"].shape == (3, 7)
        state, _ = model.step(1, state)
        state = model.compact(state, torch.tensor([0, 2]))
        assert state["hidden"].shape == (2, 4, 32)
        logits = model.step(2, state)[1].logits
        for row, number in zip(logits, (1, 3), strict=True):
            torch.testing.assert_close(row, wanted[number], rtol=1e-5, atol=1e-5)
            alone = {name: value[number : number + 1] for name, value in inputs.items()}
            torch.testing.assert_close(row, network(**alone).logits[0], rtol=1e-5, atol=1e-5)


def test_trimming_keeps_leading_columns_and_unpadded_states() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    state = {"hidden": torch.arange(30.0).view(3, 5, 2), "attention_mask": mask}
    kept = trim_padding(state, torch.tensor([0, 1]))
    assert torch.equal(kept["attention_mask"], mask[:2, :4])
    assert torch.equal(kept["hidden"], state["hidden"][:2, :4])
    assert trim_padding(state, torch.tensor([2]))["hidden"].shape == (1, 5, 2)
    assert trim_padding({"hidden": state["hidden"]}, torch.tensor([2]))["hidden"].shape == (1, 5, 2)
    assert trim_padding(state, torch.tensor([], dtype=torch.long))["hidden"].shape == (0, 5, 2)
    assert torch.equal(trim_padding(mask, torch.tensor([1])), mask[1:2])


def test_network_that_reads_padding_is_not_trimmed() -> None:
    config = tr.ConvBertConfig(**TEXT, embedding_size=32, attn_implementation="eager")
    network = _loud(tr.ConvBertForSequenceClassification(config)).eval()
    inputs = _inputs("Bert", 5)
    parts = cut_stack(network, stack_places(network)[:1], inputs)
    assert parts.compact is take
    assert cut_stack(_network("Bert"), _places("Bert", 0), inputs).compact is trim_padding


# --------------------------------------------------------------------------------- heads
@pytest.mark.parametrize("head", ["auto", "linear"])
def test_named_heads_add_a_gate_to_early_exits_alone(head: str) -> None:
    inputs = _inputs("Bert", 5)
    model = _model(_network("Bert"), _places("Bert", 0, 1), inputs, head=head, gate=True)
    outputs = model(inputs)
    assert [out.gate is None for out in outputs] == [False, False, True]
    assert [out.logits.shape for out in outputs] == [(5, 3)] * 3


def test_linear_head_averages_the_tokens_that_are_no_padding() -> None:
    inputs = _inputs("Bert", 5)
    model = _model(_network("Bert"), _places("Bert", 0), inputs, head="linear")
    state, out = model.step(0, inputs)
    for row, length in enumerate(LENGTHS):
        mean = state["hidden"][row, :length].mean(0)
        torch.testing.assert_close(out.logits[row], model.heads[0].classifier(mean))  # type: ignore[operator]


def test_function_makes_the_heads_from_the_shape() -> None:
    seen: list[tuple[int, ...]] = []

    def logits(shape: tuple[int, ...]) -> nn.Module:
        seen.append(shape[1:])
        return nn.Sequential(nn.Flatten(1), nn.Linear(shape[1] * shape[2], 3))

    def head(shape: tuple[int, ...]) -> nn.Module:
        return LinearHead(shape[-1], 3, layout="channels_last", gate=True)

    inputs = _inputs("ViT", 3)
    first = _model(_network("ViT"), _places("ViT", 0, 1), inputs, head=logits)
    assert seen == [(17, 32)] * 2
    assert all(isinstance(out, ExitOutput) and out.logits.shape == (3, 3) for out in first(inputs))
    second = _model(_network("ViT"), _places("ViT", 0), inputs, head=head)
    assert second(inputs)[0].gate is not None


def test_auto_head_has_the_dropout_of_the_configuration() -> None:
    network = _network("Bert", hidden_dropout_prob=0.25)
    parts = cut_stack(network, _places("Bert", 0), _inputs("Bert", 2))
    assert parts.heads[0].dropout.p == 0.25  # type: ignore[union-attr]


# ------------------------------------------------------------------- sharing and copying
class _Telling(tr.BertForSequenceClassification):
    """Adds 1 to the logits in training: its own forward looks at its mode."""

    @functools.wraps(tr.BertForSequenceClassification.forward)
    def forward(self, *args: object, **kwargs: object) -> object:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits + float(self.training)
        return out


def test_mode_of_the_network_alone_reaches_the_segments() -> None:
    options = {**TEXT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    network, inputs = _Telling(tr.BertConfig(**options)).eval(), _inputs("Bert", 3)
    model = _model(network, _places("Bert", 0), inputs)
    quiet = _last(model, inputs)
    network.train()
    assert torch.equal(_last(model, inputs), quiet + 1)
    network.eval()
    assert torch.equal(_last(model, inputs), quiet)
    assert torch.equal(_last(model.train(), inputs), quiet + 1)


def test_cut_leaves_the_network_as_it_was() -> None:
    network, inputs = _network("Bert"), _inputs("Bert", 3)
    network.bert.encoder.layer[1].train()  # type: ignore[union-attr]
    modes = {name: module.training for name, module in network.named_modules()}
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    original = {name: value.clone() for name, value in inputs.items()}
    parts = cut_stack(network, _places("Bert", 0), inputs, head=lambda shape: _First())
    assert torch.equal(random, torch.get_rng_state())
    assert modes == {name: module.training for name, module in network.named_modules()}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(value, original[name]) for name, value in inputs.items())
    assert parts.network is network and not parts.heads[0].training


class _First(nn.Module):
    """Logits without parameters: three features of the first token."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return feature[:, 0, :3]


def test_state_dict_has_the_network_once_under_its_own_names() -> None:
    network, inputs = _network("Bert"), _inputs("Bert", 3)
    names = {f"network.{name}" for name in network.state_dict()}
    model = _model(network, _places("Bert", 0), inputs)
    assert {name for name in model.state_dict() if not name.startswith("heads.")} == names
    other = _network("Bert")
    for parameter in other.parameters():
        parameter.data.mul_(0.9)
    network.load_state_dict(other.state_dict())
    assert torch.equal(_last(model, inputs), other(**inputs).logits)


def test_moving_the_model_moves_the_segments() -> None:
    network, inputs = _network("DistilBert"), _inputs("DistilBert", 3)
    model = _model(network, _places("DistilBert", 0), inputs).to(torch.float64)
    assert {out.logits.dtype for out in model(inputs)} == {torch.float64}
    assert torch.equal(_last(model, inputs), network(**inputs).logits)


@pytest.mark.parametrize("family", ["Bert", "ViT"])
def test_deep_copy_is_independent(family: str) -> None:
    network, inputs = _network(family), _inputs(family, 3)
    model = _model(network, _places(family, 0, 1), inputs)
    wanted = _last(model, inputs)
    twin = copy.deepcopy(model)
    assert torch.equal(_last(twin, inputs), wanted)
    ids = {id(p) for p in twin.network.parameters()}  # type: ignore[union-attr]
    assert {id(p) for s in twin.segments for p in s.parameters()} <= ids
    assert not ids & {id(p) for p in network.parameters()}
    for parameter in twin.network.parameters():  # type: ignore[union-attr]
        parameter.data.mul_(0.9)
    assert torch.equal(_last(twin, inputs), twin.network(**inputs).logits)  # type: ignore[misc]
    assert not torch.equal(_last(twin, inputs), wanted)
    assert torch.equal(_last(model, inputs), wanted)


def test_heads_have_the_dtype_of_the_network() -> None:
    network = _network("ViT").to(torch.bfloat16)
    inputs = {"pixel_values": _inputs("ViT", 3)["pixel_values"].bfloat16()}
    model = _model(network, _places("ViT", 1), inputs)
    assert {out.logits.dtype for out in model(inputs)} == {torch.bfloat16}
    assert torch.equal(_last(model, inputs), network(**inputs).logits)


# -------------------------------------------------------------------------------- inputs
def test_one_tensor_and_batch_encoding_are_accepted() -> None:
    for family in ("ViT", "Bert"):
        network, inputs = _network(family), _inputs(family, 3)
        tensor = next(iter(inputs.values()))
        model = _model(network, _places(family, 0), tensor)
        assert torch.equal(_last(model, tensor), network(tensor).logits)
    encoding = tr.BatchEncoding(dict(inputs))
    model = _model(network, _places("Bert", 0), encoding)
    assert torch.equal(_last(model, encoding), network(**inputs).logits)
    assert torch.equal(_last(model, inputs), network(**inputs).logits)


def test_inputs_of_the_first_segment_alone_are_not_carried() -> None:
    network, inputs = _network("Bert"), _inputs("Bert", 5)
    inputs["token_type_ids"] = (torch.arange(9) > 3).long().expand(5, 9)
    inputs["position_ids"] = torch.arange(9).flip(0).expand(5, 9)
    model = _model(network, _places("Bert", 0), inputs)
    assert sorted(model.segments[0](inputs)) == ["attention_mask", "hidden"]
    assert torch.equal(_last(model, inputs), network(**inputs).logits)


def test_configured_extra_outputs_change_nothing() -> None:
    network = _network("Bert", "eager", output_hidden_states=True, output_attentions=True)
    network.config.return_dict = False
    inputs = _inputs("Bert", 3)
    model = _model(network, _places("Bert", 0), inputs)
    assert torch.equal(_last(model, inputs), network(**inputs)[0])
    assert len(network(**inputs)[1]) == 5


def test_places_are_all_layers_but_the_last() -> None:
    for family in FAMILIES:
        network = _network(family)
        assert is_stack(network)
        assert stack_places(network) == _places(family, 0, 1, 2)


BERT = "bert.encoder.layer."
VALID = r"valid places, in order: bert\.encoder\.layer\.0, .*layer\.1, bert\.encoder\.layer\.2$"
BAD_PLACES = {
    "unknown": ([f"{BERT}9"], "got 'bert.encoder.layer.9'"),
    "inside a layer": ([f"{BERT}1.attention"], "wanted places of this network"),
    "embeddings": (["bert.embeddings"], "wanted places of this network"),
    "equal": ([f"{BERT}1", f"{BERT}1"], "wanted each place once"),
    "last": ([f"{BERT}0", f"{BERT}3"], "only the classifier is left"),
    "out of order": ([f"{BERT}2", f"{BERT}0"], "in the order they run"),
    "none": ([], "at least one place"),
    "a bare name": (f"{BERT}1", "wanted a list"),
}


@pytest.mark.parametrize("case", BAD_PLACES)
def test_bad_places_are_refused_with_the_valid_ones(case: str) -> None:
    at, message = BAD_PLACES[case]
    with pytest.raises(PlaceError, match=VALID) as caught:
        cut_stack(_network("Bert"), at, _inputs("Bert", 2))
    assert message in str(caught.value)


IDS = torch.randint(4, 50, (2, 9), generator=torch.Generator().manual_seed(0))
BAD_EXAMPLES = {
    "no main input": ({"attention_mask": torch.ones(2, 9)}, "does not run"),
    "not batch-first": ({"input_ids": IDS, "attention_mask": torch.ones(9, 2)}, "first dimension"),
    "one row of positions": (
        {"input_ids": IDS, "position_ids": torch.arange(9)[None]},
        "first dim",
    ),
    "a list": ({"input_ids": IDS.tolist()}, "input_ids: list"),
    "nothing": ({}, "nothing"),
    "no rows": ({"input_ids": IDS[:0]}, "at least one row"),
    "labels": ({"input_ids": IDS, "labels": torch.tensor([0, 1])}, "labels"),
    "unknown name": ({"input_ids": IDS, "colour": IDS}, "colour"),
    "wrong tensor": (torch.rand(2, 9), "does not run"),
}


@pytest.mark.parametrize("case", BAD_EXAMPLES)
def test_bad_examples_are_refused(case: str) -> None:
    example, message = BAD_EXAMPLES[case]
    with pytest.raises(ValidationError, match=message):
        cut_stack(_network("Bert"), _places("Bert", 0), example)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 5}, "num_classes=3"),
        ({"head": "conv"}, "conv head does not fit"),
        ({"head": lambda shape: nn.Identity(), "gate": True}, "its own gate"),
        ({"head": lambda shape: nn.Linear(shape[-1], 3)}, r"got \(3, 9, 3\)"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        cut_stack(_network("Bert"), _places("Bert", 0), _inputs("Bert", 2), **options)  # type: ignore[arg-type]


def test_inputs_with_other_names_than_the_example_are_refused() -> None:
    inputs = _inputs("Bert", 3)
    model = _model(_network("Bert"), _places("Bert", 0), inputs)
    with pytest.raises(ValidationError, match=r"wanted inputs \['attention_mask', 'input_ids'\]"):
        model(inputs["input_ids"])


# ------------------------------------------------------------------------------ refusals
class _Scaled(tr.BertModel):
    """Does something to the tokens outside of a module, as Gemma does."""

    def _create_attention_masks(self, embedding_output: torch.Tensor, **given: object) -> object:
        embedding_output.mul_(1.5)
        return super()._create_attention_masks(embedding_output=embedding_output, **given)


class _Dropped(tr.BertModel):
    """Drops tokens by a function: in eval mode, this is not seen."""

    def _create_attention_masks(self, embedding_output: torch.Tensor, **given: object) -> object:
        nn.functional.dropout(embedding_output, 0.5, self.training, inplace=True)
        return super()._create_attention_masks(embedding_output=embedding_output, **given)


@pytest.mark.parametrize(("kind", "message"), [(_Scaled, "differs"), (_Dropped, "training mode")])
def test_work_outside_of_modules_is_refused(kind: type, message: str) -> None:
    network = _network("Bert")
    network.bert.__class__ = kind
    with pytest.raises(UnsupportedError, match=message):
        cut_stack(network, _places("Bert", 0), _inputs("Bert", 3))


def test_network_that_needs_its_inputs_again_is_refused() -> None:
    config = tr.GPT2Config(
        vocab_size=50,
        n_embd=32,
        n_layer=4,
        n_head=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    network = _loud(tr.GPT2ForSequenceClassification(config)).eval()
    with pytest.raises(UnsupportedError, match="more than one segment"):
        cut_stack(network, stack_places(network)[:1], _inputs("Bert", 3))


def test_networks_without_a_stack_are_refused() -> None:
    albert = tr.AlbertForSequenceClassification(tr.AlbertConfig(**TEXT, embedding_size=16))
    bare = tr.BertModel(tr.BertConfig(**TEXT))  # no classifier
    for network in (albert, bare, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))):
        assert not is_stack(network)
        with pytest.raises(UnsupportedError, match="one stack of layers"):
            stack_places(network)


def test_logits_per_token_are_refused() -> None:
    network = tr.BertForTokenClassification(tr.BertConfig(**TEXT)).eval()
    with pytest.raises(ValidationError, match=r"wanted logits \[N=2, C\]"):
        cut_stack(network, _places("Bert", 0), _inputs("Bert", 2))


def test_is_stack_does_not_import_transformers() -> None:
    code = (
        "import sys, torch; from offramp.backbones.encoder import is_stack; "
        "print(is_stack(torch.nn.Linear(1, 1)), 'transformers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
