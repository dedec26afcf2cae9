"""Stained tissue as a microscope sees it in transmitted light, with exact nuclei.

Glands (a ring of tall nuclei around a lumen), spindle-shaped nuclei along the fibres between
them, and small round lymphocytes. Dyes absorb: each pixel has an amount of haematoxylin and one
of eosin, and the light that is left follows from Beer and Lambert's law with the colours of
Ruifrok and Johnston (2001). This module knows numpy and scipy, no file.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from napari_unetpp.core.data.phantom_nuclei import Cell, place_cells, render
from napari_unetpp.core.errors import InputError

Floats = NDArray[np.float64]

# Optical density of a unit of each dye in red, green and blue.
HAEMATOXYLIN = np.asarray((0.65, 0.70, 0.29))
EOSIN = np.asarray((0.07, 0.99, 0.11))

_BORDER = 9.0  # µm around the image in which tissue is drawn too
_EPITHELIUM = (4.6, 2.7)  # µm: half the length and the width of a gland's nucleus
_SPINDLE = (5.6, 1.5)
_LYMPHOCYTE = 2.6


@dataclass(frozen=True)
class _Gland:
    """A wavy ellipse, in µm: the lumen's border; nuclei stand around it."""

    centre: Floats  # (2,) y, x
    radii: Floats  # (2,)
    turn: float
    waves: Floats  # (2, K): amplitude, phase of cos(k angle) for k = 2, 3, ...

    def distance(self, y: Floats, x: Floats) -> Floats:
        """Return the distance from the lumen's border in µm, roughly: negative inside."""
        dy, dx = y - self.centre[0], x - self.centre[1]
        v = np.cos(self.turn) * dy - np.sin(self.turn) * dx
        u = np.sin(self.turn) * dy + np.cos(self.turn) * dx
        radius = np.hypot(v / self.radii[0], u / self.radii[1])
        angle = np.arctan2(v / self.radii[0], u / self.radii[1])
        return np.asarray((radius - self._border(angle)) * self.radii.mean())

    def point(self, angle: float, out: float) -> tuple[Floats, Floats]:
        """Return a point `out` µm beyond the border (y, x), and the unit vector away from it."""
        edge = float(self._border(np.asarray(angle)))
        along = np.asarray((np.sin(angle), np.cos(angle)))
        v, u = (edge + out / self.radii.mean()) * self.radii * along
        place = np.asarray(
            (
                np.cos(self.turn) * v + np.sin(self.turn) * u,
                -np.sin(self.turn) * v + np.cos(self.turn) * u,
            )
        )
        return self.centre + place, place / max(float(np.linalg.norm(place)), 1e-9)

    def _border(self, angle: Floats) -> Floats:
        orders = np.arange(2, 2 + self.waves.shape[1])
        waves = self.waves[0] * np.cos(angle[..., None] * orders + self.waves[1])
        return np.asarray(1 + waves.sum(-1))


