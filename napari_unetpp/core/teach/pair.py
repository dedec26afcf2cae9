"""An image of a project and what was painted on it, read from their files.

Knows files and images; not the project that they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.errors import FileError
from napari_unetpp.core.teach.pixels import shaped
from napari_unetpp.core.teach.projectfile import Row
from napari_unetpp.core.tune.strokes import split_path


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and what was painted on it.

    Attributes
    ----------
    name : str
        Stays; the split of strokes is kept by it.
    image_path : Path
        Where the image lies, or lay.
    painted_path : Path
        TIFF of whole numbers: 0 unlabelled, 1 background, 2 and more the classes.
    axes : str
        Of the image.
    channel : int, optional
        Of the image.
    spacing : tuple of float, optional
        In the order Z, Y, X; in place of what the file says.
    unit : str, optional
        Of the spacing.
    row : Row
        As the project's file has it.
    """

    name: str
    image_path: Path
    painted_path: Path
    axes: str
    channel: int | None
    spacing: tuple[float, ...] | None
    unit: str | None
    row: Row

    @property
    def split_path(self) -> Path:
        """Where the split of its strokes is kept."""
        return split_path(self.painted_path)

    def image(self) -> Image:
        """Return the image; its pixels stay on disk where the format allows it.

        Raises
        ------
        FileError
            If it is not there any more, or cannot be read.
        """
        if not self.image_path.exists():
            raise FileError(
                f"the image of {self.name!r} is not at {self.image_path} any more; move it back, "
                "or choose where it is now."
            )
        found = shaped(read_image(self.image_path), self.row.axes, self.row.shape, self.name)
        if self.spacing is not None and found.spacing != self.spacing:
            found = found.with_spacing(self.spacing)
        if found.affine is None and self.row.affine is not None:
            found = found.replace(affine=np.array(self.row.affine))
        return found.replace(unit=self.unit or found.unit, name=self.name)

    def painted(self) -> Image:
        """Return the painted labels.

        Raises
        ------
        FileError
            If they are not there any more, or cannot be read.
        """
        if not self.painted_path.exists():
            raise FileError(
                f"the painted labels of {self.name!r} are not at {self.painted_path} any more; "
                "get them from a backup, or take the pair out of the project."
            )
        row = self.row
        return shaped(read_labels(self.painted_path), row.painted_axes, row.painted_shape, row.name)
