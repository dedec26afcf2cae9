"""``doctor``: what this machine can do, why not better, and what to do about it.

It must work where almost nothing does: whatever cannot be found out is said, not raised.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import napari_unetpp
from napari_unetpp.cli.common import print_json
from napari_unetpp.cli.options import add_json
from napari_unetpp.core.errors import UNetPPError

_BASE = ("torch", "numpy", "scipy", "scikit-image", "tifffile", "monai", "safetensors")
_EXTRAS = {
    "napari": ("napari", "pyqt6"),
    "cpu": ("openvino",),
    "zarr": ("zarr",),
    "medical": ("nibabel", "pynrrd", "pydicom"),
}
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_LITTLE_MEMORY = 2.0  # GB: the deepest level on a default tile needs about one


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "doctor",
        description="Say which versions, device and precision are used, why not better ones, "
        "and what to do.",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Examine the machine and print what was found."""
    found = examine()
    if args.json:
        print_json(found)
    else:
        print(_text(found))
    return 0


def examine() -> dict[str, Any]:
    """Return what was found as plain JSON values."""
    found: dict[str, Any] = {
        "version": napari_unetpp.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _BASE},
        "extras": {
            extra: {
                "packages": {name: _version(name) for name in names},
                "install": f'pip install "napari-unetpp[{extra}]"',
            }
            for extra, names in _EXTRAS.items()
        },
        "processor": _processor(),
        "memory": _memory(),
        "device": None,
        "backend": None,
        "models": {},
    }
    problem = ""
    try:
        found["device"] = _device()
        found["backend"] = _backend()
        found["models"] = _models()
    except UNetPPError as error:
        problem = f"the device or the models cannot be used: {error}"
    except (ImportError, OSError) as error:
        problem = (
            f"PyTorch cannot be loaded ({str(error).splitlines()[0]}); install it again: "
            "pip install --force-reinstall torch."
        )
    found["advice"] = [problem] if problem else _advice(found)
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    """Return the processor's name, its cores, and what matters for precision."""
    name, flags = platform.processor() or platform.machine(), set()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags |= set(value.split())
    return {
        "name": name,
        "cores": os.cpu_count(),
        # Known from Linux alone; what PyTorch itself found is the reason of the precision.
        "features": {f: f in flags for f in _FEATURES} if flags else None,
    }


def _memory() -> dict[str, float] | None:
    if importlib.util.find_spec("psutil") is None:
        return None
    import psutil

    memory = psutil.virtual_memory()
    return {"total_gb": round(memory.total / 1e9, 1), "free_gb": round(memory.available / 1e9, 1)}


def _device() -> dict[str, Any]:
    import torch

    from napari_unetpp.core.run.runtime import choose_device

    device = choose_device()
    found: dict[str, Any] = {
        "kind": device.kind,
        "name": device.name,
        "reason": device.reason,
        "precision": device.precision,
        "precision_reason": device.precision_reason,
        "threads": torch.get_num_threads(),
        "cuda_build": torch.version.cuda,
    }
    if device.kind == "cuda":
        free, total = torch.cuda.mem_get_info()
        found["memory"] = {"total_gb": round(total / 1e9, 1), "free_gb": round(free / 1e9, 1)}
    return found


def _backend() -> dict[str, Any] | None:
    """Return who computes the first bundled model here, and how fast; measures if need be."""
    from napari_unetpp.core.model.modelfile import bundled_models, load_model
    from napari_unetpp.core.run.runtime import Runner, choose_device

    names = list(bundled_models())
    if not names:
        return None
    name = "nuclei" if "nuclei" in names else names[0]
    choice = Runner(load_model(name), choose_device(), None).choice
    return {
        "name": choice.name,
        "reason": choice.reason,
        "model": name,
        "seconds_per_megapixel": choice.seconds_per_megapixel,
    }


def _models() -> dict[str, str]:
    from napari_unetpp.core.model.modelfile import bundled_models

    return {name: str(path) for name, path in bundled_models().items()}


def _advice(found: Mapping[str, Any]) -> list[str]:
    """Return what would make it better, most important first."""
    advice = []
    device = found["device"]
    nvidia = shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
    if device["kind"] == "cpu" and nvidia:
        advice.append(
            "this machine seems to have an NVIDIA GPU: install a CUDA build of PyTorch as "
            "https://pytorch.org/get-started/locally says."
        )
    if device["kind"] == "cpu" and device["precision"] == "float32":
        advice.append(
            "level 4 takes its time on this processor: begin with --level 1, which costs an "
            "eighth of it."
        )
    memory = found["memory"]
    if memory is not None and memory["free_gb"] < _LITTLE_MEMORY:
        advice.append(
            f"only {memory['free_gb']} GB of memory are free: close other programs, or give a "
            "small --tile."
        )
    if not found["models"]:
        advice.append("no model is bundled: train one with napari-unetpp train.")
    return advice


def _text(found: Mapping[str, Any]) -> str:
    """Return the report that people read."""
    packages = ", ".join(f"{k} {v or 'MISSING'}" for k, v in found["packages"].items())
    lines = [
        f"napari-unetpp {found['version']}, Python {found['python']}, {found['system']}",
        f"packages:   {packages}",
    ]
    for extra, entry in found["extras"].items():
        present = ", ".join(f"{k} {v}" for k, v in entry["packages"].items() if v)
        missing = ", ".join(k for k, v in entry["packages"].items() if not v)
        note = f"missing {missing}: {entry['install']}" if missing else ""
        lines.append(f"  [{extra}]".ljust(12) + "; ".join(t for t in (present, note) if t))
    processor, memory, device = found["processor"], found["memory"], found["device"]
    features = processor["features"]
    known = "" if features is None else ": " + ", ".join(
        f"{name} {'yes' if there else 'no'}" for name, there in features.items()
    )  # fmt: skip
    lines.append(f"processor:  {processor['name']}, {processor['cores']} cores{known}")
    if memory is not None:
        lines.append(f"memory:     {memory['free_gb']} of {memory['total_gb']} GB free")
    if device is not None:
        lines.append(f"device:     {device['kind']} ({device['name']}): {device['reason']}")
        if "memory" in device:
            gpu = device["memory"]
            lines.append(f"            {gpu['free_gb']} of {gpu['total_gb']} GB free")
        why = device["precision_reason"] or "the fastest that the device does in hardware."
        lines.append(f"precision:  {device['precision']}: {why}")
        lines.append(f"threads:    {device['threads']}")
    if (backend := found["backend"]) is not None:
        speeds = ", ".join(
            f"{name} {seconds:.2g} s" for name, seconds in backend["seconds_per_megapixel"].items()
        )
        lines.append(f"backend:    {backend['name']}: {backend['reason']}")
        if speeds:
            lines.append(f"            a megapixel of {backend['model']}, deepest level: {speeds}")
    lines.append(f"models:     {', '.join(found['models']) or 'none'}")
    lines += [f"what to do: {line}" for line in found["advice"] or ["nothing; all is well."]]
    return "\n".join(lines)
