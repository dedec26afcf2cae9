"""Write the files of this folder anew: ``python sample_data/generate.py [FOLDER]``.

The pictures come from ``napari_unetpp.core.data.phantoms``; this only gives them file formats.
TIFF files are ImageJ hyperstacks with zlib compression, whose spacing is the resolution and the
``spacing`` tag; the CT is NIfTI in mm.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_unetpp.core.data import phantoms


def write_tiff(
    path: Path, array: NDArray[np.generic], axes: str, spacing: tuple[float, ...]
) -> None:
    """Write an ImageJ TIFF; `axes` are letters of TZYX, `spacing` is in µm, ZYX order."""
    metadata: dict[str, Any] = {"axes": axes, "unit": "um"}
    if "Z" in axes:
        metadata["spacing"] = spacing[0]
    tifffile.imwrite(
        path,
        array,
        imagej=True,
        compression="zlib",
        predictor=True,
        resolution=(1 / spacing[-1], 1 / spacing[-2]),
        metadata=metadata,
    )


def write_nifti(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """Write a NIfTI file; `array` is (Z, Y, X), `affine` takes (z, y, x, 1) to RAS in mm."""
    # NIfTI counts x first: turn the axes of the array and the columns of the affine around.
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def generate(folder: Path) -> list[Path]:
    """Write all files into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []

    def tiff(name: str, array: NDArray[np.generic], like: phantoms.Phantom) -> None:
        written.append(folder / name)
        write_tiff(written[-1], array, like.axes, like.spacing)

    flat = phantoms.nuclei_2d()
    for phantom in (flat, phantoms.nuclei_3d(), phantoms.nuclei_timelapse()):
        tiff(f"{phantom.name}.tif", phantom.image, phantom)
        tiff(f"{phantom.name}_labels.tif", phantom.labels, phantom)
    tiff(f"{flat.name}_strokes.tif", phantoms.painted_strokes(flat.labels), flat)
    ct = phantoms.ct_phantom()
    assert ct.affine is not None
    for name, array in ((ct.name, ct.image), (f"{ct.name}_labels", ct.labels)):
        written.append(folder / f"{name}.nii.gz")
        write_nifti(written[-1], array, ct.affine)
    return written


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for file in generate(target):
        print(f"{file.stat().st_size / 1e6:6.2f} MB  {file.name}")
