"""NIfTI in and out (nibabel, optional); the geometry of the header is kept bit for bit.

Arrays come as TZYX, ZYX or YX; channels go to the fifth dimension, which the standard has
for vectors. This module must not know other formats.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_unetpp.core.axes import arrange, spatial
from napari_unetpp.core.data.image import Image, millimetres
from napari_unetpp.core.data.io.atomic import BufferSink, narrow_labels
from napari_unetpp.core.data.io.formats import split_name
from napari_unetpp.core.data.io.medical import affine_spacing, optional, swap_affine
from napari_unetpp.core.data.lazy import DiskArray, MappedArray, ScaledArray
from napari_unetpp.core.errors import FileError, InputError

# Above this the values of an uncompressed file are read from disk block by block.
LAZY_FROM_BYTES = 64 * 2**20
_UNITS = {"unknown": 1.0, "mm": 1.0, "meter": 1e3, "micron": 1e-3}
_VECTOR = 1007  # NIFTI_INTENT_VECTOR


def read_nifti(path: Path, *, name: str) -> Image:
    """Read a NIfTI, whatever its name; a large uncompressed one stays on disk.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Name of the image.

    Returns
    -------
    Image
        Spacing and affine in mm; scaled values are float32. No affine where neither qform
        nor sform is set, because then the header states no orientation.

    Raises
    ------
    FileError
        If it is damaged or cut off.
    InputError
        If it has a shape or type that is no image.
    MissingPackageError
        If nibabel is not installed.
    """
    nib = optional("nibabel", f"reading {path.name} (NIfTI)")
    try:
        with contextlib.ExitStack() as files:
            image, plain = _load(nib, path, files)
            header = image.header
            data = _values(image, path, plain)
    except (
        OSError, EOFError, zlib.error, ValueError, nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
    ) as error:  # fmt: skip
        if isinstance(error, InputError):
            raise
        raise FileError(
            f"{path} was expected to be a complete NIfTI file, but it is damaged or cut off "
            f"({' '.join(str(error).split())[:120]}); copy or export it again."
        ) from error
    axes, array = _our_axes(data, header, path)
    if isinstance(array, np.memmap) and array.nbytes > LAZY_FROM_BYTES:
        array = _on_disk(array, image.dataobj)
    factor = _UNITS.get(header.get_xyzt_units()[0], 1.0)
    zooms = [float(z) * factor for z in header.get_zooms()[:3]]
    space = spatial(axes)
    spacing: tuple[float, ...] | None = tuple(zooms[2 - "ZYX".index(a)] for a in space)
    affine = None
    if int(header["qform_code"]) or int(header["sform_code"]):
        affine = np.diag([factor, factor, factor, 1.0]) @ swap_affine(image.affine)
        spacing = affine_spacing(affine, space)
    if spacing is not None and not all(s > 0 and np.isfinite(s) for s in spacing):
        spacing = None
    metadata = {"format": "nifti", "nifti_header": header.copy()}
    return Image(array, axes, spacing, "mm", affine, name, path, metadata)


def _load(nib: Any, path: Path, files: contextlib.ExitStack) -> tuple[Any, Path | None]:
    """Open an image by what is in the file, and say which file holds its values plainly.

    nibabel alone goes by the name, and takes a whole file with another name for a damaged one.
    """
    stream: Any = files.enter_context(path.open("rb"))
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    if packed:
        stream = files.enter_context(gzip.GzipFile(fileobj=stream))
    start = stream.read(348)
    stream.seek(0)
    second = start[4:8] == b"n+2\0"
    if not second and start[344:348] != b"n+1\0":  # header and values are two files
        image = nib.load(path)
        values = Path(image.file_map["image"].filename)
        return image, None if values.suffix.lower() in (".gz", ".bz2", ".zst") else values
    kind = nib.Nifti2Image if second else nib.Nifti1Image
    holder = nib.fileholders.FileHolder(fileobj=stream)
    return kind.from_file_map({"image": holder}, mmap=False), None if packed else path


def _values(image: Any, path: Path, plain: Path | None) -> Any:
    """Return the array in the file's order: memory map, array, or float32 where scaled.

    The map of a large file is as it was stored: neither scaled nor in this machine's byte order.
    """
    stored = image.header.get_data_dtype()
    if stored.fields is not None or stored.kind not in "buif":
        raise InputError(
            f"{path} must hold real numbers, got a NIfTI of type {stored}; convert it to "
            "integers or floats."
        )
    proxy = image.dataobj
    scaled = _is_scaled(proxy)
    array: Any = None
    if plain is not None and 0 not in proxy.shape:
        # nibabel maps copy-on-write, and such pages can never be given back.
        array = np.memmap(plain, proxy.dtype, "r", proxy.offset, proxy.shape, order="F")
        if array.nbytes > LAZY_FROM_BYTES:
            return array
    if scaled:
        return np.asarray(proxy, dtype=np.float32)
    array = np.asanyarray(proxy) if array is None else array
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _is_scaled(proxy: Any) -> bool:
    return (float(proxy.slope), float(proxy.inter)) != (1.0, 0.0)


def _on_disk(mapped: np.memmap[Any, Any], proxy: Any) -> Any:
    """Return a map of stored values as a lazy array of what they mean."""
    array = DiskArray(mapped)
    if _is_scaled(proxy):
        return ScaledArray(array, float(proxy.slope), float(proxy.inter))
    return (
        array if mapped.dtype.isnative else MappedArray(array, dtype=mapped.dtype.newbyteorder("="))
    )


def _our_axes(data: Any, header: Any, path: Path) -> tuple[str, NDArray[Any]]:
    """Return the axes and a transposed view of an array in the order x, y, z, t, c."""
    letters = "XYZTC"
    if len(data.shape) == 5 and data.shape[4] == 1:
        data = data[..., 0]
    shape = data.shape
    size = "x".join(str(n) for n in shape)
    if not 2 <= len(shape) <= 5 or (len(shape) == 5 and int(header["intent_code"]) != _VECTOR):
        raise InputError(
            f"{path} must be a NIfTI of 2 to 4 dimensions (x, y, z, t), or 5 with vectors, got "
            f"{size}; split it into volumes."
        )
    axes = letters[: len(shape)]
    if len(shape) == 5 and shape[3] == 1:
        data, axes = data[:, :, :, 0], "XYZC"
    return axes[::-1], data.transpose()


def nifti_sink(
    path: Path, axes: str, shape: Sequence[int], dtype: DTypeLike, *, like: Image
) -> BufferSink:
    """Return a sink that writes a NIfTI with the geometry of `like`.

    Raises
    ------
    InputError
        If the axes contain P, for which NIfTI has no place.
    """
    optional("nibabel", f"writing {path.name} (NIfTI)")
    if "P" in axes:
        raise InputError(
            f"a NIfTI has no place for positions, got axes {axes}; choose OME-Zarr or TIFF."
        )

    def write(array: NDArray[Any], target: Path) -> None:
        write_nifti(array, axes, target, like)

    suffix = ".nii.gz" if split_name(path)[1].lower() == ".nii.gz" else ".nii"
    return BufferSink(path, axes, shape, _stored_type(dtype), write, suffix)


def _stored_type(dtype: DTypeLike) -> np.dtype[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if kind == np.float16 else kind


def write_nifti(array: NDArray[Any], axes: str, path: Path, like: Image) -> None:
    """Write an array as NIfTI; the header of a NIfTI input is kept bit for bit.

    Parameters
    ----------
    array : ndarray
        Its axes are `axes`.
    axes : str
        Letters of TCZYX.
    path : Path
        The file, .nii or .nii.gz.
    like : Image
        Gives header, affine or spacing.
    """
    nib = optional("nibabel", f"writing {path.name} (NIfTI)")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2:
        array = array.astype(narrow_labels(array))
    order = "YX"
    for letter in "ZTC":  # a later dimension needs the ones before it
        if any(a in axes for a in "ZTC"["ZTC".index(letter) :]):
            order = letter + order
    data = arrange(array, axes, order).transpose()
    kind = nib.Nifti1Image if max(data.shape) < 2**15 else nib.Nifti2Image
    header = like.metadata.get("nifti_header")
    affine = None
    if header is not None:
        header = (nib.Nifti2Header if kind is nib.Nifti2Image else type(header)).from_header(header)
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        header.set_slope_inter(1.0, 0.0)
        header["cal_min"], header["cal_max"] = 0.0, 0.0
        header.extensions.clear()
    elif like.affine is not None:
        affine = swap_affine(like.affine)
    image = kind(data, affine, header, dtype=data.dtype)
    _finish_header(image, like, "C" in axes, new=header is None)
    image.to_filename(path)


def _finish_header(image: Any, like: Image, vectors: bool, *, new: bool) -> None:
    header = image.header
    header.set_data_dtype(image.get_data_dtype())
    header["intent_code"] = _VECTOR if vectors else 0
    if not new:
        return
    header.set_xyzt_units("mm")
    if like.affine is None and like.spacing is not None:
        factor = millimetres(like.unit) or 1.0
        zooms = [s * factor for s in reversed(like.spacing)]
        rest = list(header.get_zooms())[len(zooms) :]
        header.set_zooms([*zooms, *rest])
    elif like.affine is not None:
        header.set_sform(image.affine, code=1)
        header.set_qform(image.affine, code=1, strip_shears=True)
