"""Networks of others, matched in filters: what `peers.py` compares with.

`PortStyle` is written here after the shape that ports of UNet++ to PyTorch share: bilinear
up-sampling, batch norm in every block, all nodes in one forward. MONAI's network is MONAI's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from napari_unetpp.core.config import NetworkConfig


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
    """Return MONAI's BasicUNetPlusPlus with the same filters; it computes every head."""
    from monai.networks.nets import BasicUNetPlusPlus

    features: Sequence[int] = (*config.filters, config.filters[0])
    return BasicUNetPlusPlus(
        spatial_dims=config.ndim, in_channels=config.in_channels,
        out_channels=config.out_channels, features=features,
    )  # fmt: skip
