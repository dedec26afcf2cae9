"""Augmentation of training patches, by MONAI's transforms in 2D and 3D.

One random affine map (rotation, scale, shear) and flips act on image and labels alike;
contrast, brightness, noise and blur act on the image alone. Everything follows from one
integer seed per patch. MONAI is imported on first use, since it takes seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_unetpp.core.errors import InputError

UNLABELLED = 255
"""Value of a pixel of the class map about which nothing is known."""


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly patches are varied; 0 switches a part off.

    Attributes
    ----------
    rotate : float
        Largest rotation in radians; in 3D about the first axis, a third of it about others.
    scale : float
        Largest relative change of size.
    shear : float
        Largest shear.
    flip : bool
        Mirror along every axis and turn by right angles (wrong where left is not right).
    contrast, brightness, noise, blur : float
        Largest change of gamma (relative), of offset, of the noise's standard deviation (all
        in units of the normalised image), and of the blur's standard deviation in pixels.
    """

    rotate: float = math.pi
    scale: float = 0.35
    shear: float = 0.1
    flip: bool = True
    contrast: float = 0.4
    brightness: float = 0.1
    noise: float = 0.05
    blur: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rotate", "scale", "shear", "contrast", "brightness", "noise", "blur"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.scale >= 1 or self.contrast >= 1:
            raise InputError("scale and contrast must be below 1; 0.35 is usual.")

    def margin(self, ndim: int) -> float:
        """Return how much larger than a patch the crop must be, as a factor."""
        turn = abs(math.sin(min(self.rotate, math.pi / 4)))
        grow = (math.cos(min(self.rotate, math.pi / 4)) + turn) * (1 + self.scale)
        return min(grow * (1 + self.shear), 2.0 if ndim == 2 else 1.5)

    @classmethod
    def volumes(cls, *, oriented: bool) -> AugmentConfig:
        """Return a setting for volumes; an oriented one is not mirrored and hardly turned."""
        if oriented:
            return cls(rotate=0.25, scale=0.2, shear=0.05, flip=False, contrast=0.25, blur=0.7)
        return cls(rotate=math.pi / 4, scale=0.25)


class Augmenter:
    """Turns a crop into a varied patch.

    Parameters
    ----------
    config : AugmentConfig
        Strengths.
    patch : tuple of int
        Size of the result, (Y, X) or (Z, Y, X).
    """

    def __init__(self, config: AugmentConfig, patch: tuple[int, ...]) -> None:
        from monai import transforms as mt

        self.patch = patch
        ndim = len(patch)
        both, image = ["image", "aux", "labels"], ["image"]
        turn = [config.rotate] if ndim == 2 else [config.rotate, *[config.rotate / 3] * 2]
        steps: list[Any] = [
            mt.RandAffined(
                both,
                prob=0.8,
                rotate_range=turn,
                scale_range=[config.scale] * ndim,
                shear_range=[config.shear] * (ndim * (ndim - 1)),
                spatial_size=patch,
                mode=["bilinear", "bilinear", "nearest"],
                padding_mode="border",
                allow_missing_keys=True,
            )
        ]
        if config.flip:
            steps += [
                mt.RandFlipd(both, prob=0.5, spatial_axis=axis, allow_missing_keys=True)
                for axis in range(ndim)
            ]
            if patch[-1] == patch[-2]:
                plane = (ndim - 2, ndim - 1)
                steps.append(
                    mt.RandRotate90d(both, prob=0.5, spatial_axes=plane, allow_missing_keys=True)
                )
        if config.contrast:
            gamma = (1 - config.contrast, 1 / (1 - config.contrast))
            steps.append(mt.RandAdjustContrastd(image, prob=0.5, gamma=gamma))
            steps.append(mt.RandScaleIntensityd(image, prob=0.5, factors=config.contrast / 2))
        if config.brightness:
            steps.append(mt.RandShiftIntensityd(image, prob=0.5, offsets=config.brightness))
        if config.blur:
            sigma = dict.fromkeys(("sigma_x", "sigma_y", "sigma_z"), (0.1, config.blur))
            steps.append(mt.RandGaussianSmoothd(image, prob=0.2, **sigma))
        if config.noise:
            steps.append(mt.RandGaussianNoised(image, prob=0.3, std=config.noise))
        self._steps = mt.Compose(steps)

    def __call__(
        self, image: NDArray[Any], labels: NDArray[Any], aux: NDArray[Any] | None, seed: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vary one crop.

        Parameters
        ----------
        image : ndarray
            (C, *crop), normalised.
        labels : ndarray of uint8
            (*crop), class map; 255 is unlabelled.
        aux : ndarray, optional
            (A, *crop), soft maps in [0, 1].
        seed : int
            The only source of randomness.

        Returns
        -------
        image, labels, aux : Tensor
            float32 (C, *patch), int64 (*patch), float32 (A, *patch) or None.
        """
        # float16 storage is widened here: the transforms want float32.
        data: dict[str, Any] = {
            "image": torch.from_numpy(np.array(image, np.float32)),
            "labels": torch.from_numpy(np.array(labels[None], np.float32)),
        }
        if aux is not None:
            data["aux"] = torch.from_numpy(np.array(aux, np.float32))
        self._steps.set_random_state(seed=seed & 0xFFFFFFFF)
        from monai.data.meta_obj import get_track_meta, set_track_meta

        tracked = get_track_meta()
        # Nobody reads the record of transforms, and keeping it takes a third of the time.
        set_track_meta(False)
        try:
            out = self._steps(data)
        finally:
            set_track_meta(tracked)
        plain = {name: torch.as_tensor(value) for name, value in out.items() if name in data}
        return (
            plain["image"].contiguous(),
            plain["labels"][0].round().long(),
            plain["aux"].contiguous() if aux is not None else None,
        )
