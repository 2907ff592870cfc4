"""Mixed inputs are those of the papers, and their loss is that of mixed targets."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from offramp.errors import ValidationError
from offramp.objectives.joint import Joint
from offramp.train import fit
from offramp.train.backward import forward_backward
from offramp.train.mixing import Mixing, blend, box
from offramp.types import Batch, Costs, Term

COSTS = Costs.from_relative([0.3, 0.6, 1.0])


def batch_of(inputs, target) -> Batch:
    return Batch(inputs, target, torch.arange(len(target)), 0.0)


def test_mixup_mixes_each_input_with_one_partner(data):
    inputs, target = data
    batch, partner = Mixing(mixup=0.7)(batch_of(*data), seed=4)
    assert partner is not None and 0 < partner.share < 1
    order = partner.batch.index
    assert sorted(order.tolist()) == list(range(50)) != order.tolist()
    assert torch.equal(partner.batch.target, target[order])
    assert torch.equal(batch.target, target)
    for row in range(50):
        wanted = partner.share * inputs[row] + (1 - partner.share) * inputs[order[row]]
        torch.testing.assert_close(batch.inputs[row], wanted)
    assert partner.batch.inputs is batch.inputs


def test_cutmix_puts_one_box_of_the_partner_into_each_image():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 2, 8, 10, generator=generator)
    target = torch.arange(6)
    sizes = set()
    for seed in range(30):
        batch, partner = Mixing(cutmix=1.0)(batch_of(images, target), seed)
        assert partner is not None
        order = partner.batch.index
        for row in range(6):
            other = (batch.inputs[row] != images[row]).all(0)  # [H, W]
            own = (batch.inputs[row] == images[row]).all(0)
            assert bool((other | own).all())
            assert torch.equal(batch.inputs[row][:, other], images[order[row]][:, other])
            if order[row] != row:
                assert int(own.sum()) / 80 == pytest.approx(partner.share)
                high, wide = other.any(1).sum(), other.any(0).sum()
                assert int(high * wide) == int(other.sum())  # a box
        sizes.add(partner.share)
    assert len(sizes) > 10


def test_cutmix_cuts_maps_of_targets_as_their_images():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 5, (4, 8, 8), generator=generator)
    images = target[:, None].float()
    for seed in range(10):
        batch, partner = Mixing(cutmix=1.0)(batch_of(images, target), seed)
        assert partner is None
        assert torch.equal(batch.inputs[:, 0].long(), batch.target)
    assert torch.equal(images[:, 0].long(), target)  # the data are not written to


def test_box_has_the_wanted_area_where_nothing_is_cut_off():
    chance, whole = random.Random(0), 0
    for _ in range(200):
        top, bottom, left, right = box(chance, 0.75, 40, 20)
        assert 0 <= top <= bottom <= 40 and 0 <= left <= right <= 20
        whole += (bottom - top, right - left) == (20, 10)
    assert 20 < whole < 180


def test_both_are_used_when_both_are_asked_for(data):
    same = []
    for seed in range(40):
        batch, _ = Mixing(mixup=1.0, cutmix=1.0)(batch_of(*data), seed)
        same.append(float((batch.inputs == data[0]).float().mean()) > 0.05)
    assert 8 < sum(same) < 32  # cutmix leaves pixels as they are, mixup does not


def test_mixing_depends_on_the_seed_alone(data):
    mixing = Mixing(mixup=0.3)
    torch.manual_seed(1)
    one = mixing(batch_of(*data), 9)[0].inputs
    torch.manual_seed(2)
    assert torch.equal(one, mixing(batch_of(*data), 9)[0].inputs)
    assert not torch.equal(one, mixing(batch_of(*data), 10)[0].inputs)


def test_terms_of_a_mixed_batch_are_the_cross_entropy_of_mixed_targets(tiny, data):
    model = tiny()
    batch, partner = Mixing(mixup=0.7)(batch_of(*data), seed=4)
    assert partner is not None
    passed = forward_backward(model, Joint(), batch, COSTS, partner=partner)
    soft = partner.share * F.one_hot(data[1], 3) + (1 - partner.share) * F.one_hot(
        partner.batch.target, 3
    )
    for term, out in zip(passed.terms, tiny().train()(batch.inputs), strict=True):
        assert float(term.value.detach()) == pytest.approx(
            float(F.cross_entropy(out.logits, soft).detach()), rel=1e-5
        )


def test_blend_says_that_the_terms_depend_on_the_targets():
    one, two = Term("a", torch.zeros(())), Term("b", torch.zeros(()))
    with pytest.raises(ValidationError, match=r"\['a'\] and \['b'\]"):
        blend([one], [two], 0.5)


def test_fit_mixes_what_the_model_sees(tiny, data):
    plain, mixed = tiny(), tiny()
    fit(plain, data, epochs=1, progress=False)
    fit(mixed, data, epochs=1, mixup=0.5, progress=False)
    assert not torch.equal(plain.segments[0][0].weight, mixed.segments[0][0].weight)


@pytest.mark.parametrize(
    ("inputs", "target", "options", "message"),
    [
        (torch.zeros(4, 2).long(), torch.zeros(4), {"mixup": 1.0}, "real numbers.*int64"),
        (torch.zeros(4, 2), torch.zeros(4), {"cutmix": 1.0}, r"images.*\(1, 2\)"),
        ({"a": torch.zeros(4, 1, 2, 2)}, torch.zeros(4), {"cutmix": 1.0}, "images"),
        (torch.zeros(4, 1, 4, 4), torch.zeros(4, 2, 2), {"cutmix": 1.0}, r"\(4, 4\).*\(2, 2\)"),
    ],
)
def test_fit_says_before_training_that_inputs_cannot_be_mixed(
    tiny, inputs, target, options, message
):
    phases = [{"epochs": 1}, {"epochs": 1, **options}]
    with pytest.raises(ValidationError, match=message):
        fit(tiny(), (inputs, target.long()), phases=phases, progress=False)
