"""Networks whose answer can be worked out by hand, and a run of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig, Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.events import Event, drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.inference import (
    Prediction,
    output_axes,
    predict,
)
from napari_unetpp.core.run.runtime import Device, Runner

FLOAT32 = Device("cpu", "test", "float32", "a test")

WINDOW = Normalisation("window", 0.0, 1.0)


def pass_through(
    ndim: int = 2, channels: int = 1, outputs: int = 1, gain: float = 1.0, **config: Any
) -> NestedUNet:
    """Return a network of two levels whose logit k is gain * (input channel k - 0.5)."""
    width = max(channels, outputs, 2)
    network = NestedUNet(
        NetworkConfig(
            ndim=ndim,
            in_channels=channels,
            out_channels=outputs,
            filters=(width,) * 3,
            **config,
        )
    ).eval()
    centre = (1,) * ndim
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for block in network.nodes.values():
            for conv in (m for m in block if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)):
                for k in range(min(width, conv.weight.shape[1])):
                    conv.weight[(k, k, *centre)] = 1.0
        for head in network.heads.values():
            for k in range(outputs):
                head.weight[k, min(k, channels - 1)] = gain
                head.bias[k] = -gain / 2
    return network


def model_of(network: NestedUNet, classes: int = 1, **card: Any) -> Model:
    """Wrap a network; intensities 0 to 1 are taken as they are."""
    config = network.config
    card.setdefault("normalisation", WINDOW)
    card.setdefault("levels_trained", config.head_levels)
    full = ModelCard(
        "test",
        config,
        tuple(ClassInfo(f"class{k}") for k in range(1, classes + 1)),
        "YX" if config.ndim == 2 else "ZYX",
        input_channels=tuple(f"in{k}" for k in range(config.in_channels)),
        **card,
    )
    return Model(full, network, Path("m.safetensors"), "")


def runner_of(network: NestedUNet | None = None, classes: int = 1, **card: Any) -> Runner:
    return Runner(model_of(network or pass_through(), classes, **card), FLOAT32)


def run(
    array: Any, axes: str, runner: Runner | None = None, **options: Any
) -> tuple[NDArray[Any], Prediction, list[Event]]:
    """Predict an array or image at L1 unless told otherwise."""
    runner = runner or runner_of()
    image = array if isinstance(array, Image) else Image.from_array(array, axes)
    options.setdefault("level", 1)
    _, shape, dtype = output_axes(image, runner.card, options.get("kind", "labels"))
    sink = np.full(shape, 99, dtype)
    events: list[Event] = []
    done = drain(predict(image, runner, sink, **options), events.append)
    return sink, done, events


def codes(done: Prediction) -> list[str]:
    return [note.code for note in done.notes]
