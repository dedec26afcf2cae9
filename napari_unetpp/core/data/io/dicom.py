"""A folder of DICOM slices in, as one volume (pydicom, optional).

One series of single-frame slices that lie evenly on one line. This module must not know
other formats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io.medical import Affine, affine_spacing, optional
from napari_unetpp.core.errors import FileError, InputError, MissingPackageError

# Slices may be off the even grid by this part of their distance (rounded coordinates).
_UNEVEN = 0.02
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def read_dicom(path: Path, *, name: str) -> Image:
    """Read the slices of a folder, or one file, as a volume.

    Parameters
    ----------
    path : Path
        A folder of one series, or one file.
    name : str
        Name of the image.

    Returns
    -------
    Image
        ZYX with rescaled values (HU for CT), spacing and affine in mm; slices are sorted by
        their position, so Z grows along the normal of the slices.

    Raises
    ------
    FileError
        If a slice cannot be read.
    InputError
        If there are several series, or slices are missing, doubled or uneven.
    MissingPackageError
        If pydicom, or a decoder for its compression, is not installed.
    """
    pydicom = optional("pydicom", f"reading {path.name} (DICOM)")
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.is_file())
    slices = []
    for file in files:
        try:
            one = pydicom.dcmread(file)
        except pydicom.errors.InvalidDicomError:
            continue  # a README or a DICOMDIR beside the slices
        except (OSError, EOFError, ValueError, KeyError, AttributeError) as error:
            raise _damaged(file, error) from error
        if "PixelData" in one or "Rows" in one:
            slices.append((file, one))
    if not slices:
        raise FileError(f"{path} holds no DICOM slice with pixels; choose the folder of a series.")
    _check_series(slices, path)
    slices, affine = _in_space(slices, path)
    volume = np.stack([_values(file, one) for file, one in slices])
    volume = volume.astype(_smallest(volume), copy=False)
    metadata = {"format": "dicom"}
    return Image(volume, "ZYX", affine_spacing(affine, "ZYX"), "mm", affine, name, path, metadata)


def _damaged(file: Path, error: Exception) -> FileError:
    return FileError(
        f"{file} was expected to be a complete DICOM slice, but it cannot be read "
        f"({' '.join(str(error).split())[:120]}); export the series again."
    )


def _check_series(slices: Sequence[tuple[Path, Any]], path: Path) -> None:
    series = Counter(str(one.get("SeriesInstanceUID", "")) for _, one in slices)
    if len(series) > 1:
        counts = ", ".join(str(n) for n in series.values())
        raise InputError(
            f"{path} was expected to hold one DICOM series, got {len(series)} (of {counts} "
            "slices); put each series into a folder of its own."
        )
    for file, one in slices:
        if int(one.get("NumberOfFrames", 1) or 1) > 1:
            raise InputError(
                f"{file} is a multi-frame DICOM, expected one slice a file; convert it to NIfTI."
            )
        if int(one.get("SamplesPerPixel", 1)) != 1:
            raise InputError(f"{file} is a colour DICOM, expected grey values; choose a CT or MR.")
    shapes = {(int(one.Rows), int(one.Columns)) for _, one in slices}
    if len(shapes) > 1:
        raise InputError(
            f"the slices in {path} must be of one size, got {sorted(shapes)}; "
            "remove the localizer or the other series."
        )


def _in_space(slices: list[tuple[Path, Any]], path: Path) -> tuple[list[tuple[Path, Any]], Affine]:
    """Return the slices in the order of their position, and the affine of the volume."""
    try:
        turn = np.array([[float(v) for v in one.ImageOrientationPatient] for _, one in slices])
        place = np.array([[float(v) for v in one.ImagePositionPatient] for _, one in slices])
        rows, columns = (float(v) for v in slices[0][1].PixelSpacing)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"the slices in {path} do not state where they lie ({error}); export the series with "
            "its geometry, or convert it to NIfTI."
        ) from error
    if np.abs(turn - turn[0]).max() > 1e-3:
        raise InputError(
            f"the slices in {path} must be parallel, got several orientations; remove the "
            "localizer or the other series."
        )
    normal = np.cross(turn[0, :3], turn[0, 3:])
    along = place @ normal
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    step = float(np.median(gaps)) if len(gaps) else float(
        slices[0][1].get("SpacingBetweenSlices") or slices[0][1].get("SliceThickness") or 1.0
    )  # fmt: skip
    if len(gaps) and (step <= 0 or np.abs(gaps - step).max() > _UNEVEN * step + 1e-3):
        raise InputError(
            f"the slices in {path} must be evenly spaced, got distances of {gaps.min():.3g} to "
            f"{gaps.max():.3g} mm; a slice is missing or doubled, so export the series again."
        )
    first, last = place[order[0]], place[order[-1]]
    affine = np.eye(4)
    affine[:3, 0] = (last - first) / len(gaps) if len(gaps) else normal * step
    affine[:3, 1] = turn[0, 3:] * rows
    affine[:3, 2] = turn[0, :3] * columns
    affine[:3, 3] = first
    affine[:3] *= _LPS_TO_RAS[:, None]
    return [slices[k] for k in order], affine


def _values(file: Path, one: Any) -> NDArray[Any]:
    """Return the rescaled values of one slice as float64."""
    try:
        pixels = np.asarray(one.pixel_array, dtype=np.float64)
    except (RuntimeError, NotImplementedError, ImportError) as error:
        raise MissingPackageError(
            f"{file} is compressed in a way that pydicom cannot read alone "
            f"({' '.join(str(error).split())[:120]}); run pip install "
            '"pylibjpeg[all]", or convert the series to NIfTI.'
        ) from error
    except (ValueError, OSError, AttributeError, KeyError) as error:
        raise _damaged(file, error) from error
    slope = float(one.get("RescaleSlope", 1) or 1)
    return pixels * slope + float(one.get("RescaleIntercept", 0) or 0)


def _smallest(volume: NDArray[Any]) -> np.dtype[Any]:
    """Return int16 or int32 where the values are whole, else float32."""
    if not np.array_equal(volume, np.rint(volume)):
        return np.dtype(np.float32)
    low, high = volume.min(), volume.max()
    return np.dtype(np.int16 if low >= -32768 and high <= 32767 else np.int32)
