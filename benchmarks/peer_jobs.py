"""Who is compared in `peers.py`, and what each of them does with an image.

This module must not know how often a job runs, nor what becomes of its time.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import tifffile
import torch
from measure import image_for, model_for
from numpy.typing import NDArray
from peer_files import monai_file, our_file, segment
from peer_networks import (
    PortStyle,
    monai_network,
    slid,
    smp_network,
    windows_share,
    work_of,
)

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.model.modelfile import Model, load_model, save_model
from napari_unetpp.core.nn.variants import multiply_accumulates
from napari_unetpp.core.run.inference import fit_normalisers
from napari_unetpp.core.run.runtime import Runner, choose_device

Job = Callable[[], object]

_BYTES_PER_PIXEL = 2000.0  # what the hungriest of the others takes for a pass over the whole


class Case:
    """An image of one size, and what there is to run on it; made when it is first needed.

    Parameters
    ----------
    shape : tuple of int
        (Y, X) or (Z, Y, X).
    threads : int
        For those who do not ask torch.
    folder : Path
        Where files are written.
    """

    def __init__(self, shape: tuple[int, ...], threads: int, folder: Path) -> None:
        self.shape, self.threads, self.folder = shape, threads, folder
        self.model: Model = model_for("nuclei" if len(shape) == 2 else "ct-head-neck")[0]
        self.network = self.model.network.eval().requires_grad_(False)
        self.config = self.model.card.network
        self.image: Image = image_for(self.model.card, shape)
        # As the model wants it: whether bfloat16 serves it is judged on these pixels.
        normaliser = fit_normalisers(self.image, self.model.card)[0][0]
        self.x: NDArray[np.float32] = normaliser(np.asarray(self.image.data))[None, None]

    @functools.cached_property
    def runner(self) -> Runner:
        """Ours, as a user has it: backend and precision as it chooses them."""
        return Runner(self.model, choose_device("cpu"), None)

    @functools.cached_property
    def monai(self) -> torch.nn.Module:
        """MONAI's network with the same filters."""
        return monai_network(self.config).eval()

    @functools.cached_property
    def source(self) -> Path:
        """The image as a TIFF."""
        path = self.folder / f"{self.image.name}-{'x'.join(map(str, self.shape))}.tif"
        tifffile.imwrite(path, np.asarray(self.image.data))
        return path

    @functools.cached_property
    def model_file(self) -> Path:
        """Our model as a file."""
        if self.model.path.is_file():
            return self.model.path
        return save_model(self.folder / "ours.safetensors", self.model.network, self.model.card)

    @functools.cached_property
    def monai_weights(self) -> Path:
        """MONAI's weights as a file."""
        path = self.folder / "monai.pt"
        torch.save(self.monai.state_dict(), path)
        return path

    @property
    def fits(self) -> bool:
        """Whether a pass of any network over the whole image fits into memory."""
        return self.x.size * _BYTES_PER_PIXEL < psutil.virtual_memory().available


@dataclass(frozen=True)
class Contestant:
    """Someone who is timed.

    Attributes
    ----------
    title : str
        What the table calls it.
    make : callable
        ``make(case, level)`` returns the job.
    by_level : bool
        Whether it has levels; else it does all of its work.
    prepares : bool
        Whether its first call does what later ones need not: compile, measure, check.
    ndims : tuple of int
        Spatial axes that it can.
    rough : float
        About how long it takes relative to eager PyTorch at the same level: for estimates alone.
    """

    title: str
    make: Callable[[Case, int], Job]
    by_level: bool = False
    prepares: bool = False
    ndims: tuple[int, ...] = (2, 3)
    rough: float = 1.0


def _eager(case: Case, level: int) -> Job:
    network, x = case.network, torch.from_numpy(case.x)

    def call() -> object:
        with torch.inference_mode():
            return network.probabilities(network(x, level)).numpy()

    return call


def _ours(case: Case, level: int) -> Job:
    return lambda: segment(case.image, case.runner, level)


def _bare(case: Case, level: int) -> Job:
    return lambda: case.runner.probabilities(case.x, level)


