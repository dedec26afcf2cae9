"""Losses against numbers worked by hand, and what must not pull."""

from __future__ import annotations

import math

import pytest
import torch

from napari_unetpp.core.errors import InputError
from napari_unetpp.core.nn.losses import (
    SMOOTH,
    cross_entropy,
    deep_supervision_loss,
    equation_2,
    segmentation_loss,
    soft_dice,
)


def t(*values: float) -> torch.Tensor:
    """Return values as (N, C, X) = (1, 1, X)."""
    return torch.tensor([[values]], dtype=torch.float64)


def test_cross_entropy_counts_both_sides() -> None:
    # p = 1/2 everywhere: -log(1/2) for y = 1 and for y = 0 alike.
    loss = cross_entropy(t(0, 0), t(1, 0), t(1, 1), "sigmoid")
    assert loss.item() == pytest.approx(math.log(2))
    # p = 0.8 where y = 0: -log 0.2, the term that Eq. 2 as printed leaves out.
    loss = cross_entropy(t(math.log(4)), t(0), t(1), "sigmoid")
    assert loss.item() == pytest.approx(-math.log(0.2))


def test_cross_entropy_with_softmax() -> None:
    logits = torch.tensor([[[0.0], [math.log(3.0)]]], dtype=torch.float64)  # p = 1/4, 3/4
    target = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    loss = cross_entropy(logits, target, torch.ones_like(target), "softmax")
    assert loss.item() == pytest.approx(-math.log(0.75))


def test_soft_dice_by_hand() -> None:
    # overlap 0.5, total 0.5 + 0.5 + 1 = 2: 1 - (2*0.5 + 1) / (2 + 1) = 1/3
    assert soft_dice(t(0.5, 0.5), t(1, 0), t(1, 1)).item() == pytest.approx(1 / 3)
    assert soft_dice(t(1, 0), t(1, 0), t(1, 1)).item() == 0.0


def test_soft_dice_is_pooled_over_the_batch() -> None:
    p = torch.tensor([[[1.0]], [[0.0]]])
    y = torch.tensor([[[1.0]], [[0.0]]])
    assert soft_dice(p, y, torch.ones_like(y)).item() == 0.0


def test_equation_2_as_printed() -> None:
    # y = 1, p = 1/2: log(1/2) + 2 * 1/2 / (1 + 1/4) = -0.6931 + 0.8; y = 0: nothing. N = 2.
    expected = -(math.log(0.5) + 0.8) / 2
    assert equation_2(t(0.5, 0.5), t(1, 0), t(1, 1)).item() == pytest.approx(expected)


def test_equation_2_does_not_see_false_positives() -> None:
    """Which is why one sigmoid must not be trained with it."""
    few = equation_2(t(0.9, 0.1), t(1, 0), t(1, 1))
    all_on = equation_2(t(0.9, 0.999), t(1, 0), t(1, 1))
    assert few.item() == pytest.approx(all_on.item())
    with pytest.raises(InputError, match="needs a softmax over at least two classes"):
        segmentation_loss(t(0), t(0), t(1), "sigmoid", kind="eq2")


def test_equation_2_with_softmax_has_its_optimum_at_the_truth() -> None:
    target = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    right = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
    known = torch.ones_like(target)
    best = segmentation_loss(right, target, known, "softmax", kind="eq2")
    for wrong in (right * 0, -right, right.roll(1, dims=1)):
        assert segmentation_loss(wrong, target, known, "softmax", kind="eq2") > best
    assert best.item() == pytest.approx(-1.0, abs=1e-4)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("kind", ["cross-entropy+dice", "eq2"])
def test_unlabelled_pixels_pull_in_no_direction(activation: str, kind: str) -> None:
    if kind == "eq2" and activation == "sigmoid":
        activation = "softmax"
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 5, requires_grad=True)
    target = torch.nn.functional.one_hot(torch.randint(0, 3, (2, 5, 5)), 3).movedim(-1, 1).float()
    known = (torch.rand(2, 1, 5, 5) > 0.5).float().expand(2, 3, 5, 5)
    loss = segmentation_loss(logits, target, known, activation, kind=kind)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[known == 0].abs().max() == 0
    assert gradient[known > 0].abs().min() > 0
    # What is written where nothing is known does not matter.
    other = torch.where(known > 0, target, 1 - target)
    again = segmentation_loss(logits, other, known, activation, kind=kind)
    assert again.item() == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_nothing_labelled_is_zero_and_finite(activation: str) -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    zero = torch.zeros(1, 2, 4, 4)
    loss = segmentation_loss(logits, zero, zero, activation)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_auxiliary_channels_have_no_dice() -> None:
    logits, target, known = torch.randn(1, 2, 6), torch.rand(1, 2, 6), torch.ones(1, 2, 6)
    classes = slice(0, 1)
    expected = cross_entropy(logits, target, known, "sigmoid") + soft_dice(
        torch.sigmoid(logits[:, classes]), target[:, classes], known[:, classes]
    )
    loss = segmentation_loss(logits, target, known, "sigmoid", auxiliary=1)
    assert loss.item() == pytest.approx(expected.item())


def test_deep_supervision_sums_heads_with_eta() -> None:
    y, k = t(1, 0), t(1, 1)
    heads = {1: t(0, 0), 2: t(2, -2)}
    one, two = (segmentation_loss(h, y, k, "sigmoid").item() for h in heads.values())
    assert deep_supervision_loss(heads, y, k, "sigmoid").item() == pytest.approx(one + two, 1e-6)
    weighted = deep_supervision_loss(heads, y, k, "sigmoid", weights={1: 0.5})
    assert weighted.item() == pytest.approx(0.5 * one + two, 1e-6)


@pytest.mark.parametrize("logit", [200.0, -200.0])
def test_extreme_logits_stay_finite(logit: float) -> None:
    x = torch.full((1, 2, 3), logit, requires_grad=True)
    y = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
    for kind in ("cross-entropy+dice", "eq2"):
        loss = segmentation_loss(x, y, torch.ones_like(y), "softmax", kind=kind)
        (gradient,) = torch.autograd.grad(loss, x)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match="must have the same shape"):
        cross_entropy(t(0, 0), t(0), t(1, 1), "sigmoid")
    with pytest.raises(InputError, match="at least one head"):
        deep_supervision_loss({}, t(0), t(1), "sigmoid")


def test_dice_leaves_an_absent_class_to_the_cross_entropy() -> None:
    logits = torch.full((1, 2, 8, 8), -3.0, requires_grad=True)
    target = torch.zeros(1, 2, 8, 8)
    target[:, 0, :2] = 1.0  # the second class is known to be nowhere
    known = torch.ones_like(target)
    p = torch.sigmoid(torch.tensor(-3.0))
    loss = soft_dice(torch.sigmoid(logits), target, known)
    # Of the first class alone: 16 pixels of truth, 64 probabilities.
    expected = 1 - (2 * 16 * p + SMOOTH) / (64 * p + 16 + SMOOTH)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert float(logits.grad[:, 1].abs().max()) == 0.0
    assert float(logits.grad[:, 0].abs().max()) > 0.0
    cross_entropy(logits, target, known, "sigmoid").backward()
    assert float(logits.grad[:, 1].min()) > 0.0  # which pushes it down, pixel by pixel
