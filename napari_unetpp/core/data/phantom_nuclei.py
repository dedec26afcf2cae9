"""Nuclei as analytic shapes, and the microscope that looks at them.

A nucleus is an ellipsoid with a wavy surface, given in µm, so that one description serves 2D,
3D and every pixel size. Where two overlap, the pixel belongs to the one it lies deeper in, which
is how touching nuclei get a shared border. This module knows numpy and scipy, no file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

# Share of the nuclei that are placed right beside another one.
TOUCHING = 0.55
# Photon rates are rounded to this step: see the docstring of `phantoms`.
RATE_STEP = 1 / 64


@dataclass(frozen=True, eq=False)
class Cell:
    """One nucleus; D is the number of spatial axes.

    Attributes
    ----------
    label : int
        Its value in the labels.
    centre, radii : ndarray of float64
        (D,) in µm, in array order.
    rotation : ndarray of float64
        (D, D) from space to the body's axes, applied from the right.
    waves : ndarray of float64
        (2, K, D) wave vectors: of the surface, of the texture.
    phases : ndarray of float64
        (2, K) their phases.
    brightness : float
        1 for an ordinary nucleus.
    velocity : ndarray of float64
        (D,) µm from frame to frame.
    """

    label: int
    centre: Floats
    radii: Floats
    rotation: Floats
    waves: Floats
    phases: Floats
    brightness: float
    velocity: Floats


def _rotation(rng: np.random.Generator, ndim: int) -> Floats:
    q, r = np.linalg.qr(rng.standard_normal((ndim, ndim)))
    return np.asarray(q * np.sign(np.diag(r)), np.float64)


def _make_cell(
    rng: np.random.Generator, label: int, centre: Floats, radius: float, waves: int = 7
) -> Cell:
    ndim = len(centre)
    radii = radius * rng.uniform(0.78, 1.22, ndim)
    return Cell(
        label=label,
        centre=centre,
        radii=radii,
        rotation=_rotation(rng, ndim),
        waves=np.stack([rng.normal(0, 1.5, (waves, ndim)), rng.normal(0, 4.2, (waves, ndim))]),
        phases=rng.uniform(0, 2 * np.pi, (2, waves)),
        brightness=float(np.clip(rng.lognormal(0.0, 0.32), 0.45, 2.2)),
        velocity=rng.normal(0, 0.5, ndim),
    )


def place_cells(rng: np.random.Generator, extent: Floats, count: int, radius: float) -> list[Cell]:
    """Scatter nuclei: some alone, more than half right beside another one.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance.
    extent : ndarray of float64
        (D,) size of the image in µm.
    count : int
        Nuclei wanted; fewer if 60 tries for each find no room.
    radius : float
        Mean radius in µm.

    Returns
    -------
    list of Cell
        With labels 1, 2, ...
    """
    cells: list[Cell] = []
    for _ in range(60 * count):
        if len(cells) == count:
            break
        size = radius * float(rng.uniform(0.75, 1.2))
        if cells and rng.random() < TOUCHING:
            other = cells[rng.integers(len(cells))]
            way = rng.standard_normal(len(extent))
            reach = 0.92 * (float(other.radii.mean()) + size)
            centre = other.centre + reach * way / np.linalg.norm(way)
        else:
            centre = rng.uniform(0, 1, len(extent)) * extent
        if np.any(centre < 0) or np.any(centre > extent):
            continue
        if all(
            np.linalg.norm(centre - c.centre) > 0.88 * (float(c.radii.mean()) + size) for c in cells
        ):
            cells.append(_make_cell(rng, len(cells) + 1, np.asarray(centre), size))
    return cells


def render(
    cells: Sequence[Cell], shape: tuple[int, ...], spacing: tuple[float, ...]
) -> tuple[NDArray[np.uint16], Floats]:
    """Draw nuclei on a grid: exact labels and the light that they send out.

    Parameters
    ----------
    cells : sequence of Cell
        With D axes each.
    shape : tuple of int
        D sizes in pixels.
    spacing : tuple of float
        D pixel sizes in µm; pixel i lies at i times the spacing.

    Returns
    -------
    labels : ndarray of uint16
        Of `shape`, 0 between nuclei.
    light : ndarray of float64
        Of `shape`, about 1 inside a nucleus and 0 outside, in focus and without noise.
    """
    labels = np.zeros(shape, np.uint16)
    light = np.zeros(shape)
    nearest = np.ones(shape)  # a nucleus ends where its depth coordinate is 1
    step = np.asarray(spacing, np.float64)
    for cell in cells:
        reach = 1.4 * cell.radii.max() / step
        low = np.maximum(np.floor(cell.centre / step - reach), 0).astype(int)
        high = np.minimum(np.ceil(cell.centre / step + reach) + 1, shape).astype(int)
        if np.any(low >= high):
            continue
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.moveaxis(np.asarray(np.mgrid[box]), 0, -1) * step  # (..., D)
        rho, value = _shade(cell, grid)
        mine = rho < nearest[box]
        nearest[box][mine] = rho[mine]
        labels[box][mine] = cell.label
        light[box][mine] = value[mine]
    return labels, light


def _shade(cell: Cell, grid: Floats) -> tuple[Floats, Floats]:
    """Return depth (0 centre, 1 surface) and brightness at points (..., D) in µm."""
    body = (grid - cell.centre) @ cell.rotation / cell.radii
    radius = np.linalg.norm(body, axis=-1)
    way = body / np.maximum(radius, 1e-9)[..., None]
    surface, texture = cell.waves
    bump = np.cos(way @ surface.T + cell.phases[0]).sum(-1) / np.sqrt(len(surface))
    rho = radius / (1 + 0.075 * bump)
    grain = np.cos(body @ texture.T + cell.phases[1]).sum(-1) / np.sqrt(len(texture))
    dome = 0.72 + 0.28 * np.sqrt(np.clip(1 - rho**2, 0, 1))
    # Nucleoli take no dye: the deepest valleys of the texture are dark.
    nucleoli = 1 - 0.4 * np.clip(-grain - 1.1, 0, 0.6) / 0.6
    return rho, cell.brightness * dome * (1 + 0.13 * grain) * nucleoli


def fluorescence(rng: np.random.Generator, light: Floats, spacing: tuple[float, ...]) -> Floats:
    """Add what a wide-field microscope adds: haze, background, uneven illumination.

    Parameters
    ----------
    rng : numpy.random.Generator
        Decides where the lamp points.
    light : ndarray of float64
        In-focus light.
    spacing : tuple of float
        Pixel size in µm.

    Returns
    -------
    ndarray of float64
        Same shape, positive.
    """
    step = np.asarray(spacing)
    haze = ndimage.gaussian_filter(light, 6.0 / step, mode="nearest")
    cloud = ndimage.gaussian_filter(rng.standard_normal(light.shape), 14.0 / step, mode="nearest")
    cloud /= max(float(np.abs(cloud).max()), 1e-9)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in light.shape[-2:]), indexing="ij")
    lamp = rng.uniform(-0.5, 0.5, 2)
    away = sum((a - c) ** 2 for a, c in zip(axes, lamp, strict=True))
    lit: Floats = (light + 0.22 * haze + 0.07 + 0.025 * cloud) * np.exp(-0.28 * away)
    return lit


def acquire(
    rng: np.random.Generator,
    light: Floats,
    spacing: tuple[float, ...],
    psf: tuple[float, ...],
    photons: float,
) -> NDArray[np.uint16]:
    """Blur, count photons and read the camera out.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of noise.
    light : ndarray of float64
        Light of the scene, about 1 inside a nucleus.
    spacing, psf : tuple of float
        Pixel size, and standard deviation of the blur, in µm.
    photons : float
        Photons that a light of 1 brings to a pixel.

    Returns
    -------
    ndarray of uint16
        Counts: offset 100, gain 8, read noise of 3 photons.
    """
    sharp = ndimage.gaussian_filter(light, np.divide(psf, spacing), mode="nearest")
    rate = np.rint(np.clip(sharp, 0, None) * photons / RATE_STEP) * RATE_STEP
    counts = rng.poisson(rate) + rng.normal(0, 3.0, rate.shape)
    return np.asarray(np.clip(np.rint(100 + 8 * counts), 0, 65535), np.uint16)


def move(rng: np.random.Generator, cells: Sequence[Cell], extent: Floats) -> list[Cell]:
    """Let every nucleus drift for one frame; it turns back at the border of the image.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance.
    cells : sequence of Cell
        The nuclei now.
    extent : ndarray of float64
        (D,) size of the image in µm.

    Returns
    -------
    list of Cell
        The same nuclei one frame later.
    """
    moved = []
    for cell in cells:
        velocity = 0.85 * cell.velocity + rng.normal(0, 0.25, len(extent))
        centre = cell.centre + velocity
        outside = (centre < 0) | (centre > extent)
        moved.append(
            dataclasses.replace(
                cell,
                centre=np.clip(centre, 0, extent),
                velocity=np.where(outside, -velocity, velocity),
            )
        )
    return moved


def divide(rng: np.random.Generator, cells: Sequence[Cell], extent: Floats) -> list[Cell]:
    """Replace one nucleus, away from the border, by two daughters with new labels.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance.
    cells : sequence of Cell
        The nuclei now.
    extent : ndarray of float64
        (D,) size of the image in µm.

    Returns
    -------
    list of Cell
        One more than before; empty if `cells` is.
    """
    if not cells:
        return []
    room = [float(np.minimum(c.centre, extent - c.centre).min()) for c in cells]
    chosen = int(rng.choice(np.argsort(room)[-max(1, len(cells) // 3) :]))
    mother = cells[chosen]
    label = max(c.label for c in cells)
    axis = mother.rotation[:, int(np.argmax(mother.radii))]
    daughters = [
        dataclasses.replace(
            _make_cell(
                rng, label + number, mother.centre + side * 3.6 * axis, 0.74 * mother.radii.mean()
            ),
            velocity=side * 1.1 * axis,
            brightness=1.35 * mother.brightness,  # condensed chromatin
        )
        for number, side in ((1, -1.0), (2, 1.0))
    ]
    return [*cells[:chosen], *cells[chosen + 1 :], *daughters]
