"""An image as a network wants it: planes or volumes of the right channels, normalised.

Reads lazily and only what is asked for. Knows axes, channels and intensities; knows no
torch, no tile plan and no result.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import (
    SAMPLES,
    Part,
    arrange,
    canonical,
    check_channel,
    index_of,
    parts,
)
from napari_unetpp.core.config import ModelCard, Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.lazy import LazyArray, MappedArray, Pages
from napari_unetpp.core.data.preprocess import (
    LUMA,
    RED,
    Normaliser,
    count_non_finite,
    gray_weights,
    sample_of,
    to_gray,
)
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Note
from napari_unetpp.core.run.tiling import Region, Tile, read_window

# Of a memory-mapped image, before what was read of it is let go.
_RELEASE_AFTER = 64 * 2**20


class _Gray(LazyArray):
    """RGB(A) samples on the last axis, seen as one channel."""

    def __init__(self, source: Any, rule: Normalisation | None = None) -> None:
        super().__init__(source.shape[:-1], np.float32)
        self._source = source
        self._rule = rule

    @functools.cached_property
    def _weights(self) -> NDArray[np.float32]:
        # Found with the first block: whether an image fits a model is asked without pixels.
        if self._rule is None or self._rule.rgb == "luminance":
            return LUMA
        return gray_weights(sample_of(_Gray(self._source)), self._rule)

    @property
    def transmitted(self) -> bool | None:
        """Whether the light was transmitted; None where the rule does not ask."""
        if self._rule is None or self._rule.rgb == "luminance":
            return None
        return self._weights is RED

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        return to_gray(self._source[(*index, slice(None))], weights=self._weights)


class _Picked(LazyArray):
    """An array at one or several positions of one of its axes."""

    def __init__(self, source: Any, axis: int, which: int | slice) -> None:
        self._source, self._axis, self._which = source, axis, which
        shape = list(source.shape)
        if isinstance(which, int):
            del shape[axis]
        else:
            shape[axis] = len(range(*which.indices(shape[axis])))
        super().__init__(shape, source.dtype)

    def _read(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        whole: list[int | slice] = list(index)
        if isinstance(self._which, int):
            whole.insert(self._axis, self._which)
        else:
            # Only the first ones are ever picked, so positions are those of the source.
            item = index[self._axis]
            if isinstance(item, slice):
                whole[self._axis] = slice(*item.indices(self.shape[self._axis]))
        return np.asarray(self._source[tuple(whole)])


class Source:
    """The planes or volumes of an image that a model is run on.

    Parameters
    ----------
    image : Image
        Any axes, any real dtype.
    card : ModelCard
        Says how many spatial axes and channels the network takes.
    channel : int, optional
        The channel for a network that takes one. May be left out if the image has one; an
        RGB image becomes one channel by the card's rule, or its sample of that number.

    Attributes
    ----------
    parts : list of Part
        Planes (2D network) or volumes (3D), in the order P, T, Z.
    shape : tuple of int
        Spatial shape of each, (Y, X) or (Z, Y, X).
    axes : str
        Axes of a result with one value a pixel: those of the image in canonical order,
        without channels and samples.

    Raises
    ------
    InputError
        If the image has not the axes or channels that the model needs.
    """

    def __init__(self, image: Image, card: ModelCard, channel: int | None = None) -> None:
        self.card = card
        self.image = image
        missing = [a for a in card.axes if a not in image.axes]
        if missing:
            raise InputError(
                f"model {card.name!r} is {len(card.axes)}D and needs axes {card.axes}, got an "
                f"image with {image.axes}; name its axes (--axes) or take a 2D model."
            )
        order = canonical(image.axes)
        view: Any = image.data
        if order != image.axes:
            view = MappedArray(view, [image.axes.index(a) for a in order])
        self._view, self._axes = self._choose(view, order, channel)
        self.axes = self._axes.replace("C", "").replace(SAMPLES, "")
        self.parts: list[Part] = list(parts(self._axes, self._view.shape, len(card.axes)))
        sizes = dict(zip(self._axes, self._view.shape, strict=True))
        self.shape = tuple(int(sizes[a]) for a in card.axes)
        self.sizes = {a: int(sizes[a]) for a in self.axes}
        self._block_axes = "".join(a for a in self._axes if a in card.axes + "C" + SAMPLES)
        self._pages = Pages(image.data, _RELEASE_AFTER)

    def _choose(self, view: Any, axes: str, channel: int | None) -> tuple[Any, str]:
        """Return a lazy array with the channels that the network takes, and its axes."""
        wanted = self.card.network.in_channels
        sizes = dict(zip(axes, view.shape, strict=True))
        check_channel(axes, view.shape, channel)
        letter = next((a for a in ("C", SAMPLES) if a in axes), "")
        count = sizes.get(letter, 1)
        if wanted == 1:
            if not letter:
                return view, axes
            if channel is None and letter == SAMPLES:
                return _Gray(view, self.card.normalisation), axes.replace(SAMPLES, "")
            if channel is None and count > 1:
                raise InputError(
                    f"the model takes one channel and the image has {count}; choose one with "
                    f"--channel 0 to {count - 1}."
                )
            return _Picked(view, axes.index(letter), channel or 0), axes.replace(letter, "")
        if channel is not None:
            raise InputError(
                f"model {self.card.name!r} takes {wanted} channels "
                f"({', '.join(self.card.input_channels)}) and none can be chosen; leave --channel "
                "out."
            )
        if letter == SAMPLES and wanted == 3 and count == 4:
            return _Picked(view, axes.index(SAMPLES), slice(0, 3)), axes
        if count != wanted:
            raise InputError(
                f"model {self.card.name!r} takes {wanted} channels "
                f"({', '.join(self.card.input_channels)}), got an image with {count}; give one "
                "with these channels, or name its axes (--axes)."
            )
        return view, axes

    def select(self, region: Sequence[slice] | None) -> tuple[list[Part], Region]:
        """Return what a region touches: planes or volumes, and their part along space.

        Parameters
        ----------
        region : sequence of slice, optional
            Start and stop along each of `axes`; everything if None.

        Returns
        -------
        list of Part
            Those of `parts` that lie in it, in the same order.
        tuple of slice
            Start and stop along each spatial axis of the model.

        Raises
        ------
        InputError
            If it has not one slice for each axis, is empty, has a step or leaves the image.
        """
        if region is None:
            return self.parts, tuple(slice(0, n) for n in self.shape)
        if len(region) != len(self.axes):
            raise InputError(
                f"a region needs one slice for each axis of {self.axes}, got {len(region)}; "
                "give (start, stop) for each."
            )
        spans = {
            a: _span(wanted, self.sizes[a], a) for a, wanted in zip(self.axes, region, strict=True)
        }
        inside = [
            part
            for part in self.parts
            if all(spans[a].start <= n < spans[a].stop for a, n in part.position.items())
        ]
        return inside, tuple(spans[a] for a in self.card.axes)

    def check_normalisers(self, normalisers: Sequence[Normaliser]) -> list[Normaliser]:
        """Return normalisers that were fitted earlier if there is one for each channel.

        Raises
        ------
        InputError
            If there are more or fewer.
        """
        wanted = self.card.network.in_channels
        if len(normalisers) != wanted:
            raise InputError(
                f"expected {wanted} normaliser(s), got {len(normalisers)}; give one a channel."
            )
        return list(normalisers)

    def fit(self) -> tuple[list[Normaliser], list[Note]]:
        """Fit the intensity rule to the whole image, read through a sample.

        Returns
        -------
        list of Normaliser
            One for each input channel, fitted to that channel as training does.
        list of Note
            What the user should know about the intensities.
        """
        rule = self.card.normalisation
        letter = next((a for a in ("C", SAMPLES) if a in self._axes), "")
        notes: list[Note] = []
        fitted: list[Normaliser] = []
        for k in range(self.card.network.in_channels):
            view = _Picked(self._view, self._axes.index(letter), k) if letter else self._view
            bright = view.transmitted if isinstance(view, _Gray) else None
            one, found = Normaliser.fit(sample_of(view), rule, bright=bright)
            fitted.append(one)
            notes += [n for n in found if n not in notes]
        self.release()
        # How many pixels are not finite is known at the end, from all and not from a sample.
        return fitted, [n for n in notes if n.code != "non-finite"]

    def read(self, part: Part, region: Region) -> NDArray[Any]:
        """Read a region of a plane or volume.

        Parameters
        ----------
        part : Part
            One of `parts`.
        region : tuple of slice
            Along each spatial axis, inside the image.

        Returns
        -------
        ndarray, shape (C, *region)
            In the image's dtype (float32 for luminance).
        """
        position: dict[str, int | slice] = dict(part.position)
        position |= dict(zip(self.card.axes, region, strict=True))
        block = np.asarray(self._view[index_of(self._axes, position)])
        letter = next((a for a in ("C", SAMPLES) if a in self._block_axes), "C")
        block = arrange(block, self._block_axes, letter + self.card.axes)  # (C, *space)
        self._pages.touch(block)
        return block

    def release(self) -> None:
        """Let go of the pages of a memory-mapped image that were read."""
        self._pages.release()

    def load(
        self, part: Part, tile: Tile, normalisers: list[Normaliser]
    ) -> tuple[NDArray[np.float32], int]:
        """Read and normalise the window of a tile.

        Parameters
        ----------
        part : Part
            One of `parts`.
        tile : Tile
            Its window may lie past the image's end, where the last rows are repeated.
        normalisers : list of Normaliser
            From :meth:`fit`.

        Returns
        -------
        ndarray of float32, shape (C, *window)
            The network's input.
        int
            Pixels of the tile's core that were NaN or infinite, over all channels.
        """
        raw = read_window(lambda region: self.read(part, region), tile.window, self.shape)
        bad = count_non_finite(raw[(slice(None), *tile.inner)])
        x = np.empty(raw.shape, np.float32)
        for k, normaliser in enumerate(normalisers):
            x[k] = normaliser(raw[k])
        return x, bad


def _span(wanted: object, length: int, axis: str) -> slice:
    """Return a slice with whole numbers for ends, or say what is wrong with it."""
    problem = f"the region along {axis} must be (start, stop) within 0 and {length}, got {wanted}"
    if not isinstance(wanted, slice) or wanted.step not in (None, 1):
        raise InputError(f"{problem}; give a slice without a step.")
    try:
        start = 0 if wanted.start is None else operator.index(wanted.start)
        stop = length if wanted.stop is None else operator.index(wanted.stop)
    except TypeError as error:
        raise InputError(f"{problem}; give whole numbers.") from error
    if not 0 <= start < stop <= length:
        raise InputError(f"{problem}; give a part of the image that is not empty.")
    return slice(start, stop)
