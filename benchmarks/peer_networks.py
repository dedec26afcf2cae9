"""Networks of others, matched in filters where that can be: what `peers.py` compares with.

`PortStyle` is written here after the shape that ports of UNet++ to PyTorch share: bilinear
up-sampling, batch norm in every block, all nodes in one forward. MONAI's network is MONAI's own,
and so is that of segmentation_models.pytorch, and the window that MONAI slides over an image.
This module must not know how they are timed.
"""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from napari_unetpp.core.config import NetworkConfig

WINDOW = {2: 512, 3: 96}
OVERLAP = 0.25

_kept: list[torch.library.Library] = []


class PortStyle(nn.Module):
    """UNet++ as ports have it: up-sampling without weights, batch norms that are not folded."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        f, three = config.filters, config.ndim == 3
        self.pool = (nn.MaxPool3d if three else nn.MaxPool2d)(2)
        mode = "trilinear" if three else "bilinear"
        self.up = nn.Upsample(scale_factor=2, mode=mode, align_corners=True)
        self.levels = config.levels
        conv, norm = (nn.Conv3d, nn.BatchNorm3d) if three else (nn.Conv2d, nn.BatchNorm2d)

        def block(source: int, features: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for width in (source, features):
                layers += [conv(width, features, 3, padding=1), norm(features), nn.ReLU(True)]
            return nn.Sequential(*layers)

        self.blocks = nn.ModuleDict()
        for j in range(self.levels + 1):
            for i in range(self.levels + 1 - j):
                below = f[i - 1] if i else config.in_channels
                source = below if j == 0 else j * f[i] + f[i + 1]
                self.blocks[f"{i}_{j}"] = block(source, f[i])
        self.head = conv(f[0], config.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the last head."""
        known: dict[tuple[int, int], Tensor] = {}
        for stage in range(self.levels + 1):
            for j in range(stage + 1):
                i = stage - j
                if j == 0:
                    source = x if i == 0 else self.pool(known[i - 1, 0])
                else:
                    skips = [known[i, k] for k in range(j)]
                    source = torch.cat([*skips, self.up(known[i + 1, j - 1])], 1)
                known[i, j] = self.blocks[f"{i}_{j}"](source)
        return self.head(known[0, self.levels])


def monai_network(config: NetworkConfig) -> nn.Module:
    """Return MONAI's BasicUNetPlusPlus with the same filters; it computes every node."""
    from monai.networks.nets import BasicUNetPlusPlus

    features: Sequence[int] = (*config.filters, config.filters[0])
    return BasicUNetPlusPlus(
        spatial_dims=config.ndim, in_channels=config.in_channels,
        out_channels=config.out_channels, features=features,
    )  # fmt: skip


def smp_network(config: NetworkConfig) -> nn.Module:
    """Return UnetPlusPlus of segmentation_models.pytorch with its default encoder, 2D.

    Its filters are its encoder's, so it is another network: its work is told beside its time.

    Raises
    ------
    ImportError, OSError, RuntimeError
        If it, or what it imports, is not there or does not fit the torch that is there.
    """
    _operators_that_torchvision_expects()
    import segmentation_models_pytorch as smp

    network: nn.Module = smp.UnetPlusPlus(
        "resnet34",
        encoder_weights=None,
        in_channels=config.in_channels,
        classes=config.out_channels,
    )
    return network


def _operators_that_torchvision_expects() -> None:
    """Name two operators of boxes, as torchvision's compiled part would.

    torchvision's wheels for another build of torch import no further without them. A
    segmentation network has no boxes: none of them is ever called.
    """
    if _kept or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # the compiled part is there after all
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


def work_of(network: nn.Module, config: NetworkConfig) -> float:
    """Return the multiply-accumulates of a network for one pixel (voxel); nothing is computed."""
    edge = 96
    empty = copy.deepcopy(network).eval().to("meta")
    shape = (1, config.in_channels, *(edge,) * config.ndim)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        empty(torch.empty(shape, device="meta"))
    return counter.get_total_flops() / 2 / math.prod(shape[2:])


def slid(network: nn.Module, x: Tensor) -> Tensor:
    """Run a network by MONAI's sliding window, with the overlap that MONAI takes by itself."""
    from monai.inferers import SlidingWindowInferer

    ndim = x.ndim - 2
    window = [min(n, WINDOW[ndim]) for n in x.shape[2:]]
    inferer = SlidingWindowInferer(window, sw_batch_size=1, overlap=OVERLAP)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Tensor = inferer(x, lambda piece: network(piece)[-1])
    return found


def windows_share(shape: tuple[int, ...]) -> float:
    """Return how many pixels MONAI's windows compute for each pixel of the image."""
    share = 1.0
    for n in shape:
        window = min(n, WINDOW[len(shape)])
        count = 1 + -(-(n - window) // int(window * (1 - OVERLAP)))
        share *= count * window / n
    return share
