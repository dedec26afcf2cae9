"""From an array or a file to labels, the public way of ours and the usual one of MONAI.

This module must not know how these are timed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from peer_networks import slid

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import open_sink, read_image
from napari_unetpp.core.events import drain
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.results import output_axes
from napari_unetpp.core.run.runtime import Runner


def segment(image: Image, runner: Runner, level: int) -> NDArray[Any]:
    """Take the public way from an array to labels."""
    _, shape, dtype = output_axes(image, runner.card, "labels")
    sink = np.empty(shape, dtype)
    drain(predict(image, runner, sink, level=level))
    return sink


def our_file(source: Path, target: Path, runner: Runner, level: int) -> None:
    """Go from file to file as the command line does."""
    image = read_image(source)
    axes, shape, dtype = output_axes(image, runner.card, "labels")
    with open_sink(target, like=image, axes=axes, dtype=dtype, shape=shape, kind="labels") as sink:
        drain(predict(image, runner, sink, level=level))
        sink.commit()


def monai_file(source: Path, target: Path, network: torch.nn.Module) -> None:
    """Go from file to file as a script with MONAI does."""
    values = tifffile.imread(source).astype(np.float32)
    low, high = np.percentile(values, (1, 99.8)).astype(np.float32)
    x = torch.from_numpy((values - low) / (high - low))[None, None]
    found = torch.sigmoid(slid(network, x))[0, 0] > 0.5
    tifffile.imwrite(target, found.numpy().astype(np.uint8))
