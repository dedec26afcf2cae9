"""Losses: masked cross-entropy plus soft Dice, summed over the heads.

Unlabelled pixels carry weight 0 and pull in no direction. Equation 2 of the papers is here
as printed, by choice. Knows tensors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_unetpp.core.config import Activation
from napari_unetpp.core.errors import InputError

LossKind = Literal["cross-entropy+dice", "eq2"]

# Keeps the quotient finite; small against the few pixels of a small object.
SMOOTH = 1.0


def _check(logits: Tensor, target: Tensor, known: Tensor) -> None:
    if logits.shape != target.shape or known.shape != target.shape:
        raise InputError(
            "logits, target and known must have the same shape (N, C, *space), got "
            f"{tuple(logits.shape)}, {tuple(target.shape)} and {tuple(known.shape)}; "
            "give one target channel for each output channel."
        )


def cross_entropy(logits: Tensor, target: Tensor, known: Tensor, activation: Activation) -> Tensor:
    """Full cross-entropy, averaged over what is known.

    Parameters
    ----------
    logits : Tensor
        (N, C, *space), float.
    target : Tensor
        (N, C, *space), in [0, 1]; with a softmax the channels sum to 1.
    known : Tensor
        (N, C, *space), weights >= 0; 0 where unlabelled. With a softmax a pixel's weight is
        that of its channel 0.
    activation : {"sigmoid", "softmax"}
        With sigmoids, both y log p and (1 - y) log(1 - p) count.

    Returns
    -------
    Tensor
        Scalar; 0 where nothing is known.
    """
    _check(logits, target, known)
    if activation == "sigmoid":
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * known
        return loss.sum() / known.sum().clamp_min(1.0)
    weight = known[:, 0]
    loss = -(target * F.log_softmax(logits, dim=1)).sum(dim=1) * weight
    return loss.sum() / weight.sum().clamp_min(1.0)


def soft_dice(probabilities: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Soft Dice loss, one minus the coefficient, by class over the whole batch.

    Parameters
    ----------
    probabilities, target, known : Tensor
        (N, C, *space); see `cross_entropy`.

    Returns
    -------
    Tensor
        Scalar: the mean over the classes that the truth contains; 0 if there is none. A class
        that is absent from the batch is left to the cross-entropy: its Dice would fall with
        every last probability, however small, which drives rare classes to 0 for good.
    """
    _check(probabilities, target, known)
    dims = [0, *range(2, target.ndim)]
    overlap = (probabilities * target * known).sum(dims)
    total = ((probabilities + target) * known).sum(dims)
    dice = 1.0 - (2.0 * overlap + SMOOTH) / (total + SMOOTH)
    present = ((target * known).sum(dims) > 0).to(dice.dtype)
    return (dice * present).sum() / present.sum().clamp_min(1.0)


def equation_2(probabilities: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Equation 2 of the papers as printed (TMI 2020).

    L(Y, P) = -(1/N) sum_c sum_n ( y log p + 2 y p / (y² + p²) ). Every term vanishes where
    y = 0, so it is sound only with a softmax over at least two classes.

    Parameters
    ----------
    probabilities, target, known : Tensor
        (N, C, *space); see `cross_entropy`. N in the formula is the number of known pixels.

    Returns
    -------
    Tensor
        Scalar.
    """
    _check(probabilities, target, known)
    p = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny)
    # y² + p² vanishes with y and p; the numerator does too, and the term's limit for y = 0 is 0.
    dice = 2.0 * target * p / (target**2 + p**2).clamp_min(1e-12)
    terms = (target * torch.log(p) + dice) * known
    return -terms.sum() / known[:, 0].sum().clamp_min(1.0)


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    known: Tensor,
    activation: Activation,
    *,
    kind: LossKind = "cross-entropy+dice",
    auxiliary: int = 0,
) -> Tensor:
    """Loss of one head.

    Parameters
    ----------
    logits, target, known : Tensor
        (N, C, *space); see `cross_entropy`.
    activation : {"sigmoid", "softmax"}
        What turns logits into probabilities.
    kind : {"cross-entropy+dice", "eq2"}
        The default, or the papers' Eq. 2 as printed (softmax only).
    auxiliary : int
        The last so many channels are soft maps (distance to the border): cross-entropy
        alone, because Dice is least for a hard map, not for the soft one.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    InputError
        If the shapes differ, or Eq. 2 is asked for with sigmoids.
    """
    if kind == "eq2":
        if activation != "softmax":
            raise InputError(
                "Eq. 2 as printed needs a softmax over at least two classes, got sigmoids "
                "(p = 1 everywhere would be its optimum); use cross-entropy+dice."
            )
        return equation_2(torch.softmax(logits, dim=1), target, known)
    loss = cross_entropy(logits, target, known, activation)
    classes = slice(0, logits.shape[1] - auxiliary)
    if activation == "sigmoid":
        probabilities = torch.sigmoid(logits[:, classes])
    else:
        probabilities = torch.softmax(logits, dim=1)
    return loss + soft_dice(probabilities, target[:, classes], known[:, classes])


def deep_supervision_loss(
    heads: Mapping[int, Tensor],
    target: Tensor,
    known: Tensor,
    activation: Activation,
    *,
    weights: Mapping[int, float] | None = None,
    kind: LossKind = "cross-entropy+dice",
    auxiliary: int = 0,
) -> Tensor:
    """Sum the loss over the heads with weights η (TMI 2020, Eq. 3; 1 by default).

    Parameters
    ----------
    heads : mapping of int to Tensor
        Logits by level, each (N, C, *space).
    target, known : Tensor
        (N, C, *space); see `cross_entropy`.
    activation : {"sigmoid", "softmax"}
        What turns logits into probabilities.
    weights : mapping of int to float, optional
        η by level; 1 for a level that is not named.
    kind, auxiliary
        See `segmentation_loss`.

    Returns
    -------
    Tensor
        Scalar.
    """
    if not heads:
        raise InputError("deep supervision needs at least one head, got none; give the logits.")
    total = next(iter(heads.values())).new_zeros(())
    for level, logits in heads.items():
        eta = 1.0 if weights is None else weights.get(level, 1.0)
        # Losses are summed in float32: bfloat16 logits keep three digits.
        loss = segmentation_loss(
            logits.float(), target, known, activation, kind=kind, auxiliary=auxiliary
        )
        total = total + eta * loss
    return total
