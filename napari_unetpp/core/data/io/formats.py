"""Which format a file has: by its content where a few bytes tell, else by its name.

This module must not know how any format is read or written.
"""

from __future__ import annotations

from pathlib import Path

from napari_unetpp.core.errors import FileError

# Longest first, so that .ome.tif is found before .tif.
EXTENSIONS: dict[str, str] = {
    ".ome.tiff": "tiff",
    ".ome.zarr": "zarr",
    ".ome.tif": "tiff",
    ".nii.gz": "nifti",
    ".tiff": "tiff",
    ".zarr": "zarr",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".jpeg": "png",
    ".tif": "tiff",
    ".btf": "tiff",
    ".tf8": "tiff",
    ".lsm": "tiff",
    ".nii": "nifti",
    ".png": "png",
    ".jpg": "png",
    ".bmp": "png",
    ".dcm": "dicom",
}
WRITABLE = (
    ".tif", ".tiff", ".ome.tif", ".ome.tiff", ".png", ".nii", ".nii.gz", ".nrrd", ".ome.zarr",
    ".zarr",
)  # fmt: skip
READABLE_TEXT = "TIFF, PNG, JPEG, BMP, NIfTI, NRRD, OME-Zarr or a folder of DICOM slices"
_NAMES = {
    "tiff": "TIFF", "png": "PNG, JPEG or BMP", "nifti": "NIfTI", "nrrd": "NRRD",
    "dicom": "DICOM", "zarr": "OME-Zarr",
}  # fmt: skip
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def split_name(path: Path | str) -> tuple[str, str]:
    """Split a file name into its stem and its extension as written.

    Examples
    --------
    >>> split_name("scans/head.nii.gz")
    ('head', '.nii.gz')
    >>> split_name("cells.v2.OME.TIF")
    ('cells.v2', '.OME.TIF')
    """
    name = Path(path).name
    for extension in EXTENSIONS:
        if name.lower().endswith(extension) and len(name) > len(extension):
            return name[: -len(extension)], name[-len(extension) :]
    suffix = Path(name).suffix
    return (name[: -len(suffix)], suffix) if suffix else (name, "")


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group or array."""
    return any((path / name).is_file() for name in _ZARR_FILES)


def detect(path: Path) -> str:
    """Return the format of a file or folder.

    Returns
    -------
    str
        ``tiff``, ``png`` (all pictures), ``nifti``, ``nrrd``, ``zarr`` or ``dicom``.

    Raises
    ------
    FileError
        If it does not exist, is empty, is not what its name says, or is none of these.
    """
    try:
        if path.is_dir():
            return _detect_folder(path)
        if not path.exists():
            raise FileError(f"an image was expected at {path}, but there is none; check the path.")
        if path.stat().st_size == 0:
            raise FileError(f"{path} is empty (0 bytes), expected an image; copy it again.")
        with path.open("rb") as stream:
            start = stream.read(352)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"{path} cannot be opened ({error.strerror or error}); check its permissions."
        ) from error
    claimed = EXTENSIONS.get(split_name(path)[1].lower())
    found = _detect_bytes(start)
    if found is None and start[:2] == b"\x1f\x8b" and claimed == "nifti":
        found = "nifti"
    if found is not None:
        return found
    if claimed == "dicom":
        return "dicom"
    if claimed is not None:
        what = "text" if _is_text(start) else f"bytes {start[:4].hex(' ')}"
        raise FileError(
            f"{path} was expected to be {_NAMES[claimed]} as its name says, but it starts with "
            f"{what}; it is damaged or has the wrong name."
        )
    if path.suffix.lower() == ".img" and path.with_suffix(".hdr").exists():
        raise FileError(
            f"{path} holds the values of an image whose description is in another file; "
            f"give {path.with_suffix('.hdr').name}."
        )
    raise FileError(
        f"{path} has a format that cannot be read ({split_name(path)[1] or 'no extension'}); "
        f"convert it to {READABLE_TEXT}."
    )


def _detect_bytes(start: bytes) -> str | None:
    if start[:4] in _TIFF_STARTS:
        return "tiff"
    if start.startswith(_PICTURE_STARTS):
        return "png"
    if start[:4] == b"NRRD":
        return "nrrd"
    if start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] == b"n+2\0":
        return "nifti"
    if start[128:132] == b"DICM":
        return "dicom"
    return None


def _detect_folder(path: Path) -> str:
    if is_zarr(path):
        return "zarr"
    for file in sorted(path.iterdir()):
        if not file.is_file() or file.name.startswith("."):
            continue
        with file.open("rb") as stream:
            if stream.read(132)[128:] == b"DICM":
                return "dicom"
    raise FileError(
        f"{path} is a folder but neither an OME-Zarr nor a DICOM series; give an image file, "
        "or the folder that holds zarr.json or .zattrs."
    )


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\r\n\t" for c in text)
