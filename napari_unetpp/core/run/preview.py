"""Level after level on a region in memory: the preview of a viewer.

Knows arrays and a runner; no tiles, no files, no viewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.preprocess import Normaliser
from napari_unetpp.core.errors import InputError, OutOfMemory
from napari_unetpp.core.events import Note
from napari_unetpp.core.run.memory import is_out_of_memory
from napari_unetpp.core.run.runtime import Runner
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.tiling import padded_size


def fit_normalisers(
    image: Image, card: ModelCard, channel: int | None = None
) -> tuple[list[Normaliser], list[Note]]:
    """Fit a model's intensity rule to a whole image, for parts of it that are run alone.

    Both :func:`predict_levels` and :func:`napari_unetpp.core.run.inference.predict` take them.

    Parameters
    ----------
    image : Image
        Read through a sample.
    card : ModelCard
        The model.
    channel : int, optional
        Channel for a model that takes one; needed if the image has several.

    Returns
    -------
    list of Normaliser
        One for each input channel of the network.
    list of Note
        What the user should know.
    """
    return Source(image, card, channel).fit()


def predict_levels(
    block: NDArray[Any], runner: Runner, normalisers: Sequence[Normaliser] | None = None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Run level after level on a region in memory, each from the kept nodes of the last.

    All levels together cost what the deepest costs alone.

    Parameters
    ----------
    block : ndarray, shape (*space) or (C, *space)
        Intensities on the model's grid, not normalised, any real dtype.
    runner : Runner
        The model on its device.
    normalisers : sequence of Normaliser, optional
        One for each channel, from :func:`fit_normalisers` of the whole image; fitted to
        the block if None.

    Yields
    ------
    int
        The level.
    ndarray of float32, shape (channels, *space)
        Probabilities of all the network's channels.

    Raises
    ------
    InputError
        If the block's axes or the number of normalisers do not fit the model.
    OutOfMemory
        If the region does not fit into memory.
    """
    card = runner.card
    space = len(card.axes)
    data = np.asarray(block)
    data = data[None] if data.ndim == space else data
    wanted = card.network.in_channels
    if data.ndim != space + 1 or data.shape[0] != wanted or 0 in data.shape:
        raise InputError(
            f"expected a region with axes {card.axes} or C{card.axes} and {wanted} channel(s), "
            f"got shape {np.asarray(block).shape}; crop or choose channels."
        )
    rule = card.normalisation
    maps = list(normalisers or [Normaliser.fit(c, rule)[0] for c in data])
    if len(maps) != wanted:
        raise InputError(f"expected {wanted} normaliser(s), got {len(maps)}; give one a channel.")
    shape = data.shape[1:]
    deepest = max(card.levels_trained)
    past = [(0, padded_size(n, deepest) - n) for n in shape]
    x = np.stack([m(c) for m, c in zip(maps, data, strict=True)])
    x = np.pad(x, [(0, 0), *past], mode="edge")[None]  # (1, C, *space)
    crop = (slice(None), *(slice(0, n) for n in shape))
    try:
        for level, found in runner.levels(x):
            yield level, np.ascontiguousarray(found[0][crop])
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"a region of {'x'.join(map(str, shape))} does not fit into memory with all levels "
            "kept; take a smaller region."
        ) from error