def stained_tissue(
    shape: tuple[int, int] = (512, 512), *, spacing: float = 0.5, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Make a section of tissue stained with haematoxylin and eosin.

    Parameters
    ----------
    shape : tuple of int
        Height and width in pixels.
    spacing : float
        Pixel size in µm; 0.5 is that of a 20x objective.
    seed : int
        Same seed, same tissue.

    Returns
    -------
    image : ndarray of uint8, (Y, X, 3)
        Red, green and blue on a bright background.
    labels : ndarray of uint16, (Y, X)
        A number for each nucleus from 1, 0 elsewhere.

    Raises
    ------
    InputError
        If there are fewer pixels than 2 by 2, or `spacing` is not positive.
    """
    if min(shape) < 2 or not spacing > 0:
        raise InputError(
            f"tissue needs two pixels each way and a positive spacing, got {shape} and {spacing}; "
            "correct them."
        )
    rng = np.random.default_rng([seed, 8])
    extent = np.multiply(shape, spacing)
    y, x = np.meshgrid(*(np.arange(n) * spacing for n in shape), indexing="ij")
    fibres, course = _fibres(rng, y, x)
    glands = _glands(rng, extent)
    cells = _cells(rng, extent, glands, course, spacing)
    labels, chromatin = render(cells, shape, (spacing, spacing))
    haematoxylin = _chromatin(labels, chromatin, spacing)
    eosin = _ground(rng, glands, fibres, labels > 0, y, x)
    return _transmitted(rng, haematoxylin, eosin, spacing), labels


def _fibres(rng: np.random.Generator, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return how much fibre lies at each pixel (about 0 to 1), and its direction in radians."""
    waves = rng.normal(0, 0.020, (6, 2))
    phases = rng.uniform(0, 2 * np.pi, 6)
    bend = np.cos(waves[:, :1, None] * y + waves[:, 1:, None] * x + phases[:, None, None])
    height = 55.0 * bend.sum(0) + 0.9 * x + 0.5 * y
    slope = np.gradient(height)
    course = np.arctan2(*slope) + np.pi / 2  # fibres run along the lines of equal height
    grain = ndimage.gaussian_filter(rng.standard_normal(height.shape), 5.0, mode="reflect")
    grain /= max(float(grain.std()), 1e-9)
    strands = 0.5 + 0.5 * np.sin(height / 2.3 + 1.4 * grain)
    bundles = 0.5 + 0.5 * np.sin(height / 9.0 + 0.8 * grain)
    return 0.45 * strands * (0.4 + 0.6 * bundles) + 0.55 * bundles, course


def _glands(rng: np.random.Generator, extent: Floats) -> list[_Gland]:
    """Scatter glands that do not touch."""
    glands: list[_Gland] = []
    wanted = max(1, round(float(extent.prod()) / 4600))
    for _ in range(300 * wanted):
        if len(glands) == wanted:
            break
        radii = rng.uniform(9.0, 21.0) * rng.uniform(0.75, 1.3, 2)
        centre = rng.uniform(-0.05, 1.05, 2) * extent
        reach = float(radii.max()) + 15.0
        if all(np.linalg.norm(centre - g.centre) > reach + g.radii.max() + 9.0 for g in glands):
            waves = np.stack([rng.normal(0, 0.05, 4), rng.uniform(0, 2 * np.pi, 4)])
            glands.append(_Gland(centre, radii, float(rng.uniform(0, np.pi)), waves))
    return glands


def _cells(
    rng: np.random.Generator,
    extent: Floats,
    glands: list[_Gland],
    course: Floats,
    spacing: float,
) -> list[Cell]:
    """Place all nuclei; two of them overlap a little at most."""
    chosen: list[Cell] = []
    for gland in glands:
        around = 2 * np.pi * float(gland.radii.mean() + 7.0)
        steps = max(5, round(around / 5.7))
        for angle in 2 * np.pi * (np.arange(steps) + rng.uniform(-0.28, 0.28, steps)) / steps:
            centre, out = gland.point(float(angle), 7.2 + float(rng.normal(0, 1.0)))
            chosen.append(_nucleus(rng, centre, _EPITHELIUM, out, 0.85))
    tries = round(float(extent.prod()) / 48)
    spots = rng.uniform(-0.03, 1.03, (tries, 2)) * extent
    free = np.ones(tries, bool)
    for gland in glands:
        free &= gland.distance(spots[:, 0], spots[:, 1]) > 15.0
    for spot in spots[free]:
        pixel = np.clip(spot / spacing, 0, np.asarray(course.shape) - 1).astype(int)
        if rng.random() < 0.72:
            angle = float(course[tuple(pixel)]) + rng.normal(0, 0.2)
            along = np.asarray((np.sin(angle), np.cos(angle)))
            chosen.append(_nucleus(rng, spot, _SPINDLE, along, 1.0))
        else:
            size = (_LYMPHOCYTE, _LYMPHOCYTE)
            chosen.append(_nucleus(rng, spot, size, np.asarray((0.0, 1.0)), 1.25))
    return _without_overlap(
        [c for c in chosen if np.all(np.abs(c.centre - extent / 2) < extent / 2 + _BORDER)]
    )


def _without_overlap(cells: list[Cell]) -> list[Cell]:
    """Keep each nucleus that leaves room to those before it, and number them from 1."""
    centres = np.stack([c.centre for c in cells]) if cells else np.zeros((0, 2))
    reach = np.asarray([c.radii.max() for c in cells])
    there = np.zeros(len(cells), bool)
    kept: list[Cell] = []
    for number, cell in enumerate(cells):
        gaps = np.linalg.norm(centres - cell.centre, axis=1)
        near = np.flatnonzero(there & (gaps < reach + reach[number]))
        if all(_apart(cell, cells[k]) for k in near):
            there[number] = True
            kept.append(dataclasses.replace(cell, label=len(kept) + 1))
    return kept


def _apart(one: Cell, other: Cell) -> bool:
    """Return whether two nuclei overlap by no more than an eighth along the line between them."""
    way = other.centre - one.centre
    gap = float(np.linalg.norm(way))
    way = way / max(gap, 1e-9)
    reach = sum(1 / np.linalg.norm(way @ c.rotation / c.radii) for c in (one, other))
    return bool(gap > 0.88 * reach)


def _nucleus(
    rng: np.random.Generator, centre: Floats, size: tuple[float, float], along: Floats, dye: float
) -> Cell:
    """Return a nucleus whose long axis points along a unit vector (y, x)."""
    (model,) = place_cells(rng, 2 * np.abs(centre) + 1, 1, radius=1.0)
    scale = rng.uniform(0.85, 1.15)
    return dataclasses.replace(
        model,
        centre=np.asarray(centre, np.float64),
        radii=scale * np.asarray(size) * rng.uniform(0.92, 1.08, 2),
        rotation=np.stack([along, (-along[1], along[0])], axis=1),
        brightness=dye * float(rng.uniform(0.8, 1.2)),
    )


def _chromatin(labels: NDArray[np.uint16], light: Floats, spacing: float) -> Floats:
    """Return the haematoxylin of the nuclei: grains inside, darker at the envelope."""
    # Where two labels meet there is an envelope too.
    edges = ndimage.grey_dilation(labels, (3, 3)) != ndimage.grey_erosion(labels, (3, 3))
    inward = ndimage.distance_transform_edt(~edges) * spacing
    envelope = np.exp(-inward / 0.6)
    return np.asarray((labels > 0) * light * (0.66 + 0.42 * envelope))


def _ground(
    rng: np.random.Generator,
    glands: list[_Gland],
    fibres: Floats,
    nuclei: NDArray[np.bool_],
    y: Floats,
    x: Floats,
) -> Floats:
    """Return the eosin: fibres, the cytoplasm of glands, and nothing in a lumen."""
    cloud = ndimage.gaussian_filter(rng.standard_normal(y.shape), 12.0, mode="reflect")
    cloud /= max(float(np.abs(cloud).max()), 1e-9)
    eosin = 0.10 + 0.30 * fibres + 0.06 * cloud
    # Cracks that opened when the section dried.
    eosin *= 1 - 0.85 * expit((0.06 - fibres) / 0.015)
    grain = ndimage.gaussian_filter(rng.standard_normal(y.shape), 1.2, mode="reflect")
    for gland in glands:
        away = gland.distance(y, x)
        wall = expit((away + 0.2) / 0.35) * expit((13.0 - away) / 0.5)
        eosin = eosin * (1 - wall) + wall * (0.25 + 0.05 * grain + 0.06 * cloud)
        eosin += 0.16 * np.exp(-(((away - 0.7) / 0.8) ** 2))  # the brush border
        eosin *= 1 - 0.5 * np.exp(-(((away - 13.6) / 0.7) ** 2))  # a cleft around the gland
        eosin *= 0.03 + 0.97 * expit((away + 0.4) / 0.35)  # the lumen is empty
    return np.asarray(np.clip(eosin, 0, None) * (1 - 0.45 * nuclei))


def _transmitted(
    rng: np.random.Generator, haematoxylin: Floats, eosin: Floats, spacing: float
) -> NDArray[np.uint8]:
    """Return the picture of the dyes: absorption, the objective's blur, the camera's noise."""
    haze = ndimage.gaussian_filter(haematoxylin, 3.0 / spacing, mode="nearest")
    # A little haematoxylin everywhere there is tissue makes it pink instead of orange.
    blue = haematoxylin + 0.10 * haze + 0.16 * eosin
    density = blue[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN  # (Y, X, 3)
    light = np.exp(-np.log(10) * 0.72 * density)
    light = ndimage.gaussian_filter(light, (0.30 / spacing, 0.30 / spacing, 0), mode="nearest")
    lamp = np.asarray((243.0, 241.0, 244.0))
    noise = rng.normal(0, 1.0, light.shape) * 1.6
    return np.asarray(np.clip(np.rint(lamp * light + noise), 0, 255), np.uint8)
