"""Spacing and orientation: from the grid of an input to the grid of a model, and back.

World coordinates are RAS in mm, array indices (z, y, x). Axes are permuted and flipped to
the closest anatomical direction and resampled along themselves; a volume is never rotated,
so an oblique one stays oblique in the model's grid. This module must not know files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image, millimetres
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Note

_POSITIVE, _NEGATIVE = "RAS", "LPI"
DEFAULT_ORIENTATION = "SPL"
# Closer than this a spacing counts as the model's: resampling would blur and gain nothing.
_SAME_SPACING = 0.01
_ANTIALIAS_FROM = 1.5
# Beyond these bounds a spacing is wrong by a unit, and resampling would fill the memory.
_LARGEST_STEP, _MOST_GROWTH, _MOST_VOXELS = 50.0, 64, 2**28


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume lie.

    Attributes
    ----------
    shape : tuple of int
        (Z, Y, X).
    affine : ndarray
        4x4 float64, array index (z, y, x, 1) to RAS in mm.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @classmethod
    def from_spacing(
        cls,
        shape: Sequence[int],
        spacing: Sequence[float],
        orientation: str = DEFAULT_ORIENTATION,
    ) -> Grid:
        """Make a grid at the origin.

        Parameters
        ----------
        shape : sequence of int
            (Z, Y, X).
        spacing : sequence of float
            In mm, (Z, Y, X).
        orientation : str
            Direction in which each array axis grows.
        """
        affine = np.eye(4)
        affine[:3, :3] = _directions(orientation) * np.asarray(spacing, dtype=np.float64)
        z, y, x = (int(n) for n in shape)
        return cls((z, y, x), affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm, (Z, Y, X)."""
        z, y, x = (float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))
        return z, y, x

    @property
    def orientation(self) -> str:
        """Anatomical direction that is closest to each array axis, for example ``"SPL"``."""
        unit = self.affine[:3, :3] / np.asarray(self.spacing)
        # Of the six ways to give three axes three directions the best one is taken as a
        # whole, so that no direction comes twice however oblique the grid is.
        best = max(
            itertools.permutations(range(3)),
            key=lambda p: sum(abs(unit[p[k], k]) for k in range(3)),
        )
        return "".join(
            _POSITIVE[axis] if unit[axis, k] >= 0 else _NEGATIVE[axis]
            for k, axis in enumerate(best)
        )


def _directions(orientation: str) -> NDArray[np.float64]:
    """Return the unit vectors (columns) of an orientation; refuse what is none."""
    columns = np.zeros((3, 3))
    for k, letter in enumerate(orientation[:3]):
        if letter in _POSITIVE:
            columns[_POSITIVE.index(letter), k] = 1.0
        elif letter in _NEGATIVE:
            columns[_NEGATIVE.index(letter), k] = -1.0
    if len(orientation) != 3 or abs(np.linalg.det(columns)) != 1.0:
        raise InputError(
            f"orientation must name three directions such as SPL (for ZYX), got {orientation!r}."
        )
    return columns


def grid_of(image: Image, card: ModelCard) -> tuple[Grid, list[Note]]:
    """Return the grid of an image as a model sees it.

    Parameters
    ----------
    image : Image
        Its affine is taken if it has one, else its spacing; a plane has depth 1.
    card : ModelCard
        Says whether spacing is needed, and the unit where the image names none.

    Returns
    -------
    Grid
        In mm.
    list of Note
        ``orientation-assumed`` where the image does not state its orientation and the model
        wants one.

    Raises
    ------
    InputError
        If the model needs a spacing and the image has none.
    """
    space = image.spatial_shape
    shape = (1,) * (3 - len(space)) + space
    if image.affine is not None:
        return Grid((shape[0], shape[1], shape[2]), image.affine), []
    if image.spacing is None and card.spacing is not None:
        wanted = ", ".join(f"{s:g}" for s in card.spacing)
        raise InputError(
            f"the model {card.name} works at a spacing of {wanted} {card.spacing_unit}, but "
            f"{image.name} does not state its own; give --spacing ({', '.join(card.axes)})."
        )
    spacing = image.spacing or (1.0,) * len(space)
    factor = millimetres(image.unit) or millimetres(card.spacing_unit) or 1.0
    full = (factor,) * (3 - len(space)) + tuple(s * factor for s in spacing)
    notes = []
    if card.orientation is not None:
        notes.append(
            Note(
                f"{image.name} does not state its orientation; it was taken as "
                f"{card.orientation}, the model's.",
                "orientation-assumed",
            )
        )
    return Grid.from_spacing(shape, full, card.orientation or DEFAULT_ORIENTATION), notes


