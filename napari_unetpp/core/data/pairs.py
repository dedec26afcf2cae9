"""Images and labels of two folders, paired by name.

This module must not read pixels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_unetpp.core.data.io.formats import EXTENSIONS, is_zarr, split_name
from napari_unetpp.core.errors import FileError, InputError

_LABEL_SUFFIX = re.compile(r"_(masks?|labels?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """An image and its labels: the name that they share, and where they lie."""

    name: str
    image: Path
    labels: Path


def find_pairs(images: str | os.PathLike[str], labels: str | os.PathLike[str]) -> list[Pair]:
    """Pair the files of two folders by stem.

    Parameters
    ----------
    images, labels : path
        Folders with files (or OME-Zarr folders) of any readable format; hidden files and
        others are passed over. The two may be the same folder if labels carry a suffix.

    Returns
    -------
    list of Pair
        Sorted by name. A label's stem is the image's, or the image's with ``_mask``,
        ``_masks``, ``_label`` or ``_labels`` added.

    Raises
    ------
    FileError
        If a folder does not exist or holds no image.
    InputError
        If a name comes twice, or an image or a label stays alone.
    """
    image_folder, label_folder = Path(images), Path(labels)
    together = image_folder.resolve() == label_folder.resolve()
    image_files = _files(image_folder, "images")
    label_files = _files(label_folder, "labels")
    if together:
        stems = {split_name(f)[0] for f in image_files}
        label_files = [f for f in label_files if _LABEL_SUFFIX.sub("", split_name(f)[0]) in stems
                       and _LABEL_SUFFIX.search(split_name(f)[0])]  # fmt: skip
        image_files = [f for f in image_files if f not in label_files]
    by_image = _by_stem(image_files, {})
    by_label = _by_stem(label_files, by_image)
    alone_images = sorted(by_image.keys() - by_label.keys())
    alone_labels = sorted(by_label.keys() - by_image.keys())
    if alone_images or alone_labels:
        raise InputError(
            f"each image in {image_folder} needs labels of the same name in {label_folder}, got "
            f"{_few(alone_images, 'image')} and {_few(alone_labels, 'label file')} without a "
            "partner; rename, add or remove them."
        )
    return [Pair(name, by_image[name], by_label[name]) for name in sorted(by_image)]


def _files(folder: Path, what: str) -> list[Path]:
    if not os.path.isdir(folder):  # also false for a name that is too long
        raise FileError(f"a folder of {what} was expected at {folder}, but there is none.")
    found = [
        f
        for f in sorted(folder.iterdir())
        if not f.name.startswith(".")
        and split_name(f)[1].lower() in EXTENSIONS
        and (f.is_file() or is_zarr(f))
    ]
    if not found:
        raise FileError(
            f"{folder} holds no {what} that can be read; give a folder with files such as .tif, "
            ".png or .nii.gz."
        )
    return found


def _by_stem(files: Sequence[Path], partners: dict[str, Path]) -> dict[str, Path]:
    """Return the files by the name that pairs them."""
    found: dict[str, Path] = {}
    for file in files:
        stem = split_name(file)[0]
        if partners and stem not in partners:
            bare = _LABEL_SUFFIX.sub("", stem)
            stem = bare if bare in partners else stem
        if stem in found:
            raise InputError(
                f"the name {stem!r} comes twice: {found[stem].name} and {file.name}; "
                "keep one of them."
            )
        found[stem] = file
    return found


def _few(names: Sequence[str], what: str) -> str:
    if not names:
        return f"no {what}"
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({shown})"
