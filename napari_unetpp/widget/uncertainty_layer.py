"""The map of uncertainty as a layer on its image: one for a viewer, hidden while it is not wanted.

Knows layers and arrays; no engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import arrange
from napari_unetpp.widget.frame import Frame, add_quietly, one_refresh, place_layer
from napari_unetpp.widget.provenance import KEY
from napari_unetpp.widget.screen import OnScreen

_COLOURS = [[1.0, 0.6, 0.1, 0.0], [1.0, 0.45, 0.05, 0.45], [1.0, 0.2, 0.0, 0.9]]
"""Clear where the model is certain, so that image and result stay seen; orange to red where not."""


class UncertaintyLayer:
    """Shows how unsure a model is about what is on screen.

    Attributes
    ----------
    layer : napari Image layer, optional
        It is made with the first map, and again if someone took it away.
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.layer: Any = None

    def show(self, image: Any, screen: OnScreen, values: NDArray[np.float32]) -> None:
        """Show a map.

        Parameters
        ----------
        image : napari Image layer
            What it is about.
        screen : OnScreen
            The part of it.
        values : ndarray of float32
            Of the region's shape, 0 (certain) to 1.
        """
        frame = Frame(image, screen.source.axes)
        array = arrange(values, screen.axes, frame.letters)
        placing = frame.placed(screen)
        name = f"{image.name}: uncertainty"
        layer = self.layer
        if layer is not None and (layer not in self.viewer.layers or layer.ndim != array.ndim):
            self.hide()
            layer = self.layer = None
        if layer is None:
            from napari.layers import Image
            from napari.utils.colormaps import Colormap

            self.layer = Image(
                array,
                name=name,
                metadata={KEY: {"kind": "uncertainty"}},
                colormap=Colormap(_COLOURS, name="uncertain"),
                contrast_limits=(0.0, 1.0),
                blending="translucent",
                **placing,
            )
            add_quietly(self.viewer, self.layer)
            return
        with one_refresh(layer):
            layer.data = array
            place_layer(layer, placing)
        layer.name = name
        layer.visible = True

    def hide(self) -> None:
        """Hide it: napari takes long to make and to remove a layer."""
        if self.layer is not None and self.layer in self.viewer.layers:
            self.layer.visible = False
