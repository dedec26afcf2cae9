"""An image: an array that may be lazy, with its axes, its geometry and its origin.

This module must not know file formats; readers fill an :class:`Image`, writers take one to
keep what it says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import guess_axes, looks_rgb, parse_axes, sizes, spatial
from napari_unetpp.core.data.lazy import MappedArray
from napari_unetpp.core.errors import InputError

_UNITS = {
    "m": ("m", "meter", "metre", "meters", "metres"),
    "cm": ("cm", "centimeter", "centimetre", "centimeters"),
    "mm": ("mm", "millimeter", "millimetre", "millimeters", "millimetres"),
    "µm": ("µm", "um", "micron", "microns", "micrometer", "micrometre", "micrometers", "\\u00b5m"),
    "nm": ("nm", "nanometer", "nanometre", "nanometers"),
    "Å": ("å", "angstrom", "ångström"),
    "inch": ("inch", "in", "inches"),
}
_MILLIMETRES = {
    "m": 1e3, "cm": 10.0, "mm": 1.0, "µm": 1e-3, "nm": 1e-6, "Å": 1e-7, "inch": 25.4,
}  # fmt: skip


def known_unit(text: str | None) -> str | None:
    """Return the one spelling of a length unit ("µm" for "micron"), or None if it is none."""
    plain = (text or "").strip().lower().replace("\u03bc", "\u00b5")
    return next((unit for unit, names in _UNITS.items() if plain in names), None)


def millimetres(unit: str | None) -> float | None:
    """Return how many mm one `unit` is, or None for an unknown one."""
    name = known_unit(unit)
    return None if name is None else _MILLIMETRES[name]


def check_spacing(spacing: Sequence[float], axes: str) -> tuple[float, ...]:
    """Check the spacing that a user gave: a positive number for each spatial axis.

    Raises
    ------
    InputError
        If the count does not fit `axes`, or a number is not positive and finite.
    """
    space = spatial(axes)
    values = tuple(float(s) for s in spacing)
    if len(values) != len(space):
        raise InputError(
            f"spacing needs {len(space)} numbers ({', '.join(space)}) for axes {axes}, "
            f"got {len(values)}; give one for each."
        )
    if not all(math.isfinite(s) and s > 0 for s in values):
        raise InputError(f"spacing must be positive numbers, got {values}; correct them.")
    return values


@dataclass(frozen=True, eq=False)
class Image:
    """An array with its meaning.

    Attributes
    ----------
    data : array-like
        numpy, memmap, zarr, dask: has shape, dtype and basic slicing.
    axes : str
        Letters of PTCZYXS in the order of the axes of `data`.
    spacing : tuple of float, optional
        Size of a pixel or voxel along each spatial axis, in the order Z, Y, X.
    unit : str, optional
        Unit of `spacing`: "mm", "µm", ...
    affine : ndarray, optional
        4x4 float64: array index (z, y, x, 1) to RAS in mm.
    name : str
        For people and for output names.
    path : Path, optional
        Where it was read from.
    metadata : mapping
        What the writer of its format needs to keep; ``"format"`` names the format and
        ``"channel_names"`` the channels.
    """

    data: Any
    axes: str
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    affine: NDArray[np.float64] | None = None
    name: str = "image"
    path: Path | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(hasattr(self.data, a) for a in ("shape", "dtype", "__getitem__")):
            raise InputError(
                f"an image needs an array, got {type(self.data).__name__}; give a numpy, dask "
                "or zarr array."
            )
        object.__setattr__(self, "data", _usable(self.data, self.name))
        object.__setattr__(self, "axes", parse_axes(self.axes, self.data.shape))
        if self.spacing is not None:
            object.__setattr__(self, "spacing", check_spacing(self.spacing, self.axes))
        if self.affine is not None:
            object.__setattr__(self, "affine", _usable_affine(self.affine, self.name))

    @classmethod
    def from_array(
        cls,
        array: Any,
        axes: str | None = None,
        spacing: Sequence[float] | None = None,
        *,
        unit: str | None = None,
        affine: NDArray[np.float64] | None = None,
        name: str = "image",
        metadata: Mapping[str, Any] | None = None,
    ) -> Image:
        """Make an image from an array in memory or a lazy one.

        Parameters
        ----------
        array : array-like
            Any shape of 2 to 6 axes; bool becomes uint8, lists become arrays.
        axes : str, optional
            Guessed from the shape if None, see :func:`napari_unetpp.core.axes.guess_axes`.
        spacing : sequence of float, optional
            One for each spatial axis, in the order Z, Y, X.
        unit, affine, name, metadata
            See the class.

        Raises
        ------
        InputError
            If the array or one of the others cannot be used; the message says why.
        """
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            array = np.asarray(array)
        if axes is None:
            axes = guess_axes(array.shape, rgb=looks_rgb(array.shape, array.dtype))
        given = None if spacing is None else tuple(float(s) for s in spacing)
        return cls(array, axes, given, unit, affine, name, None, dict(metadata or {}))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(int(n) for n in self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the array."""
        dtype: np.dtype[Any] = np.dtype(self.data.dtype)
        return dtype

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each axis by its letter."""
        return sizes(self.axes, self.shape)

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Shape of the spatial part, (Z, Y, X) or (Y, X)."""
        size = self.sizes
        return tuple(size[a] for a in spatial(self.axes))

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, where the file names them."""
        return tuple(self.metadata.get("channel_names") or ())

    def replace(self, **changes: Any) -> Image:
        """Return a checked copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def with_spacing(self, spacing: Sequence[float]) -> Image:
        """Return a copy with the user's spacing; directions and origin of the affine stay."""
        values = check_spacing(spacing, self.axes)
        affine = self.affine
        if affine is not None:
            affine = affine.copy()
            for column, value in zip(range(3 - len(values), 3), values, strict=True):
                length = float(np.linalg.norm(affine[:3, column]))
                affine[:3, column] *= value * (millimetres(self.unit) or 1.0) / length
        return self.replace(spacing=values, affine=affine)


def _usable(data: Any, name: str) -> Any:
    """Return the array itself, as uint8 where it is bool; refuse what is no image."""
    try:
        kind = np.dtype(data.dtype).kind
    except TypeError as error:
        raise InputError(
            f"{name} must hold numbers, got {data.dtype}; convert it to a number type."
        ) from error
    shape = "x".join(str(n) for n in data.shape) or "a single number"
    if kind == "c":
        raise InputError(
            f"{name} must hold real numbers, got {data.dtype}; save its magnitude, for example."
        )
    if kind not in "buif":
        raise InputError(
            f"{name} must hold numbers, got an array of type {data.dtype}; convert it to "
            "integers or floats."
        )
    if 0 in tuple(data.shape):
        raise InputError(f"{name} must hold at least one pixel, got {shape}; it is empty.")
    if kind != "b":
        return data
    if isinstance(data, np.ndarray):
        return data.view(np.uint8)
    return MappedArray(data, dtype=np.uint8)


def _usable_affine(affine: Any, name: str) -> NDArray[np.float64]:
    """Return the affine as float64; refuse one that is no invertible 4x4."""
    matrix = np.array(affine, dtype=np.float64)
    good = matrix.shape == (4, 4) and bool(np.isfinite(matrix).all())
    if not good or abs(np.linalg.det(matrix[:3, :3])) < 1e-30:
        raise InputError(
            f"the affine of {name} must be an invertible 4x4 matrix, got "
            f"{np.array2string(matrix, precision=3)}; repair the file's geometry or give spacing."
        )
    return matrix
