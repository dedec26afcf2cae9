"""NRRD in and out (pynrrd, optional); space, directions and origin are kept as they are.

This module must not know other formats.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_unetpp.core.axes import arrange, guess_axes, looks_rgb, spatial
from napari_unetpp.core.data.image import Image, known_unit, millimetres
from napari_unetpp.core.data.io.atomic import BufferSink, narrow_labels
from napari_unetpp.core.data.io.medical import Affine, affine_spacing, optional, swap_affine
from napari_unetpp.core.errors import FileError, InputError

# World axes that point away from RAS, by the name of the space.
_SPACES = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
_KEPT = ("space", "space dimension", "space origin", "space units", "measurement frame")
# One value an axis, meaningful where spacings say all; what stands where nothing is known.
_KEPT_OF_AXES = {"axis mins": np.nan, "thicknesses": np.nan, "units": ""}
_SPACE_KINDS = ("domain", "space")
_LETTERS = {
    "rgb-color": "S", "rgba-color": "S", "vector": "C", "list": "T", "time": "T", "point": "C",
    "3-vector": "C", "4-vector": "C", "2-vector": "C", "scalar": "T", "covariant-vector": "C",
}  # fmt: skip


def read_nrrd(path: Path, *, name: str) -> Image:
    """Read a .nrrd or .nhdr.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Name of the image.

    Returns
    -------
    Image
        Spacing and affine in mm where the file states an anatomical space.

    Raises
    ------
    FileError
        If it is damaged or cut off.
    MissingPackageError
        If pynrrd is not installed.
    """
    nrrd = optional("nrrd", f"reading {path.name} (NRRD)")
    try:
        array, header = nrrd.read(str(path), index_order="C")
    except (nrrd.NRRDError, OSError, EOFError, zlib.error, ValueError, KeyError) as error:
        raise FileError(
            f"{path} was expected to be a complete NRRD file, but it is damaged or cut off "
            f"({' '.join(str(error).split())[:120]}); copy or export it again."
        ) from error
    directions = _directions(header, array.ndim)
    axes, order = _our_axes(array, header, directions)
    array = array.astype(array.dtype.newbyteorder("="), copy=False).transpose(order)
    by_letter = {
        letter: directions[array.ndim - 1 - place]
        for letter, place in zip(axes, order, strict=True)
        if letter in "XYZ"
    }
    kept = {key: header[key] for key in _KEPT if key in header}
    of_axes = {
        key: {
            letter: header[key][array.ndim - 1 - place]
            for letter, place in zip(axes, order, strict=True)
        }
        for key in _KEPT_OF_AXES
        if len(header.get(key, ())) == array.ndim
    }
    metadata = {
        "format": "nrrd", "nrrd": kept, "nrrd_directions": by_letter, "nrrd_axes": of_axes,
    }  # fmt: skip
    affine, spacing, unit = _geometry(header, by_letter, axes)
    return Image(array, axes, spacing, unit, affine, name, path, metadata)


def _directions(header: Mapping[str, Any], ndim: int) -> list[NDArray[Any] | None]:
    """Return the direction of each axis in the file's order, None for those without."""
    given = header.get("space directions")
    if given is None:
        steps = header.get("spacings")
        if steps is None:
            return [None] * ndim
        return [
            np.eye(ndim)[k] * s if np.isfinite(s) and s > 0 else None for k, s in enumerate(steps)
        ]
    rows = [None if row is None else np.asarray(row, dtype=np.float64) for row in given]
    return [None if row is None or not np.isfinite(row).all() else row for row in rows]


def _our_axes(
    array: NDArray[Any], header: Mapping[str, Any], directions: Sequence[NDArray[Any] | None]
) -> tuple[str, list[int]]:
    """Return axis letters, and the C-order axes of the array that they are."""
    ndim = array.ndim
    kinds = [str(k).lower() for k in header.get("kinds", ())]
    space = [k for k in range(ndim) if directions[k] is not None]
    if kinds and (not space or "space directions" not in header):
        space = [k for k in range(ndim) if kinds[k] in _SPACE_KINDS]
    if not 2 <= len(space) <= 3:
        plain = guess_axes(array.shape, rgb=looks_rgb(array.shape, array.dtype))
        return plain, list(range(ndim))
    letters = dict(zip(space, "XYZ", strict=False))
    for k in range(ndim):
        if k not in letters:
            wanted = _LETTERS.get(kinds[k] if kinds else "", "C" if k == 0 else "T")
            if wanted == "S" and array.shape[ndim - 1 - k] not in (3, 4):
                wanted = "C"
            taken = set(letters.values())
            letters[k] = next(a for a in (wanted, *"CTP") if a not in taken)
    c_order = "".join(letters[k] for k in reversed(range(ndim)))
    axes = "".join(a for a in c_order if a != "S") + ("S" if "S" in c_order else "")
    return axes, [c_order.index(a) for a in axes]


