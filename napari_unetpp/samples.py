"""napari's File > Open Sample: images to try the plug-in on, all of them without a network.

The phantoms are made by our own code and come with their exact truth; the immunohistochemistry
is a real image that lies in scikit-image's wheel, and nobody has labelled it. Each function
returns what napari calls LayerData: tuples of array, keyword arguments and layer type. napari
itself is not imported, so the command line and the tests can call them too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.data import phantoms
from napari_unetpp.core.data.phantom_tissue import stained_tissue as make_tissue

LayerData = tuple[NDArray[Any], dict[str, Any], str]


def _layers(phantom: phantoms.Phantom, title: str) -> list[LayerData]:
    """Return an image and a labels layer that lie on each other."""
    leading = len(phantom.axes) - len(phantom.spacing)
    limits = np.percentile(phantom.image, (0.5, 99.8))
    if phantom.affine is not None:
        limits = np.asarray((-160.0, 240.0))  # HU: the window for soft tissue
    shared: dict[str, Any] = {
        "scale": (1.0,) * leading + phantom.spacing,
        "units": ("pixel",) * leading + (phantom.unit,) * len(phantom.spacing),
        "axis_labels": tuple(phantom.axes.lower()),
    }
    if phantom.affine is not None:
        shared["metadata"] = {"affine_index_to_ras": phantom.affine}
    image: dict[str, Any] = {
        **shared,
        "name": title,
        "contrast_limits": (float(limits[0]), float(limits[1])),
    }
    truth: dict[str, Any] = {**shared, "name": f"{title}: truth"}
    return [(phantom.image, image, "image"), (phantom.labels, truth, "labels")]


def nuclei_2d() -> list[LayerData]:
    """Return touching nuclei: image and truth, axes YX, scale in µm."""
    return _layers(phantoms.nuclei_2d(), "nuclei 2D")


def nuclei_3d() -> list[LayerData]:
    """Return a stack with 2 µm between planes: image and truth, axes ZYX, scale in µm."""
    return _layers(phantoms.nuclei_3d(), "nuclei 3D")


def nuclei_timelapse() -> list[LayerData]:
    """Return ten frames with two divisions: image and truth, axes TYX, scale in µm."""
    return _layers(phantoms.nuclei_timelapse(), "nuclei over time")


def ct_phantom() -> list[LayerData]:
    """Return a head-and-neck CT in HU with seven organs: axes ZYX, scale in mm."""
    return _layers(phantoms.ct_phantom(), "CT phantom")


def stained_tissue() -> list[LayerData]:
    """Return glands in haematoxylin and eosin: RGB image and truth, axes YX, scale in µm."""
    spacing = 0.5
    image, labels = make_tissue(spacing=spacing)
    shared = _plane(spacing, "µm")
    about: dict[str, Any] = {**shared, "name": "stained tissue", "rgb": True}
    truth: dict[str, Any] = {**shared, "name": "stained tissue: truth"}
    return [(image, about, "image"), (labels, truth, "labels")]


def immunohistochemistry() -> list[LayerData]:
    """Return a real section of a human colon (DAB and haematoxylin): RGB, axes YX, no truth."""
    from skimage import data

    read: Any = data.immunohistochemistry  # in the wheel itself, unlike most others
    # Its size in µm is not known.
    about: dict[str, Any] = {**_plane(1.0, "pixel"), "name": "colon, DAB stain", "rgb": True}
    return [(read(), about, "image")]


def _plane(spacing: float, unit: str) -> dict[str, Any]:
    return {
        "scale": (spacing, spacing),
        "units": (unit, unit),
        "axis_labels": ("y", "x"),
    }


def painted_strokes() -> list[LayerData]:
    """Return nuclei and a few strokes: 0 unlabelled, 1 background, 2 nucleus; axes YX."""
    phantom = phantoms.nuclei_2d()
    image, truth = _layers(phantom, "nuclei 2D")
    paint = phantoms.painted_strokes(phantom.labels)
    return [image, (paint, {**truth[1], "name": "paint 1"}, "labels")]
