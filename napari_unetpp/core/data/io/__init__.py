"""Images from files and results into files, whatever the format.

:func:`read_image` and :func:`read_labels` read, :func:`open_sink` writes, and
:func:`output_path` names what is written. One module a format lies beside this one; this
one must not know what is in the images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from napari_unetpp.core.axes import SPATIAL, parse_axes, spatial
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io.atomic import Sink, writing
from napari_unetpp.core.data.io.dicom import read_dicom
from napari_unetpp.core.data.io.formats import (
    EXTENSIONS,
    WRITABLE,
    detect,
    is_zarr,
    split_name,
)
from napari_unetpp.core.data.io.nifti import nifti_sink, read_nifti
from napari_unetpp.core.data.io.nrrd import nrrd_sink, read_nrrd
from napari_unetpp.core.data.io.png import png_sink, read_picture
from napari_unetpp.core.data.io.tiff import TiffSink, read_tiff
from napari_unetpp.core.data.io.zarr import ZarrSink, read_zarr
from napari_unetpp.core.errors import InputError

__all__ = ["Sink", "open_sink", "output_path", "read_image", "read_labels", "split_name"]

KINDS = ("labels", "instances", "probabilities")


def read_image(
    path: str | os.PathLike[str],
    *,
    axes: str | None = None,
    spacing: Sequence[float] | None = None,
) -> Image:
    """Read an image; its pixels stay on disk where the format allows it.

    Parameters
    ----------
    path : path
        TIFF, PNG, JPEG, BMP, NIfTI, NRRD, a folder that is an OME-Zarr, or a folder (or a
        file) of DICOM slices. What it is is read from its first bytes.
    axes : str, optional
        One letter of PTCZYXS for each axis, in place of what the file says.
    spacing : sequence of float, optional
        Voxel size in Z, Y, X order, in place of what the file says.

    Returns
    -------
    Image
        Axes, spacing, unit, affine, channel names and what its writer needs.

    Raises
    ------
    FileError
        If the file is missing, damaged, or of a format that cannot be read.
    InputError
        If it holds no usable image, or `axes` or `spacing` do not fit it.
    MissingPackageError
        If an optional package is needed.
    """
    return _read(Path(path), axes, spacing, labels=False)


def read_labels(path: str | os.PathLike[str], *, axes: str | None = None) -> Image:
    """Read labels: an image of whole numbers, 0 and up.

    Parameters
    ----------
    path : path
        As for :func:`read_image`.
    axes : str, optional
        As for :func:`read_image`.

    Returns
    -------
    Image
        Integers; floats that are whole become int32, a grey picture stored as RGB is
        reduced to one channel, and a palette picture gives its indices.

    Raises
    ------
    InputError
        If the values are not whole, or negative, or differ between colours.
    FileError, MissingPackageError
        As for :func:`read_image`.
    """
    image = _read(Path(path), axes, None, labels=True)
    if image.axes.endswith("S"):
        samples = np.asarray(image.data)[..., :3]
        if not (samples == samples[..., :1]).all():
            raise InputError(
                f"{path} must hold labels, got a colour picture; save one whole number per pixel."
            )
        image = image.replace(data=samples[..., 0], axes=image.axes[:-1])
    kind = image.dtype.kind
    if kind == "u":
        return image
    # Signed and float labels are few and small; whether they are labels shows only in full.
    values = np.asarray(image.data)
    if not np.isfinite(values).all() or (kind == "f" and not (values == np.rint(values)).all()):
        raise InputError(
            f"{path} must hold labels (whole numbers), got {image.dtype} with fractions, NaN or "
            "infinities; is it an image?"
        )
    if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise InputError(
            f"labels must lie in 0 to {np.iinfo(np.int32).max}, got {values.min():g} to "
            f"{values.max():g} in {path}; renumber them."
        )
    return image.replace(data=values.astype(np.int32) if kind == "f" else image.data)


def _read(path: Path, axes: str | None, spacing: Sequence[float] | None, *, labels: bool) -> Image:
    kind = detect(path)
    name = path.resolve().name if kind == "dicom" and path.is_dir() else split_name(path)[0]
    try:
        if kind == "png":
            image = read_picture(path, name=name, labels=labels)
        else:
            readers = {
                "tiff": read_tiff, "nifti": read_nifti, "nrrd": read_nrrd, "zarr": read_zarr,
                "dicom": read_dicom,
            }  # fmt: skip
            image = readers[kind](path, name=name)
    except MemoryError as error:
        raise InputError(
            f"{path} does not fit into memory and its format cannot be read in parts; "
            "convert it to OME-Zarr or uncompressed TIFF."
        ) from error
    if axes is not None:
        image = _with_axes(image, axes)
    return image if spacing is None else image.with_spacing(spacing)


# What a header says of the letters that the file gave; it is wrong once they change places.
_OF_LETTERS = ("nifti_header", "nrrd", "nrrd_directions", "nrrd_axes")


def _with_axes(image: Image, axes: str) -> Image:
    """Return the image with the user's axes.

    Where Z, Y and X change places among themselves, size and direction stay with the axis of
    the array; else each letter keeps its own.
    """
    named = parse_axes(axes, image.shape)
    before, after = ([a for a in letters if a in SPATIAL] for letters in (image.axes, named))
    if before == after:
        return image.replace(axes=named)
    size = dict(zip(spatial(image.axes), image.spacing or (), strict=False))
    affine = None
    if all((a in SPATIAL) == (b in SPATIAL) for a, b in zip(image.axes, named, strict=True)):
        was = dict(zip(after, before, strict=True))
        size = {a: size[was[a]] for a in after} if set(size) == set(after) == set(before) else {}
        if image.affine is not None and size:
            columns = [SPATIAL.index(was.get(a, a)) for a in SPATIAL]
            affine = image.affine[:, [*columns, 3]]
    spacing = tuple(size[a] for a in spatial(named)) if set(after) <= set(size) else None
    metadata = {k: v for k, v in image.metadata.items() if k not in _OF_LETTERS}
    return image.replace(axes=named, spacing=spacing, affine=affine, metadata=metadata)


def open_sink(
    path: str | os.PathLike[str],
    *,
    like: Image,
    axes: str,
    dtype: DTypeLike,
    shape: Sequence[int],
    kind: str,
    channel_names: Sequence[str] = (),
) -> Sink:
    """Open a target for a result; its final name exists from ``commit()`` on.

    Parameters
    ----------
    path : path
        The extension chooses the format: .tif, .ome.tif, .png, .nii, .nii.gz, .nrrd,
        .ome.zarr (or .zarr).
    like : Image
        The image that the result belongs to; its geometry and metadata are kept.
    axes : str
        Letters of PTCZYX, one for each axis of `shape`.
    dtype : dtype
        Type that is written.
    shape : sequence of int
        Shape of the result.
    kind : {"labels", "instances", "probabilities"}
        What it is.
    channel_names : sequence of str
        Names along C.

    Returns
    -------
    Sink
        Takes blocks by region; memory stays bounded.

    Raises
    ------
    InputError
        If the format cannot hold the result, or it would replace its own input.
    FileError
        If the folder is missing or not writable, or the disk is full.
    MissingPackageError
        If an optional package is needed.
    """
    target = Path(path)
    if kind not in KINDS:
        raise InputError(f"the kind of a result is one of {', '.join(KINDS)}, got {kind!r}.")
    extension = split_name(target)[1].lower()
    if extension not in WRITABLE:
        raise InputError(
            f"a result cannot be written as {extension or 'a file without extension'} "
            f"({target.name}); choose one of {', '.join(WRITABLE)}."
        )
    parse_axes(axes, tuple(shape))
    if like.path is not None and target.resolve() == like.path.resolve():
        raise InputError(f"the result would replace its own input {target}; choose another --out.")
    form = EXTENSIONS[extension]
    if form == "tiff":
        return TiffSink(
            target, axes, shape, dtype, like=like, kind=kind, channel_names=channel_names
        )
    if form == "zarr":
        return ZarrSink(
            target, axes, shape, dtype, like=like, kind=kind, channel_names=channel_names
        )
    if form == "nifti":
        return nifti_sink(target, axes, shape, dtype, like=like)
    if form == "nrrd":
        return nrrd_sink(target, axes, shape, dtype, like=like)
    return png_sink(target, axes, shape, dtype, kind)


def output_path(out: str | os.PathLike[str], image: Image, kind: str) -> Path:
    """Return where a result goes.

    Parameters
    ----------
    out : path
        A file name, which is returned as it is; or a folder (an existing one, or a name
        without extension), in which the name becomes ``<stem>_<kind><extension>``.
    image : Image
        The input: gives the stem, and the extension where its format can hold the result.
    kind : {"labels", "instances", "probabilities"}
        What it is.

    Returns
    -------
    Path
        The folder is not made here.

    Raises
    ------
    InputError
        If `out` is empty.
    FileError
        If the file system cannot hold such a name.
    """
    if not os.fspath(out):
        raise InputError("a result needs a place (--out), got an empty name; name a file.")
    target = Path(out)
    with writing(target):  # a name may be too long to be looked at
        existing = target.is_dir() and not is_zarr(target)
    folder = existing or os.fspath(out).endswith(("/", os.sep))
    if not folder and split_name(target)[1]:
        return target
    extension = split_name(image.path)[1] if image.path is not None else ""
    form = EXTENSIONS.get(extension.lower(), image.metadata.get("format", "tiff"))
    if form == "png":
        extension = ".tif" if kind == "probabilities" else ".png"
    elif form == "dicom":
        extension = ".nii.gz"
    elif form == "nrrd":
        extension = ".nrrd"
    elif extension.lower() not in WRITABLE:
        extension = {"zarr": ".ome.zarr", "nifti": ".nii.gz"}.get(form, ".tif")
    return target / f"{image.name}_{kind}{extension}"
