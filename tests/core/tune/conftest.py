"""A small image of two discs, paint on it, and small networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, InstanceRule, ModelCard, NetworkConfig
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.events import Event, drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.tune.inputs import Painted
from napari_unetpp.core.tune.result import TuneResult
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.start import grown_card, scratch_card
from napari_unetpp.core.tune.strokes import Split
from napari_unetpp.core.tune.tune import FineTuning

SHAPE = (96, 112)


def discs() -> NDArray[np.bool_]:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return ((y - 30) ** 2 + (x - 30) ** 2 < 400) | ((y - 60) ** 2 + (x - 80) ** 2 < 500)


@pytest.fixture
def truth() -> NDArray[np.bool_]:
    return discs()


@pytest.fixture
def image() -> Image:
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    return Image.from_array((60 + 100 * discs() + noise).astype(np.float32), "YX", name="discs")


@pytest.fixture
def paint() -> NDArray[np.uint8]:
    """Two strokes of background and two of the class, thin."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[5, 10:60] = 1
    labels[88, 5:50] = 1
    labels[30, 15:45] = 2
    labels[60, 62:98] = 2
    return labels


def painted(image: Image, labels: NDArray[np.uint8], **more: object) -> Painted:
    axes = "YX" if labels.ndim == 2 else "ZYX"
    return Painted("discs", image, Image.from_array(labels, axes), **more)  # type: ignore[arg-type]


def small_model(norm: str = "batch", *, centre: bool = False, softmax: bool = False) -> Model:
    network = NetworkConfig(
        filters=(4, 6, 8),
        out_channels=1 + centre + softmax,
        norm=norm,  # type: ignore[arg-type]
        activation="softmax" if softmax else "sigmoid",
    )
    card = ModelCard(
        "small",
        network,
        (ClassInfo("cell"),),
        auxiliary=("centre",) if centre else (),
        instances=InstanceRule() if centre else None,
        levels_trained=(1, 2),
        scores={"2": {"iou_per_image": 0.5}},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = NestedUNet(network).eval()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return Model(card, net, Path("small.safetensors"), "ab" * 32)


def tuning(
    pair: Painted, base: Model | None, steps: int = 6, names: list[str] | None = None, **more: Any
) -> FineTuning:
    config = TuneConfig(max_seconds=600.0, steps=steps, **more)
    if base is None:
        card = scratch_card("new", names or ["cell"], "YX", 1)
    else:
        card = grown_card(base.card, names or [c.name for c in base.card.classes])
    return FineTuning([pair], card, base, Split(config.seed), config)


def run(job: FineTuning) -> tuple[TuneResult, list[Event]]:
    events: list[Event] = []
    return drain(job.run(), events.append), events
