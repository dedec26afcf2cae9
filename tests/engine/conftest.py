"""A real worker and the real nuclei model; no Qt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_unetpp.core.model.modelfile import load_model
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.engine.client import Engine

sys.path.insert(0, str(Path(__file__).parent))  # for engine_helpers

from engine_helpers import LONG, NUCLEI


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    # Patient with cancelled jobs, so that tests of other things keep their worker.
    made = Engine(cancel_seconds=30.0)
    made.load(NUCLEI).wait(LONG)
    yield made
    made.close()


@pytest.fixture(scope="session")
def runner() -> Runner:
    return Runner(load_model("nuclei"), choose_device("cpu", "float32"))


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint16]:
    """Return blobs on noise, (Y, X), no multiple of 16."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:150, :170]
    image = rng.normal(100, 5, (150, 170))
    for _ in range(12):
        cy, cx, r = rng.uniform(0, 150), rng.uniform(0, 170), rng.uniform(6, 12)
        image += 400 * np.exp(-((((y - cy) / r) ** 2 + ((x - cx) / r) ** 2) ** 2))
    return image.clip(0, 65535).astype(np.uint16)
