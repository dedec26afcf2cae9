"""What trees are told of a volume: texture where there is time for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_unetpp.core.tune import forest
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.strokes import TRAINING
from tests.core.tune.conftest import small_model


@pytest.mark.parametrize(
    ("shape", "most", "expected"),
    [((12, 16, 16), 12 * 256, True), ((12, 16, 16), 12 * 256 - 1, False), ((16, 16), 1, True)],
)
def test_large_volumes_do_without_texture(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], most: int, expected: bool
) -> None:
    labels = np.zeros(shape, np.uint8)
    labels[..., 8:] = 1
    image = labels[None] + np.random.default_rng(0).normal(0, 0.1, (1, *shape)).astype(np.float32)
    window = Window("halves", image.astype(np.float32), labels, np.full(shape, TRAINING, np.uint8))
    asked: list[bool] = []
    real = forest.features

    def note(image: Any, *, texture: bool) -> Any:
        asked.append(texture)
        return real(image, texture=texture)

    monkeypatch.setattr(forest, "features", note)
    monkeypatch.setattr(forest, "TEXTURED", most)
    found = forest.fit_forest([window], None, small_model().card)
    assert asked == [expected]
    assert found is not None
    assert ((found[0][1] > 0.5) == (labels == 1)).mean() > 0.95
