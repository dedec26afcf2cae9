"""The grid that a network sees, when there is not enough memory for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig, Normalisation
from napari_unetpp.core.data.geometry import GridMap
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import OutOfMemory
from napari_unetpp.core.events import Event, drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.device import Device
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.runtime import Runner


@pytest.mark.parametrize("step", ["to_model", "to_input"])
def test_a_volume_that_cannot_be_resampled_is_not_cut_into_tiles(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = NetworkConfig(ndim=3, filters=(1, 1))
    card = ModelCard(
        "organs", config, (ClassInfo("a"),), axes="ZYX", spacing=(2.0, 2.0, 2.0),
        normalisation=Normalisation("window", 0.0, 1.0), levels_trained=(1,),
    )  # fmt: skip
    model = Model(card, NestedUNet(config), Path("none"), "0" * 64)
    runner = Runner(model, Device("cpu", "test", "float32", "a test"))

    def exhausted(*_: object, **__: object) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(GridMap, step, exhausted)
    image = Image.from_array(np.zeros((8, 8, 8), np.float32), "ZYX", (1.0, 1.0, 1.0), unit="mm")
    events: list[Event] = []
    with pytest.raises(OutOfMemory, match=r"the image \(8x8x8\), resampled .*grid \(4x4x4\), does"):
        drain(predict(image, runner, np.zeros((8, 8, 8), np.uint8), level=1), events.append)
    assert not [e for e in events if getattr(e, "code", "") == "smaller-tiles"]
