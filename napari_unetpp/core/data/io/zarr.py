"""OME-Zarr in (0.1 to 0.5) and out (0.4 or 0.5), chunk by chunk (zarr, optional).

The metadata are the business of ``ngff``; this module reads and writes pixels.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from napari_unetpp.core.axes import guess_axes
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io.atomic import StagedSink
from napari_unetpp.core.data.io.formats import is_zarr
from napari_unetpp.core.data.io.hidden import ASIDE, hidden_beside, remove
from napari_unetpp.core.data.io.medical import optional
from napari_unetpp.core.data.io.ngff import read_multiscales, stored_axes, write_attributes
from napari_unetpp.core.data.lazy import MappedArray, StoredArray
from napari_unetpp.core.errors import FileError, InputError

_CHUNK_PLANE = 512
_CHUNK_DEPTH = 16
# A pyramid goes on until a plane fits on a screen.
_SMALLEST_PLANE = 1024
# Other processes that may put a result of the same name in place while one is being replaced.
_TRIES = 4


def read_zarr(path: Path, *, name: str) -> Image:
    """Read level 0 of an OME-Zarr, or a bare zarr array; nothing is loaded.

    Parameters
    ----------
    path : Path
        The folder that holds ``zarr.json``, ``.zattrs`` or ``.zarray``.
    name : str
        Name of the image.

    Returns
    -------
    Image
        With axes, spacing, unit and channel names as the metadata state them.

    Raises
    ------
    FileError
        If it is no OME-Zarr, or is damaged.
    InputError
        If it holds several images; the message says how to name one.
    MissingPackageError
        If zarr is not installed.
    """
    zarr = optional("zarr", f"reading {path.name} (OME-Zarr)", "zarr")
    try:
        node = zarr.open(str(path), mode="r")
        if isinstance(node, zarr.Array):
            return Image(
                StoredArray(node, path),
                guess_axes(node.shape),
                None,
                None,
                None,
                name,
                path,
                {"format": "zarr"},
            )
        node, folder = _image_group(node, path)
        said = read_multiscales(dict(node.attrs), folder)
        array = node[said.dataset]
        if not isinstance(array, zarr.Array) or array.ndim != len(said.axes):
            raise KeyError(said.dataset)
    except (FileError, InputError):
        raise
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise FileError(
            f"{path} was expected to be an OME-Zarr, but it is damaged "
            f"({' '.join(str(error).split())[:120]}); copy or export it again."
        ) from error
    return Image(
        StoredArray(array, path),
        said.axes,
        said.spacing,
        said.unit,
        None,
        name,
        path,
        said.metadata,
    )


def _image_group(node: Any, path: Path) -> tuple[Any, Path]:
    """Follow a bioformats2raw folder to its one image; refuse plates."""
    attributes = dict(node.attrs)
    said = attributes.get("ome", attributes)
    if "plate" in said or "well" in said:
        raise InputError(
            f"{path} is a plate or a well, expected one image; give the path of one field, for "
            f"example {path / 'A' / '1' / '0'}."
        )
    if "multiscales" in said or "bioformats2raw.layout" not in said:
        return node, path
    images = sorted(key for key, _ in node.groups() if key.isdigit())
    if len(images) != 1:
        raise InputError(
            f"{path} holds {len(images)} images, expected one; give the path of one, for example "
            f"{path / '0'}."
        )
    return node[images[0]], path / images[0]


class ZarrSink(StagedSink):
    """An OME-Zarr whose chunks are written as blocks come; a pyramid is added at commit.

    Version 0.4 where the input was one, else 0.5.

    Parameters
    ----------
    path, axes, shape, dtype
        See :class:`napari_unetpp.core.data.io.atomic.StagedSink`.
    like : Image
        The input, whose spacing, unit and names are kept.
    kind : str
        ``labels`` and ``instances`` are marked as label images.
    channel_names : sequence of str
        Names along C.
    """

    def __init__(
        self,
        path: Path,
        axes: str,
        shape: Sequence[int],
        dtype: DTypeLike,
        *,
        like: Image,
        kind: str,
        channel_names: Sequence[str] = (),
    ) -> None:
        self._zarr = optional("zarr", f"writing {path.name} (OME-Zarr)", "zarr")
        self._like = like
        self._kind = kind
        self._names = tuple(channel_names)
        self._version = "0.4" if like.metadata.get("ngff_version") in _OLD else "0.5"
        self._order = stored_axes(axes)
        self._group: Any = None
        super().__init__(path, axes, shape, np.uint8 if np.dtype(dtype).kind == "b" else dtype)

    def _check_place(self) -> None:
        if self.path.is_dir():
            if not is_zarr(self.path):
                raise FileError(
                    f"{self.path} is a folder that is no OME-Zarr, so it is not replaced; "
                    "choose another --out."
                )
            if not os.access(self._place.parent, os.W_OK):
                raise FileError(f"the folder {self.path.parent} is not writable; choose another.")
            return
        super()._check_place()

    def _open(self) -> None:
        self._group = self._zarr.open_group(
            str(self._staged), mode="w-", zarr_format=2 if self._version == "0.4" else 3
        )
        stored = tuple(self.shape[self.axes.index(a)] for a in self._order)
        array = self._array("0", stored, self._chunks(stored))
        self._target = MappedArray(array, [self._order.index(a) for a in self.axes])

    def _chunks(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        limits = {"Y": _CHUNK_PLANE, "X": _CHUNK_PLANE, "Z": _CHUNK_DEPTH}
        return tuple(min(n, limits.get(a, 1)) for a, n in zip(self._order, stored, strict=True))

    def _array(self, name: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Any:
        options: dict[str, Any] = {"dimension_names": [a.lower() for a in self._order]}
        if self._version == "0.4":
            # Blosc is what every reader of zarr 2 has had from the start.
            blosc = optional("numcodecs", "writing OME-Zarr 0.4", "zarr").Blosc()
            options = {
                "chunk_key_encoding": {"name": "v2", "separator": "/"},
                "compressors": blosc,
            }
        return self._group.create_array(
            name, shape=shape, chunks=chunks, dtype=self.dtype, fill_value=0, **options
        )

    def _finish(self) -> None:
        levels = [self._group["0"]]
        while max(levels[-1].shape[-2:]) > _SMALLEST_PLANE:
            levels.append(self._halve(levels[-1], str(len(levels))))
        attributes = write_attributes(
            self._order, len(levels), self._version, self._like, self._kind, self._names,
            self.path.name.split(".")[0],
        )  # fmt: skip
        self._group.attrs.update(attributes)
        self._group = None

    def _halve(self, finer: Any, name: str) -> Any:
        """Add a level with every second row and column; exact for labels."""
        height, width = finer.shape[-2:]
        shape = (*finer.shape[:-2], -(-height // 2), -(-width // 2))
        coarse = self._array(name, shape, tuple(map(min, finer.chunks, shape)))
        band = 2 * finer.chunks[-2]
        for place in np.ndindex(*finer.shape[:-2]):
            for top in range(0, height, band):
                rows = slice(top // 2, -(-min(top + band, height) // 2))
                coarse[(*place, rows)] = np.asarray(finer[(*place, slice(top, top + band))])[
                    ::2, ::2
                ]
        return coarse

    def _replace(self) -> None:
        # A folder cannot be replaced at once: the old one steps aside until the new one is in.
        # Where another process puts its own in between, that one steps aside, too.
        for left in reversed(range(_TRIES)):
            old = hidden_beside(self._place, ASIDE)
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._place, old)
            try:
                os.replace(self._staged, self._place)
                return
            except OSError as error:
                if not left or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            finally:
                if not self._place.exists() and old.exists():
                    os.replace(old, self._place)
                remove(old)

    def _clean(self) -> None:
        self._group = None
        super()._clean()


_OLD = ("0.1", "0.2", "0.3", "0.4")