def _geometry(
    header: Mapping[str, Any], directions: Mapping[str, NDArray[Any] | None], axes: str
) -> tuple[Affine | None, tuple[float, ...] | None, str | None]:
    space = spatial(axes)
    columns = [directions.get(a) for a in space]
    if any(c is None for c in columns):
        return None, None, None
    units = [str(u) for u in header.get("space units", ())]
    unit = known_unit(units[0]) if units else None
    signs = _SPACES.get(str(header.get("space", "")).lower())
    lengths = tuple(float(f"{np.linalg.norm(c):.12g}") for c in columns if c is not None)
    if signs is None or len(space) != 3 or any(c is None or len(c) != 3 for c in columns):
        return None, lengths, unit
    affine = np.eye(4)
    affine[:3, :3] = np.stack([c for c in columns if c is not None], axis=1)
    origin = np.asarray(header.get("space origin", (0.0, 0.0, 0.0)), dtype=np.float64)
    affine[:3, 3] = np.nan_to_num(origin)
    affine[:3] *= np.array(signs)[:, None] * (millimetres(unit) or 1.0)
    return affine, affine_spacing(affine, space), "mm"


def nrrd_sink(
    path: Path, axes: str, shape: Sequence[int], dtype: DTypeLike, *, like: Image
) -> BufferSink:
    """Return a sink that writes a gzip-compressed NRRD with the geometry of `like`.

    Raises
    ------
    InputError
        If the name ends in .nhdr: header and pixels in two files cannot appear at once.
    """
    optional("nrrd", f"writing {path.name} (NRRD)")
    if path.suffix.lower() != ".nrrd":
        raise InputError(f"NRRD is written as one file, got {path.name}; name it .nrrd.")
    kind = np.dtype(dtype)
    stored = np.dtype(np.uint8) if kind.kind == "b" else kind
    stored = np.dtype(np.float32) if stored == np.float16 else stored

    def write(array: NDArray[Any], target: Path) -> None:
        write_nrrd(array, axes, target, like)

    return BufferSink(path, axes, shape, stored, write, ".nrrd")


def write_nrrd(array: NDArray[Any], axes: str, path: Path, like: Image) -> None:
    """Write an array as NRRD; channels become the fastest axis, as vector images have it.

    Parameters
    ----------
    array : ndarray
        Its axes are `axes`.
    axes : str
        Letters of PTCZYX.
    path : Path
        The file.
    like : Image
        Gives space, directions and origin, or affine, or spacing.
    """
    nrrd = optional("nrrd", f"writing {path.name} (NRRD)")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2:
        array = array.astype(narrow_labels(array))
    order = "".join(a for a in "PTZYXC" if a in axes)
    data = np.ascontiguousarray(arrange(array, axes, order))
    header, columns = _header_of(like)
    fast_first = order[::-1]
    kinds = {"C": "vector", "T": "list", "P": "list"}
    header["kinds"] = [kinds.get(a, "domain") for a in fast_first]
    header["encoding"] = "gzip"
    if columns and ("space" in header or "space dimension" in header):
        size = len(next(iter(columns.values())))
        none = np.full(size, np.nan)
        header["space directions"] = np.array([columns.get(a, none) for a in fast_first])
    elif columns:
        header["spacings"] = [
            float(np.linalg.norm(columns[a])) if a in columns else np.nan for a in fast_first
        ]
        for key, values in like.metadata.get("nrrd_axes", {}).items():
            header[key] = [values.get(a, _KEPT_OF_AXES[key]) for a in fast_first]
    nrrd.write(str(path), data, header, index_order="C", compression_level=4)


def _header_of(like: Image) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the header fields of the space, and the direction of each spatial letter."""
    given = like.metadata.get("nrrd_directions")
    if given is not None:
        columns = {a: d for a, d in given.items() if d is not None}
        return dict(like.metadata["nrrd"]), columns
    space = spatial(like.axes)
    if like.affine is not None:
        # Slicer and ITK write LPS.
        flipped = np.diag([-1.0, -1.0, 1.0, 1.0]) @ swap_affine(like.affine)
        columns = dict(zip("XYZ"[: len(space)], flipped[:3, :3].T, strict=False))
        return {"space": "left-posterior-superior", "space origin": flipped[:3, 3]}, columns
    if like.spacing is None:
        return {}, {}
    columns = {a: np.array([s]) for a, s in zip(space, like.spacing, strict=True)}
    return {}, columns
