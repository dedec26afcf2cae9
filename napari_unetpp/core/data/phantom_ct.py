"""The head and neck of a person who does not exist, as analytic shapes in Hounsfield units.

Points are in mm: z to superior, y to posterior, x to left; the origin lies behind the nose
at the base of the skull. Each shape is a mask by a formula; later ones cover earlier ones.
Sizes are those of an adult, roughly. This module knows numpy and scipy, no file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Names of the label values 1, 2, ... of the CT phantom, in order.
CT_CLASSES = (
    "brainstem",
    "spinal cord",
    "right parotid",
    "left parotid",
    "oesophagus",
    "larynx",
    "mandible",
)

AIR, FAT, MUSCLE = -1000.0, -95.0, 52.0
MIDDLE_Z = -28.0  # mm: height of the middle plane of the volume


@dataclass
class Scene:
    """What is drawn so far.

    Attributes
    ----------
    z, y, x : ndarray of float64
        Coordinates in mm, (Z, 1, 1), (1, Y, 1) and (1, 1, X).
    hu : ndarray of float64
        (Z, Y, X) Hounsfield units.
    labels : ndarray of uint8
        (Z, Y, X) values of :data:`CT_CLASSES` from 1, 0 elsewhere.
    rng : numpy.random.Generator
        Source of texture.
    step : tuple of float
        Voxel size (Z, Y, X) in mm.
    """

    z: Floats
    y: Floats
    x: Floats
    hu: Floats
    labels: NDArray[np.uint8]
    rng: np.random.Generator
    step: tuple[float, float, float]

    def ellipsoid(self, centre: tuple[float, float, float], radii: tuple[float, ...]) -> Floats:
        """Return the squared normalised radius: below 1 inside."""
        (z, y, x), (a, b, c) = centre, radii
        return np.asarray(
            ((self.z - z) / a) ** 2 + ((self.y - y) / b) ** 2 + ((self.x - x) / c) ** 2
        )

    def tube(
        self, y: Floats | float, x: Floats | float, ry: Floats | float, rx: Floats | float
    ) -> Floats:
        """Return the squared normalised distance to a line along z; below 1 inside."""
        return np.asarray(((self.y - y) / ry) ** 2 + ((self.x - x) / rx) ** 2 + 0 * self.z)

    def between(self, low: float, high: float) -> Mask:
        """Return the slab low <= z < high, (Z, 1, 1)."""
        return np.asarray((self.z >= low) & (self.z < high))

    def draw(self, mask: Mask, hu: Floats | float, label: int | None = None) -> None:
        """Paint a mask; `label` None leaves the labels as they are."""
        mask = np.broadcast_to(mask, self.hu.shape)
        self.hu[mask] = np.broadcast_to(hu, self.hu.shape)[mask]
        if label is not None:
            self.labels[mask] = label

    def texture(self, sigma: float, height: float) -> Floats:
        """Return smooth noise (Z, Y, X) of a grain of `sigma` mm and a deviation of `height`."""
        noise = ndimage.gaussian_filter(
            self.rng.standard_normal(self.hu.shape), [sigma / s for s in self.step]
        )
        return np.asarray(height * noise / max(float(noise.std()), 1e-9))


def canal_y(z: Floats) -> Floats:
    """Return y of the spinal canal in mm: the neck bends forward, the chest back."""
    return np.asarray(36.0 - 9.0 * np.exp(-(((z + 85.0) / 45.0) ** 2)) - 0.08 * (z + 40.0))


def head_and_neck(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], seed: int = 0
) -> tuple[Floats, NDArray[np.uint8]]:
    """Draw the patient on a grid.

    Parameters
    ----------
    shape : tuple of int
        Voxels (Z, Y, X).
    spacing : tuple of float
        Voxel size (Z, Y, X) in mm.
    seed : int
        Seed of the textures.

    Returns
    -------
    hu : ndarray of float64
        (Z, Y, X) Hounsfield units, sharp and without noise.
    labels : ndarray of uint8
        (Z, Y, X) values of :data:`CT_CLASSES` from 1.
    """
    z, y, x = (
        ((np.arange(n) - (n - 1) / 2) * s).reshape([-1 if i == axis else 1 for i in range(3)])
        for axis, (n, s) in enumerate(zip(shape, spacing, strict=True))
    )
    scene = Scene(
        z=np.asarray(z + MIDDLE_Z, np.float64),
        y=np.asarray(y + 8.0, np.float64),
        x=np.asarray(x, np.float64),
        hu=np.full(shape, AIR),
        labels=np.zeros(shape, np.uint8),
        rng=np.random.default_rng([seed, 8]),
        step=spacing,
    )
    _body(scene)
    _skull(scene)
    _face(scene)
    _mandible(scene)
    _spine(scene)
    _soft_organs(scene)
    _airway(scene)
    _couch(scene)
    return scene.hu, scene.labels


def _body(s: Scene) -> None:
    """Skin, fat, and muscle bundles in the fat of the neck and shoulders."""

    def outline(less: float) -> Mask:
        head = s.ellipsoid((34.0, 4.0, 0.0), (88.0 - less, 98.0 - less, 78.0 - less)) < 1
        face = s.ellipsoid((-28.0, -38.0, 0.0), (80.0 - less, 60.0 - less, 64.0 - less)) < 1
        nose = s.ellipsoid((-22.0, -92.0, 0.0), (26.0 - less, 22.0 - less, 16.0 - less)) < 1
        neck = (s.tube(canal_y(s.z) - 18.0, 0.0, 62.0 - less, 60.0 - less) < 1) & (s.z < -5)
        slope = 62.0 + 95.0 / (1 + np.exp((s.z + 138.0) / 9.0))
        trunk = (
            np.abs((s.x + 0 * s.y) / (slope - less)) ** 2.4
            + np.abs((s.y - canal_y(s.z) + 12.0) / (0.44 * slope + 34.0 - less)) ** 2.4
            < 1
        ) & (s.z < -112)
        return np.asarray(head | face | nose | neck | trunk)

    fatty = FAT + s.texture(6.0, 9.0)
    flesh = MUSCLE + s.texture(4.0, 9.0)
    s.draw(outline(0.0), 25.0)
    s.draw(outline(2.0), fatty)
    s.draw(outline(7.0), flesh)
    # Between the muscles lie sheets of fat: the level sets of a smooth noise.
    planes = np.abs(s.texture(9.0, 1.0)) < 0.22
    s.draw(outline(8.0) & planes, fatty)


def _skull(s: Scene) -> None:
    """Vault with two tables and marrow, brain, ventricles, base with its opening."""
    outer = s.ellipsoid((36.0, 4.0, 0.0), (80.0, 90.0, 71.0))
    inner = s.ellipsoid((37.0, 4.0, 0.0), (73.0, 83.0, 64.0))
    s.draw(outer < 1, 1250.0 + s.texture(3.0, 90.0))
    s.draw((outer < 0.95) & (inner > 1.07), 620.0)  # diploe
    s.draw(inner < 1, 12.0)  # fluid over the brain
    folds = s.texture(4.0, 1.0)
    s.draw((inner < 0.93) & ((folds < 1.3) | (inner < 0.7)), 34.0 + 5.0 * folds)
    for side in (-1.0, 1.0):
        horn = s.ellipsoid((52.0, -6.0, side * 9.0), (13.0, 34.0, 5.5))
        s.draw(horn < 1, 6.0)
        petrous = s.ellipsoid((-22.0, 18.0, side * 42.0), (9.0, 12.0, 22.0))
        s.draw((petrous < 1) & (outer < 1), 1000.0)
        mastoid = s.ellipsoid((-30.0, 26.0, side * 57.0), (17.0, 12.0, 8.0))
        cells = s.texture(2.5, 1.0)
        s.draw(mastoid < 1, np.where(cells > 0.1, 500.0, -650.0))
    s.draw((np.abs(s.x) < 1.6) & (inner < 1) & (inner > 0.6) & (s.z > 20), 60.0)  # falx
    opening = (s.tube(canal_y(s.z), 0.0, 15.0, 15.0) < 1) & s.between(-60.0, -20.0)
    s.draw(opening, 15.0)


def _face(s: Scene) -> None:
    """Maxilla with sinuses and teeth, cheek bones, orbits with eyes, nasal cavity."""
    maxilla = s.ellipsoid((-38.0, -56.0, 0.0), (26.0, 32.0, 42.0))
    s.draw((maxilla < 1) & (maxilla > 0.72), 560.0 + s.texture(3.0, 120.0))
    palate = (maxilla < 1) & s.between(-50.0, -45.0)
    s.draw(palate, 600.0)
    s.draw(s.ellipsoid((-20.0, -40.0, 0.0), (4.0, 30.0, 34.0)) < 1, 450.0)
    for side in (-1.0, 1.0):
        cheek = s.ellipsoid((-22.0, -56.0, side * 50.0), (9.0, 24.0, 8.0))
        s.draw(cheek < 1, 900.0)
        sinus = s.ellipsoid((-30.0, -56.0, side * 26.0), (15.0, 17.0, 12.0))
        s.draw(sinus < 1.3, 480.0)
        s.draw(sinus < 1, AIR)
        orbit = s.ellipsoid((0.0, -58.0, side * 31.0), (17.0, 30.0, 18.0))
        s.draw((orbit < 1.3) & (s.y > -76), 750.0)
        s.draw((orbit < 1.0), FAT)
        nerve = s.ellipsoid((1.0, -38.0, side * 25.0), (2.5, 18.0, 2.5))
        s.draw(nerve < 1, 35.0)
        eye = s.ellipsoid((0.0, -72.0, side * 32.0), (12.0, 12.0, 12.0))
        s.draw(eye < 1, 14.0)
        s.draw(s.ellipsoid((0.0, -80.0, side * 32.0), (4.5, 2.2, 4.5)) < 1, 90.0)  # lens
    nasal = s.ellipsoid((-26.0, -62.0, 0.0), (20.0, 36.0, 11.0))
    turbinates = np.abs(s.texture(3.0, 1.0)) < 0.45
    s.draw(nasal < 1, np.where(turbinates, 40.0, -900.0))
    s.draw((nasal < 1) & (np.abs(s.x) < 1.8), 130.0)  # septum
    frontal = s.ellipsoid((22.0, -84.0, 0.0), (11.0, 6.0, 18.0))
    s.draw(frontal < 1, -950.0)
    _teeth(s, -60.0, -50.0)


def _arch(s: Scene, tip: float, thickness: float) -> Mask:
    """Return a horseshoe (1, Y, X) that opens to the back, its tip at y = `tip`."""
    curve = tip + s.x**2 / 28.0
    # Distance to a parabola, to first order: vertical distance over the slope's length.
    distance = np.abs(s.y - curve) / np.sqrt(1 + (s.x / 14.0) ** 2)
    return np.asarray((distance < thickness) & (s.y < -14.0))


def _teeth(s: Scene, low: float, high: float) -> None:
    arch = _arch(s, -80.0, 4.2) & (s.y < -40.0)
    gaps = np.cos(2 * np.pi * (s.x + 0.35 * s.y) / 8.0) > -0.75
    s.draw(arch & gaps & s.between(low, high), 1900.0)


def _mandible(s: Scene) -> None:
    """Body, rami and condyles; cortical bone outside, marrow inside; lower teeth."""
    body = s.between(-96.0, -70.0)
    marrow = s.between(-92.0, -74.0)
    s.draw(_arch(s, -82.0, 6.2) & body, 1350.0, label=7)
    s.draw(_arch(s, -82.0, 3.2) & marrow, 380.0, label=7)
    for side in (-1.0, 1.0):
        lean = -24.0 + 0.13 * (s.z + 83.0)
        ramus = (np.abs(s.y - lean) < 14.0) & (np.abs(s.x - side * 43.5) < 5.2)
        s.draw(ramus & s.between(-94.0, -36.0), 1300.0, label=7)
        core = (np.abs(s.y - lean) < 10.0) & (np.abs(s.x - side * 43.5) < 2.4)
        s.draw(core & s.between(-88.0, -44.0), 420.0, label=7)
        condyle = s.ellipsoid((-29.0, -8.0, side * 46.0), (8.0, 5.0, 9.0))
        neck = s.ellipsoid((-38.0, -11.0, side * 45.0), (11.0, 5.0, 5.5))
        s.draw((condyle < 1) | (neck < 1), 1150.0, label=7)
    _teeth(s, -70.0, -61.0)


def _spine(s: Scene) -> None:
    """Vertebrae every 18 mm with discs, arches and processes; the cord in its canal."""
    below = s.z < -42.0
    y = canal_y(s.z)
    phase = np.mod(s.z + 42.0, 18.0)
    disc = phase < 4.0
    body = (s.tube(y - 19.0, 0.0, 10.0, 14.5) < 1) & below
    s.draw(body, np.where(disc, 85.0, 420.0 + s.texture(2.5, 70.0)))
    rim = body & (s.tube(y - 19.0, 0.0, 8.2, 12.7) > 1) & ~disc
    s.draw(rim, 900.0)
    ring = s.tube(y, 0.0, 14.0, 17.0)
    s.draw((ring < 1) & below & (phase > 6.0), 820.0)
    spinous = (np.abs(s.x) < 3.5) & (s.y > y + 8) & (s.y < y + 34) & (phase > 9.0) & below
    s.draw(spinous, 640.0)
    for side in (-1.0, 1.0):
        wing = (s.tube(y - 8.0, side * 22.0, 5.5, 9.0) < 1) & (phase > 8.0) & below
        s.draw(wing, 620.0)
    s.draw((s.tube(y, 0.0, 9.5, 11.5) < 1) & below, 14.0)  # fluid around the cord
    cord = s.tube(y, 0.0, 5.2, 6.6) < 1
    s.draw(cord & (s.z < -34.0), 42.0, label=2)
    # The brain stem takes over where the skull begins, thicker and leaning forward.
    up = np.clip((s.z + 34.0) / 50.0, 0.0, 1.0)
    stem = s.tube(y - 16.0 * up, 0.0, 6.5 + 8.0 * up, 7.5 + 8.5 * up) < 1
    s.draw(stem & s.between(-34.0, 18.0), 31.0 + s.texture(3.0, 2.0), label=1)


def _soft_organs(s: Scene) -> None:
    """Parotids, tongue, vessels with contrast, thyroid, long neck muscles."""
    for side, label in ((-1.0, 3), (1.0, 4)):
        deep = s.ellipsoid((-52.0, 3.0, side * 53.0), (27.0, 13.0, 8.0))
        flat = s.ellipsoid((-50.0, -8.0, side * 58.0), (20.0, 20.0, 5.0))
        free = (s.hu < 200.0) & (s.hu > -300.0)
        s.draw(((deep < 1) | (flat < 1)) & free, -12.0 + s.texture(3.0, 14.0), label=label)
        y = canal_y(s.z)
        neck = s.between(-170.0, -60.0)
        sheath = (s.tube(y - 22.0, side * 34.0, 13.0, 11.0) < 1) & neck
        s.draw(sheath & (s.labels == 0), FAT)
        s.draw((s.tube(y - 26.0, side * 31.0, 3.6, 3.6) < 1) & neck, 210.0)
        s.draw((s.tube(y - 20.0, side * 38.0, 5.0, 6.0) < 1) & neck, 165.0)
        forward = 0.42 * (s.z + 40.0)
        strap = s.tube(y - 8.0 + forward, side * (50.0 + 0.22 * forward), 13.0, 6.0) < 1
        s.draw(strap & s.between(-150.0, -48.0) & (s.labels == 0) & (s.hu < 200), 58.0)
        lobe = s.ellipsoid((-150.0, 3.0, side * 17.0), (20.0, 9.0, 8.0))
        s.draw(lobe < 1, 125.0)
        lung = s.ellipsoid((-200.0, 22.0, side * 46.0), (42.0, 40.0, 30.0))
        s.draw(lung < 1, -820.0 + s.texture(3.0, 40.0))
        across = np.clip(side * s.x - 14.0, 0.0, None)
        bend = -38.0 + 0.34 * across + 6.0 * np.sin(across / 14.0)
        rise = -162.0 + 0.07 * across
        clavicle = ((s.y - bend) / 6.5) ** 2 + ((s.z - rise) / 6.5) ** 2 < 1
        s.draw(clavicle & (side * s.x > 14.0) & (side * s.x < 108.0), 640.0)
        humerus = s.ellipsoid((-165.0, 20.0, side * 124.0), (26.0, 22.0, 22.0))
        s.draw((humerus < 1) & (s.hu > -300), np.where(humerus < 0.75, 260.0, 900.0))
    tongue = s.ellipsoid((-68.0, -46.0, 0.0), (18.0, 28.0, 22.0))
    s.draw((tongue < 1) & (s.labels == 0), 62.0 + s.texture(3.0, 10.0))


def _airway(s: Scene) -> None:
    """Nasopharynx to trachea, the larynx around it, the oesophagus behind it."""
    y = canal_y(s.z) - 40.0 - 6.0 * np.exp(-(((s.z + 122.0) / 22.0) ** 2))
    larynx = s.tube(y - 2.0, 0.0, 19.0, 18.0) + ((s.z + 123.0) / 20.0) ** 4 < 1
    s.draw(larynx, 55.0, label=6)
    shield = (s.tube(y - 2.0, 0.0, 16.0, 15.0) > 1) & larynx & (s.y < y + 4)
    s.draw(shield, 190.0 + s.texture(3.0, 90.0))
    hyoid = (s.tube(y - 12.0, 0.0, 13.0, 19.0) < 1) & (s.tube(y - 12.0, 0.0, 9.5, 15.5) > 1)
    s.draw(hyoid & (s.y < y - 8) & s.between(-102.0, -96.0), 520.0)
    gullet = (s.tube(y + 15.5, 2.0, 5.2, 8.5) < 1) & (s.z < -136.0)
    s.draw(gullet & (s.labels == 0), 38.0, label=5)
    s.draw((s.tube(y + 15.0, 2.0, 1.6, 3.0) < 1) & (s.z < -152.0) & (s.z > -163.0), -300.0)
    half = 7.0 + 2.5 * np.cos(s.z / 13.0)
    lumen = (s.tube(y, 0.0, half, half + 3.0) < 1) & (s.z < -41.0)
    cords = s.between(-126.0, -121.0) & (np.abs(s.x) > 2.5)
    s.draw(lumen & ~cords, AIR)
    trachea_wall = (s.tube(y, 0.0, half + 2.0, half + 5.0) < 1) & (s.z < -142.0)
    s.draw(trachea_wall & ~(lumen) & (s.labels == 0) & (np.mod(s.z, 6.0) < 3.0), 130.0)


def _couch(s: Scene) -> None:
    """Carbon table under the patient: a shell with foam."""
    top = 118.0 + (s.x / 120.0) ** 2 * -8.0
    shell = (s.y > top) & (s.y < top + 14.0) & (np.abs(s.x) < 122.0) & (s.hu < -500)
    s.draw(shell, -870.0)
    skin = shell & ((s.y < top + 3.0) | (s.y > top + 11.0))
    s.draw(skin, -420.0)
