"""Small models with random weights, small images, and the command run in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
import torch

from napari_unetpp.cli.main import main
from napari_unetpp.core.config import ClassInfo, InstanceRule, ModelCard, NetworkConfig
from napari_unetpp.core.model.modelfile import save_model
from napari_unetpp.core.nn.network import NestedUNet

sys.path.insert(0, str(Path(__file__).parent))  # for bad_input_helpers and its cases

FILTERS = (4, 8, 12, 16, 20)
ORGANS = {
    "brainstem": "#ee7733", "spinal cord": "#0077bb", "right parotid": "#33bbee",
    "left parotid": "#ee3377", "oesophagus": "#cc3311", "larynx": "#009988",
    "mandible": "#ddcc77",
}  # fmt: skip


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Outcome]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs the command line in this process."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        streams = capsys.readouterr()
        return Outcome(code, streams.out, streams.err)

    return run


def spread(network: NestedUNet, seed: int = 1) -> NestedUNet:
    """Scale the heads so that a fifth of a patchy image is above 0.5 in every channel."""
    ndim = network.config.ndim
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        coarse = torch.rand((1, network.config.in_channels, *(8,) * ndim), generator=generator)
        mode = "bilinear" if ndim == 2 else "trilinear"
        x = torch.nn.functional.interpolate(coarse, scale_factor=8 if ndim == 2 else 4, mode=mode)
        for level, logits in network.forward_heads(x).items():
            head = network.heads[str(level)]
            values = logits.flatten(2)[0]  # (channel, pixel)
            scale = 3.0 / values.std(dim=1)
            head.weight.mul_(scale.reshape(-1, *(1,) * (ndim + 1)))
            head.bias.sub_(values.quantile(0.8, dim=1)).mul_(scale)
    return network


def save(path: Path, card: ModelCard) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20180720)
        network = NestedUNet(card.network).eval()
    return save_model(path, spread(network), card, dtype="float32")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return model files: 2D with objects, 2D without, 3D like the CT's, and a shallow one."""
    folder = tmp_path_factory.mktemp("models")
    flat = NetworkConfig(filters=FILTERS)
    centred = NetworkConfig(filters=FILTERS, out_channels=2)
    solid = NetworkConfig(filters=(4, 6, 8, 10, 12), ndim=3, out_channels=len(ORGANS))
    cards = {
        "nuclei": ModelCard(
            "tiny-nuclei",
            centred,
            (ClassInfo("nucleus"),),
            auxiliary=("centre",),
            instances=InstanceRule(min_size=4),
            scores={"4": {"iou_per_image": 0.875, "ap50": 0.8}},
            timings={"4": {"seconds_per_megapixel": 0.25, "peak_memory_mb": 321.0}},
            licence="CC0",
            description="Random weights for tests.",
            split="held out: none",
        ),
        "plain": ModelCard("tiny-plain", flat, (ClassInfo("thing"),)),
        "ct": ModelCard(
            "tiny-ct",
            solid,
            tuple(ClassInfo(name, color) for name, color in ORGANS.items()),
            axes="ZYX",
            spacing=(3.0, 2.5, 2.5),
            orientation="SPL",
        ),
        "shallow": ModelCard("tiny-shallow", flat, (ClassInfo("thing"),), levels_trained=(1, 2)),
        "colours": ModelCard(
            "tiny-colours",
            NetworkConfig(filters=FILTERS, in_channels=3),
            (ClassInfo("thing"),),
            input_channels=("red", "green", "blue"),
        ),
    }
    return {name: save(folder / f"{name}.safetensors", card) for name, card in cards.items()}


@pytest.fixture
def blobs() -> np.ndarray:
    """Return an image, (64, 80) uint16, with bright discs on a dim background."""
    y, x = np.mgrid[:64, :80]
    image = np.full((64, 80), 100.0)
    for centre_y, centre_x in ((16, 16), (20, 50), (45, 30), (48, 64)):
        image += 900.0 * np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / 60.0)
    noise = np.random.default_rng(3).normal(0, 12, image.shape)
    return (image + noise).clip(0).astype(np.uint16)


@pytest.fixture
def image_file(tmp_path: Path, blobs: np.ndarray) -> Path:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, blobs)
    return path
