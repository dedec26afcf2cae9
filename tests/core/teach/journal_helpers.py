"""What the tests of journals record."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo
from napari_unetpp.core.teach.info import LayerInfo

INFO = LayerInfo(
    "paint: Zellen ü",
    axes="YX",
    image="cells",
    image_path="/data/cells 1.tif",
    channel=1,
    classes=(ClassInfo("nucleus", "#112233"),),
    geometry={"scale": [0.5, 2.0]},
    looks={"opacity": 0.7},
)


def stroke(labels: NDArray[Any], k: int) -> tuple[tuple[int, int], ...]:
    """Paint a small disc that is another one for each number; return its box."""
    size = labels.shape[-1]
    y, x = (37 * k) % (size - 12), (91 * k) % (size - 12)
    labels[..., y : y + 12, x : x + 12] = k % 5 + 1
    lead = tuple((0, n) for n in labels.shape[:-2])
    return (*lead, (y, y + 12), (x, x + 12))
