"""TIFF: plain, ImageJ and OME, in lazily and out through a memory map.

What the tags say is the business of ``tiff_tags``; this module reads and writes pixels.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import DTypeLike, NDArray

from napari_unetpp.core.axes import canonical, spatial
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io.atomic import StagedSink, bands, narrow_labels, reserve
from napari_unetpp.core.data.io.formats import split_name
from napari_unetpp.core.data.io.tiff_tags import (
    alpha_axis,
    image_axes,
    imagej_write_metadata,
    ome_write_metadata,
    read_tags,
)
from napari_unetpp.core.data.lazy import (
    DiskArray,
    MappedArray,
    OpenArray,
    SampleArray,
    StackedArray,
    StoredArray,
    release,
)
from napari_unetpp.core.errors import FileError, MissingPackageError

log = logging.getLogger("napari_unetpp")

# Below this a compressed file is read whole: faster, and no file stays open.
LAZY_FROM_BYTES = 64 * 2**20
_CLASSIC_LIMIT = 2**32 - 2**25
_IMAGEJ_TYPES = ("u1", "u2", "f4")


def read_tiff(path: Path, *, name: str) -> Image:
    """Read a TIFF; its pixels stay on disk where it is uncompressed or large.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Name of the image.

    Returns
    -------
    Image
        With the axes, spacing, unit and channel names that the file states.

    Raises
    ------
    FileError
        If the file is damaged or cut off.
    MissingPackageError
        If its compression needs a package that is not installed.
    """
    with _complaints(path) as complaints:
        tif = tifffile.TiffFile(path)
        keep_open = False
        try:
            series = _chosen_series(tif, path)
            for one in series:
                _check_complete(one, tif, path)
            if complaints:
                raise _damaged(path, complaints[0])
            axes, order = image_axes(series[0])
            arrays = [_pixels(one, tif, path) for one in series]
            keep_open = any(isinstance(a, OpenArray) for a in arrays)
            tags = read_tags(tif, axes)
            alpha = alpha_axis(series[0])
        finally:
            if not keep_open:
                tif.close()
        if complaints:
            raise _damaged(path, complaints[0])
    if alpha is not None:
        arrays = [SampleArray(a, alpha) for a in arrays]
    if order != tuple(range(len(order))):
        arrays = [MappedArray(a, order) for a in arrays]
    if len(arrays) > 1:
        return Image(
            StackedArray(arrays), "P" + axes, tags.spacing, tags.unit, None, name, path,
            tags.metadata,
        )  # fmt: skip
    return Image(arrays[0], axes, tags.spacing, tags.unit, None, name, path, tags.metadata)


@contextlib.contextmanager
def _complaints(path: Path) -> Iterator[list[str]]:
    """Collect what tifffile only logs, and turn what it raises into our errors."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Of its errors some are about metadata that are not needed here.
            message = record.getMessage()
            words = ["failed to read"]  # another file of the same image, which would be zeros
            if record.levelno >= logging.ERROR:
                words = ["corrupt", "truncated", "invalid page"]
            if any(word in message for word in words):
                found.append(message.rpartition("> ")[2])

    handler = Collect(logging.WARNING)
    logger = tifffile.logger()
    logger.addHandler(handler)
    try:
        yield found
    except (FileError, MissingPackageError):
        raise
    except Exception as error:
        # Damaged files make tifffile raise nearly anything, from IndexError to zlib.error.
        raise _damaged(path, found[0] if found else str(error)) from error
    finally:
        logger.removeHandler(handler)


def _damaged(path: Path, detail: str) -> FileError:
    reason = " ".join(detail.split()).rstrip(".") or "it cannot be decoded"
    return FileError(
        f"{path} was expected to be a complete TIFF, but it is damaged or cut off "
        f"({reason[:160]}); copy or export it again."
    )


