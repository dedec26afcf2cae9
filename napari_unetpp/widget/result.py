"""One result of one image: its layers, its arrays, and what is going on with them.

Plain bookkeeping for :mod:`napari_unetpp.widget.output`; makes and places nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.run.results import result_channels
from napari_unetpp.widget.storage import Sink


@dataclass(eq=False)
class Result:
    """The layers of one result: one, or one for each class of probabilities."""

    image: Any
    kind: str
    live: bool
    card: ModelCard
    layers: list[Any] = field(default_factory=list)
    arrays: list[Any] = field(default_factory=list)
    sink: Sink | None = None
    handle: Any = None  # what start() returned: refresh() and finish() are called with it
    hidden: list[Any] = field(default_factory=list)  # by toggle()
    resting: list[Any] = field(default_factory=list)  # hidden until there is a view again
    make: dict[str, Any] | None = None  # how to make the layers anew, while a run goes on

    def fits(self, count: int, shape: tuple[int, ...]) -> bool:
        """Whether its layers are as many and of this shape."""
        return len(self.layers) == count and all(
            tuple(layer.data.shape) == shape for layer in self.layers
        )

    def rest(self) -> None:
        """Hide what is visible of it."""
        visible = [layer for layer in self.layers if layer.visible]
        for layer in visible:
            layer.visible = False
        self.resting += visible

    def wake(self) -> None:
        """Show again what rested; what someone hid stays hidden."""
        for layer in self.resting:
            layer.visible = True
        self.resting = []


def channels_of(data: NDArray[Any], card: ModelCard) -> Iterator[NDArray[Any]]:
    """Yield the channels that a result shows, of all of the network's or of those alone."""
    wanted = result_channels(card)
    every = len(data) == len(card.channel_names)
    for n, k in enumerate(wanted if every or len(data) == len(wanted) else ()):
        yield data[k if every else n]


def at_sliders(viewer: Any, layer: Any, sink: Any, region: Any) -> bool:
    """Whether the sliders are at a region; what is beyond the canvas's border counts too."""
    if viewer.dims.ndisplay != 2:
        return True
    missing = viewer.dims.ndim - layer.ndim
    displayed = {d - missing for d in viewer.dims.displayed}
    place = np.round(layer.world_to_data(viewer.dims.point))
    where = dict(zip(sink.axes, region, strict=True))
    for k, letter in enumerate(sink.array_axes):
        if k in displayed or letter == "C":
            continue
        start, stop, _ = where[letter].indices(int(layer.data.shape[k]))
        if not start <= place[k] < stop:
            return False
    return True
