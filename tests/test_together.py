"""Alone, a total is a copy, and sums are the tensors themselves."""

from __future__ import annotations

import torch

from offramp import together


def test_total_alone_is_a_copy_without_a_graph():
    figure = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    copy = together.total(figure.t())
    assert not copy.requires_grad
    copy += 1
    assert figure.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert copy.tolist() == [[2.0, 4.0], [3.0, 5.0]]
    assert together.total(torch.tensor([1, 2])).dtype == torch.int64


def test_sums_and_losses_alone_are_left_as_they_are():
    assert together.alone()
    figure = torch.tensor([1.0, 2.0], requires_grad=True)
    assert together.summed(figure) is figure
    loss = figure.sum()
    assert together.of_all(loss, torch.tensor(0)) is loss