def _onnx(case: Case, level: int) -> Job:
    import onnxruntime

    class Head(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return case.network.probabilities(case.network(x, level))

    target = io.BytesIO()
    sizes = {k + 2: f"size{k}" for k in range(len(case.shape))}
    example = torch.zeros(1, 1, *(32,) * len(case.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Head().eval(), (example,), target, dynamo=False, input_names=["x"],
            output_names=["y"], dynamic_axes={"x": sizes, "y": sizes},
        )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    for name, size in zip(sizes.values(), case.shape, strict=True):
        options.add_free_dimension_override_by_name(name, size)
    session = onnxruntime.InferenceSession(
        target.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    how = onnxruntime.RunOptions()
    if case.x.size > 2**20:  # sessions of four levels would keep more than a machine has
        how.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return lambda: session.run(None, {"x": case.x}, how)


def _pass(network: torch.nn.Module, case: Case) -> Job:
    x = torch.from_numpy(case.x)

    def call() -> object:
        with torch.inference_mode():
            return network(x)

    return call


def _our_files(case: Case, level: int) -> Job:
    source, target = case.source, case.folder / f"ours-{level}.tif"
    return lambda: our_file(source, target, case.runner, level)


def _our_files_anew(case: Case, level: int) -> Job:
    source, target, weights = case.source, case.folder / "ours-anew.tif", case.model_file

    def call() -> None:
        runner = Runner(load_model(weights), choose_device("cpu"), None)
        our_file(source, target, runner, level)

    return call


def _monai_files(case: Case, _: int) -> Job:
    source, target, network = case.source, case.folder / "monai.tif", case.monai
    return lambda: monai_file(source, target, network)


def _monai_loaded(case: Case, _: int) -> Job:
    weights = case.monai_weights

    def call() -> None:
        network = monai_network(case.config)
        network.load_state_dict(torch.load(weights, weights_only=True))

    return call


def _monai_window(case: Case, _: int) -> Job:
    network, x = case.monai, torch.from_numpy(case.x)
    return lambda: slid(network, x)


EAGER = Contestant("eager PyTorch", _eager, by_level=True)
OURS = Contestant("ours, array to labels", _ours, by_level=True, prepares=True, rough=0.35)
FILES = Contestant(
    "ours, file to file", _our_files, by_level=True, prepares=True, ndims=(2,), rough=0.35
)
MONAI_FILES = Contestant("MONAI sliding window, file to file", _monai_files, ndims=(2,), rough=1.6)

CONTESTANTS: dict[str, tuple[Contestant, ...]] = {
    "ours": (OURS,),
    "network": (
        Contestant("ours, network", _bare, by_level=True, prepares=True, rough=0.3),
    ),
    "eager": (EAGER,),
    "onnx": (
        Contestant("ONNX Runtime", _onnx, by_level=True, prepares=True, rough=0.8),
    ),
    "port": (
        Contestant(
            "style of the common ports",
            lambda case, _: _pass(PortStyle(case.config).eval(), case),
            rough=1.25,
        ),
    ),
    "monai": (
        Contestant(
            "MONAI BasicUNetPlusPlus",
            lambda case, _: _pass(case.monai, case),
            rough=1.6,
        ),
    ),
    "window": (
        Contestant(
            "MONAI, sliding window",
            _monai_window,
            rough=1.6,
        ),
    ),
    "smp": (
        Contestant(
            "segmentation_models.pytorch, resnet34",
            lambda case, _: _pass(smp_network(case.config).eval(), case),
            ndims=(2,),
            rough=2.0,
        ),
    ),
    "files": (
        FILES,
        Contestant("ours, file to file, with loading the model", _our_files_anew, prepares=True,
                   ndims=(2,), rough=0.4),
        MONAI_FILES,
        Contestant("MONAI, loading the model alone", _monai_loaded, ndims=(2,), rough=0.001),
    ),
}  # fmt: skip
"""By the name that ``--peers`` takes, in the order of the table."""


def row(contestant: Contestant, level: int) -> str:
    """Return the name of a row of the table."""
    return f"{contestant.title}, L{level}" if contestant.by_level else contestant.title


def absent(peer: str) -> str | None:
    """Return why someone cannot take part, in words; None if nothing is in the way."""
    if peer == "onnx":
        gone = [n for n in ("onnx", "onnxruntime") if importlib.util.find_spec(n) is None]
        return f"ONNX Runtime: {' and '.join(gone)} not installed" if gone else None
    if peer == "smp":
        if importlib.util.find_spec("segmentation_models_pytorch") is None:
            return "segmentation_models.pytorch: not installed"
        try:
            smp_network(model_for("nuclei")[0].card.network)
        except (ImportError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            return f"segmentation_models.pytorch: installed, but does not load ({reason})"
    return None


def works(case: Case, peers: set[str], levels: list[int]) -> dict[str, float]:
    """Return the work of each row relative to ours at the deepest level."""
    macs = {k: multiply_accumulates(case.config, case.shape, k) for k in levels}
    top = macs[max(levels)]
    found: dict[str, float] = {}
    others = {
        "monai": lambda: case.monai,
        "port": lambda: PortStyle(case.config),
        "smp": lambda: smp_network(case.config),
    }
    for peer in peers:
        for one in CONTESTANTS[peer]:
            if one.by_level:
                found |= {row(one, k): macs[k] / top for k in levels}
            elif peer in others and len(case.shape) in one.ndims:
                found[one.title] = work_of(others[peer](), case.config) * case.x.size / top
            elif one.make is _monai_loaded:
                found[one.title] = 0.0
            elif "MONAI" in one.title:
                share = work_of(case.monai, case.config) * case.x.size / top
                found[one.title] = share * windows_share(case.shape)
            else:
                found[one.title] = 1.0
    return found
