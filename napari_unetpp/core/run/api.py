"""One line for scripts: an array in, a segmentation out. Knows no files but models'."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.events import Event, drain
from napari_unetpp.core.model.modelfile import Model, load_model
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.results import output_axes
from napari_unetpp.core.run.runtime import Level, Runner, choose_device


def segment_array(
    array: Any,
    model: Model | str | os.PathLike[str],
    level: Level = 4,
    axes: str | None = None,
    spacing: Sequence[float] | None = None,
    kind: str = "labels",
    device: str = "auto",
    *,
    precision: str = "auto",
    backend: str | None = None,
    channel: int | None = None,
    threshold: float | None = None,
    tile: int | None = None,
    listen: Callable[[Event], None] | None = None,
) -> NDArray[Any]:
    """Segment an array.

    Parameters
    ----------
    array : array-like
        Any real dtype; numpy, memmap, zarr or dask.
    model : Model, str or path
        A model, the name of a bundled one, or a model file.
    level : int or "ensemble"
        A trained level, or the mean of all trained ones.
    axes : str, optional
        One letter of PTCZYXS for each axis of `array`; guessed from its shape if None.
    spacing : sequence of float, optional
        Size of a pixel along each spatial axis in the order Z, Y, X, in the model's unit.
    kind : {"labels", "probabilities", "instances"}
        What to return.
    device : {"auto", "cpu", "cuda", "mps"}
        Where to run.
    precision : {"auto", "float32", "bfloat16", "float16"}
        In which precision.
    backend : {"auto", "torch", "openvino"}, optional
        Who computes on a processor; what the environment says, else "auto", if None.
    channel : int, optional
        Channel for a model that takes one.
    threshold : float, optional
        In (0, 1); the card's if None.
    tile : int, optional
        Largest core of a tile.
    listen : callable, optional
        Called with every event; what it raises stops the run.

    Returns
    -------
    ndarray
        With the axes of `array` in their order, less C and S; probabilities of more than
        one channel have C as first axis.

    Raises
    ------
    UNetPPError
        An InputError, ModelFileError, DeviceError or OutOfMemory with the reason.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    unit = loaded.card.spacing_unit if spacing is not None else None
    image = Image.from_array(array, axes, spacing, unit=unit)
    runner = Runner(loaded, choose_device(device, precision), backend)
    own, shape, dtype = output_axes(image, loaded.card, kind)
    result = np.zeros(shape, dtype)
    drain(
        predict(
            image,
            runner,
            result,
            level=level,
            kind=kind,
            threshold=threshold,
            channel=channel,
            tile=tile,
        ),
        listen,
    )
    wanted = [a for a in image.axes if a in own and a != "C"]
    wanted = ["C", *wanted] if "C" in own else wanted
    return result.transpose([own.index(a) for a in wanted])
