"""The grid that a network sees: the image's own, or the one that its card asks for.

A :class:`DirectSpace` streams windows of the image. A :class:`MappedSpace` holds one volume
(or plane) resampled to the card's spacing and orientation and brings probabilities back to the
image's grid. Knows no network and no tile plan.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import Part
from napari_unetpp.core.data.geometry import Grid, GridMap, grid_of
from napari_unetpp.core.data.preprocess import Normaliser, count_non_finite
from napari_unetpp.core.errors import OutOfMemory
from napari_unetpp.core.events import Note
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.tiling import Tile, read_window


class Space(Protocol):
    """Where tiles are cut from."""

    @property
    def direct(self) -> bool:
        """Whether it is the image's own grid, so that tiles can be written at once."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of the grid that is tiled."""
        ...

    @property
    def notes(self) -> list[Note]:
        """What the user should know about the grid."""
        ...

    def load(
        self, part: Part, tile: Tile, normalisers: list[Normaliser]
    ) -> tuple[NDArray[np.float32], int]:
        """Return a normalised window, (C, *window), and its core's non-finite pixels."""
        ...

    def restore(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring one channel, (*shape), to the image's grid."""
        ...


class DirectSpace:
    """The image's own grid.

    Parameters
    ----------
    source : Source
        The image.
    notes : list of Note
        What was found out on the way to this choice.
    """

    direct = True

    def __init__(self, source: Source, notes: list[Note]) -> None:
        self._source = source
        self.shape = source.shape
        self.notes = notes

    def load(
        self, part: Part, tile: Tile, normalisers: list[Normaliser]
    ) -> tuple[NDArray[np.float32], int]:
        """Read a window of the image, see :class:`Space`."""
        return self._source.load(part, tile, normalisers)

    def restore(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities as they are."""
        return probabilities


class MappedSpace:
    """The card's grid; one volume (plane) is held at a time.

    Parameters
    ----------
    source : Source
        The image.
    grid_map : GridMap
        From the image's grid to the card's.
    notes : list of Note
        What was found out on the way to this choice.
    """

    direct = False

    def __init__(self, source: Source, grid_map: GridMap, notes: list[Note]) -> None:
        self._source = source
        self._map = grid_map
        self._ndim = len(source.card.axes)
        self.shape = tuple(int(n) for n in grid_map.model_shape)[-self._ndim :]
        self.notes = notes
        self._part: Part | None = None
        self._volume: NDArray[np.float32] | None = None
        self._non_finite = 0

    def load(
        self, part: Part, tile: Tile, normalisers: list[Normaliser]
    ) -> tuple[NDArray[np.float32], int]:
        """Cut a window from the resampled volume, see :class:`Space`.

        The pixels that were not finite are those of the whole volume, counted with its
        first tile.
        """
        if self._volume is None or part is not self._part:
            try:
                self._volume = self._resampled(part, normalisers)
            except MemoryError as error:
                raise self._too_large() from error
            self._part = part
        volume = self._volume
        window = read_window(lambda r: volume[(slice(None), *r)], tile.window, self.shape)
        first = all(c.start == 0 for c in tile.core)
        return window, self._non_finite if first else 0

    def restore(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Interpolate one channel linearly on the image's grid."""
        volume = probabilities.reshape(self._map.model_shape)
        try:
            restored = self._map.to_input(volume, order=1).reshape(self._source.shape)
        except MemoryError as error:
            raise self._too_large() from error
        return np.asarray(restored, dtype=np.float32)

    def _too_large(self) -> OutOfMemory:
        """Return the error that says so: smaller tiles would not help."""
        own, model = ("x".join(map(str, shape)) for shape in (self._source.shape, self.shape))
        return OutOfMemory(
            f"the image ({own}), resampled to the model's grid ({model}), does not fit into "
            "memory; close other programs or crop the image."
        )

    def _resampled(self, part: Part, normalisers: list[Normaliser]) -> NDArray[np.float32]:
        self._volume = None  # before the next one is made
        whole = tuple(slice(0, n) for n in self._source.shape)
        raw = self._source.read(part, whole)
        self._non_finite = count_non_finite(raw)
        out = np.empty((len(normalisers), *self.shape), np.float32)
        for k, normaliser in enumerate(normalisers):
            # As in training: intensities are resampled, then normalised and clipped.
            volume = _filled(raw[k], normaliser).reshape(self._map.input_grid.shape)
            out[k] = normaliser(self._map.to_model(volume, order=1).reshape(self.shape))
        return out


def _filled(volume: NDArray[Any], normaliser: Normaliser) -> NDArray[Any]:
    """Replace what is not finite, which interpolation would spread to its neighbours."""
    if volume.dtype.kind != "f":
        return volume
    low, high = normaliser.low, normaliser.high
    background = high if normaliser.invert else low
    filled: NDArray[Any] = np.nan_to_num(volume, nan=background, posinf=high, neginf=low)
    return filled


def space_for(source: Source) -> Space:
    """Choose the grid on which a model sees an image.

    Parameters
    ----------
    source : Source
        The image, and the card whose spacing and orientation count.

    Returns
    -------
    Space
        The image's own grid for cards without spacing and orientation, and where both
        grids are the same.

    Raises
    ------
    InputError
        If the card asks for a spacing and the image has none, or one that must be wrong.
    """
    card = source.card
    if card.spacing is None and card.orientation is None:
        return DirectSpace(source, [])
    grid, notes = grid_of(source.image, card)
    if len(card.axes) == 2:  # one plane at a time, however many there are
        grid = Grid((1, *grid.shape[1:]), grid.affine)
    grid_map = GridMap.for_card(grid, card)
    if grid_map.is_identity:
        return DirectSpace(source, notes)
    return MappedSpace(source, grid_map, notes)
