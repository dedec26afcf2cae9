"""What a fine-tuning starts from: the base with new classes added, or a network with new heads.

Knows cards and networks; no images and no loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig, class_colour
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.model.cards import read_card
from napari_unetpp.core.model.modelfile import Model, load_model
from napari_unetpp.core.nn.network import NestedUNet

SCRATCH_FILTERS = {2: (16, 32, 64, 128, 256), 3: (8, 16, 32, 64, 128)}
"""By dimensions. In 3D half as many learned three times as many steps in half a minute, and a
small organ in them (hippocampus, 10 strokes: IoU 0.22 for 0.13)."""

BODY = "nuclei"
"""Bundled model whose weights, all but the heads', a 2D model without a base begins with. The 3D
one is too slow to learn anything from there in half a minute."""


def class_names(card: ModelCard | None, values: Sequence[int], names: Sequence[str]) -> list[str]:
    """Return the classes of the model that is to come.

    Parameters
    ----------
    card : ModelCard, optional
        The base's; None from scratch.
    values : sequence of int
        Painted values.
    names : sequence of str
        Names by the person, of the base's classes first; may be empty.

    Raises
    ------
    InputError
        If a class of the base would get another name, or values are painted far beyond the
        classes that are known.
    """
    own = [] if card is None else [c.name for c in card.classes]
    if names:
        if list(names[: len(own)]) != own:
            raise InputError(
                f"the classes must begin with the base's ({', '.join(own)}), got "
                f"{', '.join(names)}; add new ones after them."
            )
        return list(names)
    wanted = max([*values, 1]) - 1
    unpainted = [v for v in range(len(own) + 2, wanted + 2) if v not in values]
    if unpainted:
        painted = ", ".join(str(v) for v in sorted(values))
        raise InputError(
            f"values {painted} are painted, but class {unpainted[0]} is neither painted nor "
            "known; paint classes as 2, 3, ... without a gap, or name every class."
        )
    return own + [f"class {k + 1}" for k in range(len(own), wanted)]


def scratch_card(name: str, names: Sequence[str], axes: str, in_channels: int) -> ModelCard:
    """Return the card of a model without a base; sigmoid heads, batch norm."""
    network = NetworkConfig(
        ndim=len(axes),
        in_channels=in_channels,
        out_channels=len(names),
        filters=SCRATCH_FILTERS[len(axes)],
        norm="batch",
    )
    return ModelCard(
        name=name,
        network=network,
        classes=tuple(ClassInfo(n, class_colour(k)) for k, n in enumerate(names)),
        axes=axes,
        input_channels=tuple(f"channel {k}" for k in range(in_channels)),
        levels_trained=network.head_levels,
    )


def grown_card(card: ModelCard, names: Sequence[str]) -> ModelCard:
    """Return the base's card with the classes of `names`, without its measured figures."""
    new = [ClassInfo(n, class_colour(k)) for k, n in enumerate(names) if k >= len(card.classes)]
    network = dataclasses.replace(card.network, out_channels=card.network.out_channels + len(new))
    return card.replace(
        network=network,
        classes=(*card.classes, *new),
        levels_trained=network.head_levels,
        scores={},
        class_scores={},
        timings={},
        timing_device="",
        auto_tolerance=None,
    )


def start_network(
    card: ModelCard, base: Model | None, seed: int, body: Model | None = None
) -> NestedUNet:
    """Return the network with the base's weights; channels of new classes are drawn.

    Parameters
    ----------
    card : ModelCard
        From `scratch_card` or `grown_card`.
    base : Model, optional
        None from scratch.
    seed : int
        Of the weights that are drawn.
    body : Model, optional
        Without a base: a model of other images, whose weights are taken for all but the heads.
        Features of any images are a better start than none (Yosinski et al., NeurIPS 2014).

    Raises
    ------
    InputError
        If the body is another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NestedUNet(card.network)
    own = network.state_dict()
    if base is None:
        if body is not None:
            if not same_body(card, body.card):
                raise InputError(
                    f"the weights of {body.card.name!r} do not fit a network for "
                    f"{card.axes} with {card.network.in_channels} channel(s); take another model."
                )
            own |= {
                key: value.clone()
                for key, value in body.network.state_dict().items()
                if not key.startswith("heads.")
            }
            network.load_state_dict(own)
        network.set_head_biases([0.5] * card.network.out_channels)
        return network
    old_names, names = base.card.channel_names, card.channel_names
    for key, value in base.network.state_dict().items():
        if not key.startswith("heads."):
            own[key] = value.clone()
            continue
        for place, name in enumerate(names):
            if name in old_names:
                own[key][place] = value[old_names.index(name)]
            elif key.endswith("bias"):
                own[key][place] = -2.0 if card.network.activation == "sigmoid" else 0.0
    network.load_state_dict(own)
    return network


def bundled_body(card: ModelCard) -> Model | None:
    """Return the bundled model whose features a model without a base begins with, if one fits."""
    return load_model(BODY) if same_body(card, read_card(BODY)) else None


def same_body(card: ModelCard, other: ModelCard) -> bool:
    """Return whether two networks differ in their heads alone."""
    one, two = (dataclasses.replace(c.network, out_channels=1, activation="sigmoid")
                for c in (card, other))  # fmt: skip
    return one == two


def freeze_encoder(network: NestedUNet) -> None:
    """Leave column 0 as it is: decoder and heads alone are trained."""
    for name, node in network.nodes.items():
        if name.endswith("_0"):
            node.requires_grad_(False)


def hold_norms(network: NestedUNet) -> None:
    """Put batch norm into evaluation mode: its statistics stay those of the base."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.eval()
