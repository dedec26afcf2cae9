"""What fine-tuning is measured on: images that the base has not seen, with their truth.

Knows files and cards; no method and no table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.model.modelfile import Model, load_model
from napari_unetpp.core.tune.start import grown_card, scratch_card

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

Labels = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One image to paint on, and another one of its kind that is never painted.

    Attributes
    ----------
    folder : Path
        With ``images`` and ``masks``.
    painted, other : str
        File names.
    base : str, optional
        Bundled model; None where no base has anything to say (other grid, other contrast).
    classes : tuple of str
        Names of the classes where there is no base.
    values : tuple of int
        Values of the truth that are painted; those above 0 are scored.
    truth : callable
        From the mask's values to the class map.
    near : int, optional
        Background is painted within this many voxels of the painted classes, in every class.
    axes : str
        Of a network from scratch.
    """

    folder: Path
    painted: str
    other: str
    base: str | None
    classes: tuple[str, ...]
    values: tuple[int, ...]
    truth: Callable[[Labels], Labels]
    near: int | None = None
    axes: str = "YX"

    def image(self, name: str) -> Image:
        """Read an image."""
        return read_image(self.folder / "images" / name)

    def labels(self, name: str) -> Labels:
        """Read its class map, (*space)."""
        return self.truth(np.asarray(read_labels(self.folder / "masks" / name).data)).astype(
            np.uint8
        )

    def around(self, truth: Labels) -> NDArray[np.bool_] | None:
        """Return where background is painted; None for anywhere."""
        if self.near is None:
            return None
        shown = np.isin(truth, [v for v in self.values if v])
        return np.asarray(ndimage.binary_dilation(shown, iterations=self.near))

    def base_model(self) -> Model | None:
        """Return the base."""
        return None if self.base is None else load_model(self.base)

    def card(self, base: Model | None) -> ModelCard:
        """Return the card of the model that is to come, from a base or from scratch."""
        if base is not None:
            return grown_card(base.card, [c.name for c in base.card.classes])
        names = self.classes
        if self.base is not None:
            names = tuple(c.name for c in load_model(self.base).card.classes)
        return scratch_card("scratch", names, self.axes, 1)


def _inside(mask: Labels) -> Labels:
    return mask > 0


def _as_is(mask: Labels) -> Labels:
    return mask


_PLANTS = DATA / "small" / "plantseg_3d"
_CT = DATA / "ct_head_neck"
_HIPPOCAMPUS = DATA / "mr_hippocampus"

CASES = {
    "em": Case(DATA / "em", "03.tif", "20.tif", "nuclei", (), (0, 1), _inside),
    "em-2": Case(DATA / "em", "12.tif", "25.tif", "nuclei", (), (0, 1), _inside),
    "nuclei-3d": Case(_PLANTS, "train_1135.tif", "train_1136.tif", "nuclei", (), (0, 1), _inside),
    "nuclei": Case(
        DATA / "nuclei", "00ae65c1c6631ae6.tif", "01d44a26f6680c42.tif", "nuclei", (), (0, 1),
        _inside,
    ),
    "hippocampus": Case(
        _HIPPOCAMPUS, "hippocampus_001.nii.gz", "hippocampus_003.nii.gz", None,
        ("anterior", "posterior"), (0, 1, 2), _as_is, near=6, axes="ZYX",
    ),
    "ct": Case(_CT, "", "", "ct-head-neck", (), (0, 5, 6), _as_is, near=8, axes="ZYX"),
}  # fmt: skip


def case(name: str) -> Case:
    """Return a case by name; the patients of ``ct`` are two that its base never saw."""
    found = CASES[name]
    if name != "ct":
        return found
    import dataclasses

    held_out = load_model("ct-head-neck").card.split.rpartition("held out: ")[2]
    files = [f"{stem.strip()}.nii.gz" for stem in held_out.rstrip(".").split(",")]
    wanted = {*found.values} - {0}
    whole = []
    for file in files:
        mask = np.asarray(read_labels(_CT / "masks" / file).data)
        if wanted <= set(np.unique(mask).tolist()):
            whole.append(file)
        if len(whole) == 2:
            break
    return dataclasses.replace(found, painted=whole[0], other=whole[1])