@dataclass(frozen=True, eq=False)
class GridMap:
    """The way from the grid of an input to the grid of a model, and back.

    Attributes
    ----------
    input_grid, model_grid : Grid
        Both ends. The model's grid covers the input's extent and shares its centre; along
        an axis whose spacings agree within 1 % it keeps the input's voxels.
    order : tuple of int
        Axis k of the model's grid is axis ``order[k]`` of the input's.
    flips : tuple of bool
        Whether axis k of the model's grid runs against the input's.
    """

    input_grid: Grid
    model_grid: Grid
    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def for_card(cls, grid: Grid, card: ModelCard) -> GridMap:
        """Make the map to the grid that a model expects.

        Parameters
        ----------
        grid : Grid
            Of the input.
        card : ModelCard
            Its orientation (input's if None) and spacing (input's if None) are met; a 2D
            model resamples Y and X alone.

        Raises
        ------
        InputError
            If the two spacings are so far apart that one must be wrong.
        """
        order, flips = (0, 1, 2), (False, False, False)
        if card.orientation is not None:
            order, flips = _turn(grid.orientation, card.orientation)
        turned = _turned(grid, order, flips)
        factor = millimetres(card.spacing_unit) or 1.0
        wanted = [s * factor for s in card.spacing or ()]
        target = list(turned.spacing)
        for axis, value in zip(range(3 - len(wanted), 3), wanted, strict=True):
            if abs(value / target[axis] - 1) > _SAME_SPACING:
                target[axis] = value
        _check_spacing(turned, target, card)
        return cls(grid, _respaced(turned, target), order, flips)

    @property
    def model_shape(self) -> tuple[int, int, int]:
        """Shape of a volume in the model's grid, (Z, Y, X)."""
        return self.model_grid.shape

    @property
    def steps(self) -> tuple[float, float, float]:
        """Voxels of the (turned) input that one voxel of the model spans, for each axis."""
        turned = [self.input_grid.spacing[k] for k in self.order]
        z, y, x = (m / t for m, t in zip(self.model_grid.spacing, turned, strict=True))
        return z, y, x

    @property
    def is_resampling(self) -> bool:
        """Whether values are interpolated, and not only turned."""
        return any(abs(s - 1) > 1e-6 for s in self.steps)

    @property
    def is_identity(self) -> bool:
        """Whether a volume comes through unchanged."""
        return self.order == (0, 1, 2) and not any(self.flips) and not self.is_resampling

    def to_model(self, volume: NDArray[Any], order: int = 1) -> NDArray[Any]:
        """Bring a volume into the model's grid.

        Parameters
        ----------
        volume : ndarray
            (Z, Y, X) in the input's grid, any number type.
        order : int
            Of the interpolation: 1 linear, 0 nearest (for labels, whose type is kept).

        Returns
        -------
        ndarray
            (Z, Y, X) in the model's grid, float32 (the type of `volume` if `order` is 0).

        Raises
        ------
        InputError
            If the shape is not that of the input's grid.
        """
        _check_shape(volume, self.input_grid.shape)
        if order > 0:
            volume = volume.astype(np.float32, copy=False)
        turned = volume.transpose(self.order)[self._flip()]
        # In C order, because torch takes no negative strides.
        return np.ascontiguousarray(_resample(turned, self.model_shape, self.steps, order))

    def to_input(self, volume: NDArray[Any], order: int = 1) -> NDArray[Any]:
        """Bring probabilities back into the input's grid.

        Parameters
        ----------
        volume : ndarray
            (..., Z, Y, X) in the model's grid.
        order : int
            As for :meth:`to_model`.

        Returns
        -------
        ndarray
            (..., Z, Y, X) in the input's grid, of the type of `volume`.

        Raises
        ------
        InputError
            If the shape is not that of the model's grid.
        """
        _check_shape(volume, self.model_shape)
        lead = volume.shape[:-3]
        shape = tuple(self.input_grid.shape[k] for k in self.order)
        back = np.argsort(self.order)
        steps = tuple(1 / s for s in self.steps)
        if self.is_resampling:
            flat = volume.reshape(-1, *self.model_shape)
            resampled = np.empty((len(flat), *shape), volume.dtype)
            for k, one in enumerate(flat):
                resampled[k] = _resample(one, shape, steps, order)
            volume = resampled.reshape(*lead, *shape)
        flip: tuple[Any, ...] = (..., *self._flip())
        turned = volume[flip]
        return np.ascontiguousarray(turned.transpose(*range(len(lead)), *(len(lead) + back)))

    def _flip(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if f else None) for f in self.flips)


