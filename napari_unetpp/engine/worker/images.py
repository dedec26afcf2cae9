"""The client's images as images of the core: served pixel by pixel, or files opened here.

Knows the link and the core's images; no torch and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.engine.worker.link import Link, RemoteArray


def image_of(link: Link, described: Mapping[str, Any], *, labels: bool = False) -> Image:
    """Return an image that the client described.

    Parameters
    ----------
    link : Link
        Asks for pixels.
    described : mapping
        What :func:`wire.from_source` gave, or ``path`` alone.
    labels : bool
        A file is opened as labels.
    """
    path = described.get("path")
    if path is not None:
        return read_labels(path) if labels else read_image(path)
    spacing, affine = described["spacing"], described["affine"]
    return Image(
        RemoteArray(link, tuple(described["shape"]), described["dtype"], described["number"]),
        described["axes"],
        None if spacing is None else tuple(spacing),
        described["unit"],
        None if affine is None else np.asarray(affine, np.float64),
        described["name"],
    )