def _chosen_series(tif: tifffile.TiffFile, path: Path) -> list[Any]:
    """Return the first series, or all of an OME file that are alike: its positions."""
    series = list(tif.series)
    if not series:
        raise _damaged(path, "it has no image")
    first = series[0]
    alike = [s for s in series if s.shape == first.shape and s.dtype == first.dtype]
    if tif.is_ome and len(alike) == len(series) > 1:
        return series
    if len(series) > 1:
        log.warning("%s holds %d images; the first one is read", path, len(series))
    return [first]


def _in_one_piece(series: Any, tif: tifffile.TiffFile) -> bool:
    """Whether the pixels lie in one piece, and in this file: OME images may lie in several."""
    return series.dataoffset is not None and all(
        page is not None and page.parent is tif for page in series.pages
    )


def _check_complete(series: Any, tif: tifffile.TiffFile, path: Path) -> None:
    if _in_one_piece(series, tif):
        last, end = series.dataoffset + series.nbytes, tif.filehandle.size
        if last > end:
            raise _damaged(path, f"its pixels end at byte {last}, the file at byte {end}")
        return
    for page in series.pages:
        if page is None:
            continue
        last = max(
            (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False) if n),
            default=0,
        )
        end = page.parent.filehandle.size
        if last > end:
            name = path if page.parent is tif else path.with_name(page.parent.filehandle.name)
            raise _damaged(name, f"its pixels end at byte {last}, the file at byte {end}")


def _pixels(series: Any, tif: tifffile.TiffFile, path: Path) -> Any:
    """Return a memory map, an array, or a lazy array that keeps the file open."""
    if series.dtype.kind != "b" and _in_one_piece(series, tif):
        stored = series.dtype.newbyteorder(tif.byteorder)
        mapped: Any = np.memmap(path, stored, "r", series.dataoffset, series.shape)
        if mapped.nbytes > LAZY_FROM_BYTES:
            mapped = DiskArray(mapped)
        # ImageJ writes big-endian, which torch refuses and dtype comparisons trip over.
        return mapped if stored.isnative else MappedArray(mapped, dtype=series.dtype)
    keyframe = series.keyframe
    try:
        tifffile.TIFF.DECOMPRESSORS[keyframe.compression]
        tifffile.TIFF.UNPREDICTORS[keyframe.predictor]
    except (KeyError, NotImplementedError) as error:
        raise MissingPackageError(
            f"{path} is compressed ({keyframe.compression.name}), which needs the package "
            'imagecodecs; run pip install "imagecodecs", or save the file uncompressed.'
        ) from error
    if series.nbytes < LAZY_FROM_BYTES:
        return series.asarray()
    try:
        import zarr
    except ImportError:
        log.warning('%s is read whole; pip install "napari-unetpp[zarr]" reads it lazily', path)
        return series.asarray()
    store = series.aszarr(level=0)
    array = zarr.open_array(store, mode="r")

    def close() -> None:
        store.close()
        tif.close()

    return OpenArray(StoredArray(array, path), close)