def _check_spacing(grid: Grid, target: Sequence[float], card: ModelCard) -> None:
    """Refuse a spacing that looks like a slip, before memory is taken for its grid."""
    steps = np.asarray(target) / np.asarray(grid.spacing)
    voxels = float(np.prod(np.maximum(1.0, np.asarray(grid.shape) / steps)))
    absurd = (np.maximum(steps, 1 / steps) > _LARGEST_STEP).any()
    if not absurd and voxels <= max(_MOST_GROWTH * math.prod(grid.shape), _MOST_VOXELS):
        return
    factor = millimetres(card.spacing_unit) or 1.0
    given, wanted = (
        ", ".join(f"{v / factor:.4g}" for v in values[-len(card.axes) :])
        for values in (list(grid.spacing), list(target))
    )
    slip = "micrometres given as mm" if (steps < 1).any() else "mm given as micrometres"
    raise InputError(
        f"the image's spacing ({given} {card.spacing_unit}) is too far from that of the model "
        f"{card.name} ({wanted} {card.spacing_unit}), a grid of {voxels:.3g} voxels; probably a "
        f"slip of the unit ({slip}?): correct --spacing, or the file's own."
    )


def _check_shape(volume: NDArray[Any], shape: tuple[int, ...]) -> None:
    if volume.ndim < 3 or volume.shape[-3:] != shape:
        raise InputError(
            f"a volume of {'x'.join(map(str, shape))} (Z, Y, X) was expected, got "
            f"{'x'.join(map(str, volume.shape))}; give the volume that the grid was made for."
        )


def _turn(have: str, want: str) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return which input axis each wanted direction comes from, and where it runs against."""
    axis_of = {letter: "RLAPSI".index(letter) // 2 for letter in "RLAPSI"}
    axes = [axis_of[letter] for letter in have]
    z, y, x = (axes.index(axis_of[letter]) for letter in want)
    fz, fy, fx = (have[k] != letter for k, letter in zip((z, y, x), want, strict=True))
    return (z, y, x), (fz, fy, fx)


def _turned(grid: Grid, order: Sequence[int], flips: Sequence[bool]) -> Grid:
    """Return the grid of the permuted, flipped array."""
    affine = grid.affine.copy()
    z, y, x = (grid.shape[k] for k in order)
    affine[:3, :3] = grid.affine[:3, list(order)]
    for k, (flip, length) in enumerate(zip(flips, (z, y, x), strict=True)):
        if flip:
            affine[:3, 3] += affine[:3, k] * (length - 1)
            affine[:3, k] *= -1
    return Grid((z, y, x), affine)


def _respaced(grid: Grid, spacing: Sequence[float]) -> Grid:
    """Return a grid of another spacing that covers the same extent about the same centre."""
    steps = np.asarray(spacing) / np.asarray(grid.spacing)
    # A hundredth of a voxel short is covered: 99.999 voxels must not become 101.
    counts = np.maximum(1, np.ceil(np.asarray(grid.shape) / steps - 0.01)).astype(int)
    counts = np.where(np.abs(steps - 1) < 1e-6, grid.shape, counts)
    z, y, x = (int(n) for n in counts)
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * steps
    first = (np.asarray(grid.shape) - 1) / 2 - steps * (counts - 1) / 2
    affine[:3, 3] = grid.affine[:3, :3] @ first + grid.affine[:3, 3]
    return Grid((z, y, x), affine)


def _resample(
    volume: NDArray[Any], shape: Sequence[int], steps: Sequence[float], order: int
) -> NDArray[Any]:
    """Resample (Z, Y, X) about its centre; beyond its edge the edge goes on."""
    for axis, (length, step) in enumerate(zip(shape, steps, strict=True)):
        if abs(step - 1) <= 1e-6:
            continue
        if step > _ANTIALIAS_FROM and order > 0:
            # Half the step less one is what makes neighbouring samples just overlap.
            volume = ndimage.gaussian_filter1d(volume, (step - 1) / 2, axis, mode="nearest")
        if order == 0:
            volume = _nearest(volume, length, step, axis)
        else:
            volume = _linear(volume, length, step, axis)
    return volume


def _places(have: int, length: int, step: float) -> NDArray[np.float64]:
    """Return where the new voxels' centres lie among the old ones, kept inside."""
    places = (have - 1) / 2 + (np.arange(length) - (length - 1) / 2) * step
    return np.clip(places, 0, have - 1)


def _nearest(volume: NDArray[Any], length: int, step: float, axis: int) -> NDArray[Any]:
    places = np.floor(_places(volume.shape[axis], length, step) + 0.5).astype(int)
    nearest: NDArray[Any] = volume.take(np.minimum(places, volume.shape[axis] - 1), axis)
    return nearest


def _linear(volume: NDArray[Any], length: int, step: float, axis: int) -> NDArray[Any]:
    places = _places(volume.shape[axis], length, step)
    below = np.minimum(places.astype(int), max(volume.shape[axis] - 2, 0))
    above = np.minimum(below + 1, volume.shape[axis] - 1)
    weight = (places - below).astype(np.float32)
    weight = weight.reshape([-1 if k == axis else 1 for k in range(3)])
    result: NDArray[Any] = volume.take(above, axis)
    low = volume.take(below, axis)
    # low + w (high - low), in place: a constant stays constant to the last bit.
    result -= low
    result *= weight
    result += low
    return result