class TiffSink(StagedSink):
    """A TIFF that is written through a memory map.

    ImageJ's kind of TIFF where the input was one or its spacing is known, OME where the
    input or the name says so or there are positions (an image each), plain otherwise; BigTIFF
    where it must be. Wide integer labels
    become uint16 (uint32 where there are more than 65535), which every viewer opens.

    Parameters
    ----------
    path, axes, shape, dtype
        See :class:`napari_unetpp.core.data.io.atomic.StagedSink`.
    like : Image
        The input, whose spacing, unit and metadata are kept.
    kind : str
        ``labels``, ``instances`` or ``probabilities``.
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
        self._like = like
        self._kind = kind
        self._names = tuple(channel_names)
        self._maps: list[np.memmap[Any, Any]] = []
        super().__init__(path, axes, shape, dtype)

    def _staged_suffix(self) -> str:
        return ".tif"

    def _open(self) -> None:
        if self.dtype.kind in "iu" and self.dtype.itemsize > 2:
            self._target = self._buffer()  # its final type is known when all of it is there
        else:
            self._target = self._create(_stored_type(self.dtype))

    def _finish(self) -> None:
        if not self._maps:
            target = self._create(narrow_labels(self._target))
            for band in bands(self.shape, self.dtype.itemsize):
                target[band] = self._target[band]
                release(self._target)
                release(target)
        for mapped in self._maps:
            mapped.flush()
        self._maps = []

    def _clean(self) -> None:
        self._maps = []
        super()._clean()

    def _create(self, dtype: np.dtype[Any]) -> Any:
        """Make the staged file; return it as an array in the sink's axes."""
        order = canonical(self.axes)
        style = self._style(dtype)
        if style == "imagej":
            order = "".join(a for a in "TZCYX" if a in self.axes)
        shape = tuple(self.shape[self.axes.index(a)] for a in order)
        back = [order.index(a) for a in self.axes]
        bigtiff = math.prod(shape) * dtype.itemsize > _CLASSIC_LIMIT
        if "P" in order:
            return MappedArray(StackedArray(self._positions(dtype, order, shape, bigtiff)), back)
        mapped = tifffile.memmap(
            self._staged, shape=shape, dtype=dtype, bigtiff=bigtiff,
            photometric="minisblack", **self._options(style, order, shape),
        )  # fmt: skip
        self._maps = [mapped]
        reserve(self._staged, self._staged.stat().st_size)
        view: NDArray[Any] = mapped.reshape(shape)
        return view.transpose(back)

    def _positions(
        self, dtype: np.dtype[Any], order: str, shape: tuple[int, ...], bigtiff: bool
    ) -> list[NDArray[Any]]:
        """Make an OME file with an image for each position, which come first; return maps."""
        offsets = []
        with tifffile.TiffWriter(self._staged, bigtiff=bigtiff, ome=True) as writer:
            for k in range(shape[0]):
                metadata = ome_write_metadata(
                    self._like, order[1:], shape[1:], self._spacing(), self._names, k
                )
                place = writer.write(
                    shape=shape[1:], dtype=dtype, photometric="minisblack", metadata=metadata,
                    returnoffset=True,
                )  # fmt: skip
                if place is None:
                    raise FileError(f"{self.path} cannot be written; choose OME-Zarr.")
                offsets.append(place[0])
        reserve(self._staged, self._staged.stat().st_size)
        self._maps = [np.memmap(self._staged, dtype, "r+", at, shape[1:]) for at in offsets]
        return list(self._maps)

    def _style(self, dtype: np.dtype[Any]) -> str:
        said = self._like.metadata.get("style")
        if said == "ome" or split_name(self.path)[1].lower().startswith(".ome"):
            return "ome" if dtype.str[1:] != "f2" else "plain"
        if said == "imagej" or self._like.spacing is not None:
            fits = math.prod(self.shape) * dtype.itemsize <= _CLASSIC_LIMIT
            return "imagej" if dtype.str[1:] in _IMAGEJ_TYPES and fits else "ome"
        return "plain"

    def _spacing(self) -> dict[str, float]:
        return dict(zip(spatial(self._like.axes), self._like.spacing or (), strict=False))

    def _options(self, style: str, order: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return tifffile's options that hold the geometry and the names."""
        like = self._like
        options: dict[str, Any] = {"ome": style == "ome", "imagej": style == "imagej"}
        spacing = self._spacing()
        if style == "ome":
            options["metadata"] = ome_write_metadata(like, order, shape, spacing, self._names)
        elif style == "imagej":
            options["metadata"] = imagej_write_metadata(like, order, spacing, self._kind)
            if spacing:
                options["resolution"] = (1 / spacing["X"], 1 / spacing["Y"])
        else:
            options["metadata"] = {"axes": order}
            kept = like.metadata.get("resolution")
            if kept:
                options["resolution"], options["resolutionunit"] = kept
        return options


def _stored_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that TIFF readers understand and that holds `dtype`."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if dtype.kind == "f" else dtype
