"""What must be installed, how it is asked for, and whether PyTorch works.

Nothing is installed at import or from a thread: pip runs on the main thread, after a question,
on the first Apply. Packages that Slicer brings are held at their versions, SimpleITK above all:
another one, and Slicer does not start any more. PyTorch is only ever tried in a process of its
own. Knows pip, Slicer's helpers for it and the PyTorch extension; no MRML node, no widget.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from UNetPPLib.Session import slicer_python

PACKAGE = "napari-unetpp"
LEAST_PACKAGE, LEAST_TORCH = "0.1", "2.4"
HELD = ("SimpleITK", "numpy", "scipy", "torch", "vtk", "requests")
"""Packages that no installation of ours may change."""

_PATIENCE_SECONDS = 180.0

_PROBE = """
import json, sys
found = {"python": sys.version.split()[0]}
try:
    import torch
    found["version"] = torch.__version__
    found["cuda"] = bool(torch.cuda.is_available())
    found["built"] = torch.version.cuda or ""
    found["device"] = torch.cuda.get_device_name(0) if found["cuda"] else ""
    mps = getattr(torch.backends, "mps", None)
    found["mps"] = bool(mps and mps.is_available())
    float(torch.ones(2, 2).sum())
except BaseException as error:
    lines = str(error).strip().splitlines()
    found["error"] = f"{type(error).__name__}: {lines[-1] if lines else ''}"
    found["missing"] = isinstance(error, ModuleNotFoundError) and error.name == "torch"
print("\\n" + json.dumps(found))
"""


@dataclass(frozen=True)
class TorchState:
    """What became of trying PyTorch.

    Attributes
    ----------
    works : bool
        Whether the engine can use it.
    text : str
        Version and device, or what is wrong, in a sentence.
    repair : str
        What to do; empty if there is nothing.
    """

    works: bool
    text: str
    repair: str = ""


def checkout() -> Path | None:
    """Return the root of the repository that this module runs from, if it does."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "napari_unetpp" / "__init__.py").is_file() else None


def missing() -> list[str]:
    """Return what has to be installed, as people call it; looks and imports nothing heavy."""
    root = checkout()
    if root is not None and str(root) not in sys.path:
        sys.path.append(str(root))  # a developer's copy goes without being installed
    importlib.invalidate_caches()
    needed = {
        "PyTorch": "torch",
        PACKAGE: "napari_unetpp",
        "appose": "appose",
        "safetensors": "safetensors",
        "scikit-image": "skimage",
        "scikit-learn": "sklearn",
        "MONAI": "monai",
    }
    return [name for name, module in needed.items() if importlib.util.find_spec(module) is None]


def question(names: Sequence[str]) -> str:
    """Return what the user is asked before anything is installed."""
    size = " PyTorch takes one to several gigabytes." if "PyTorch" in names else ""
    return (
        f"UNet++ needs packages that are not in Slicer's Python yet: {', '.join(names)}.{size} "
        "They are downloaded and installed now, which may take some minutes. Packages of Slicer's "
        "own stay as they are. Go on?"
    )


def install(names: Sequence[str], slicer: Any) -> None:
    """Install what is missing; on the main thread, after asking.

    Parameters
    ----------
    names : sequence of str
        From :func:`missing`.
    slicer : module
        Whose ``packaging`` or ``util`` runs pip.

    Raises
    ------
    OSError
        If something cannot be installed, with what to do.
    """
    if "PyTorch" in names:
        install_torch(slicer)
    rest = [n for n in names if n != "PyTorch"]
    if rest:
        pip(requirement(), slicer)
    left = missing()
    if left:
        raise OSError(
            f"{', '.join(left)} could not be installed; look at the Python console for pip's own "
            "words, and restart Slicer before trying again."
        )


def install_torch(slicer: Any) -> None:
    """Install PyTorch: through the PyTorch extension where it is there, with pip elsewhere."""
    try:
        utils = importlib.import_module("PyTorchUtils")
    except ImportError:
        pip([f"torch>={LEAST_TORCH}"], slicer)
        return
    # It chooses the build that fits the GPU and its driver.
    found = utils.PyTorchUtilsLogic().installTorch(
        askConfirmation=False, torchVersionRequirement=f">={LEAST_TORCH}"
    )
    if found is None:
        raise OSError(
            "the PyTorch extension did not install PyTorch; open its module PyTorch Utils, "
            "install it there and try again."
        )


def requirement() -> list[str]:
    """Return what pip installs for our package: without napari and without Qt."""
    root = checkout()
    if root is None:
        return [f"{PACKAGE}>={LEAST_PACKAGE}"]
    # A developer's copy is used as it lies; its dependencies alone are installed.
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [d for d in project["dependencies"] if not d.startswith("torch")]


def pip(requirements: Sequence[str], slicer: Any) -> None:
    """Install requirements with versions of Slicer's own packages held."""
    with tempfile.TemporaryDirectory(prefix="unetpp-") as folder:
        constraints = os.path.join(folder, "constraints.txt")
        Path(constraints).write_text("\n".join(held_versions()) + "\n", encoding="utf-8")
        try:
            packaging = importlib.import_module("slicer.packaging")
        except ImportError:  # before Slicer 5.11
            slicer.util.pip_install(["--constraint", constraints, *requirements])
        else:
            packaging.pip_install(list(requirements), constraints=constraints)


def held_versions() -> list[str]:
    """Return constraints that keep packages of Slicer's own as they are."""
    found = []
    for name in HELD:
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class TorchProbe:
    """PyTorch, tried in a process of its own; poll it, it never waits.

    Parameters
    ----------
    python : str, optional
        Interpreter; the worker's if None.
    """

    def __init__(self, python: str | None = None) -> None:
        self._began = time.monotonic()
        # Not into a pipe, which would have to be read from a thread.
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = ""
        flags = {"creationflags": 0x08000000} if os.name == "nt" else {}  # no console window
        try:
            self._process = subprocess.Popen(
                [python or slicer_python(), "-c", _PROBE],
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUTF8": "1"},
                **flags,  # type: ignore[call-overload]
            )
        except OSError as error:
            self._problem = str(error)

    def poll(self) -> TorchState | None:
        """Return what came out, None while it goes on."""
        if self._process is not None and self._process.poll() is None:
            if time.monotonic() - self._began < _PATIENCE_SECONDS:
                return None
            self._problem = f"it did not answer for {_PATIENCE_SECONDS:.0f} s"
            self.close()
        if self._problem:
            self.close()
            return TorchState(False, f"PyTorch could not be tried: {self._problem}.", _REINSTALL)
        assert self._process is not None
        self._out.seek(0)
        text = self._out.read().decode("utf-8", "replace")
        code = self._process.returncode
        self.close()
        return torch_state(text, code)

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._out.close()


_REINSTALL = (
    "Open the module PyTorch Utils of the PyTorch extension, uninstall PyTorch, restart Slicer "
    "and install it again."
)


def torch_state(
    text: str, code: int | None, has_gpu: Callable[[], bool] | None = None
) -> TorchState:
    """Return what the output of the probe means.

    Parameters
    ----------
    text : str
        What the process printed.
    code : int or None
        How it ended.
    has_gpu : callable, optional
        Whether there is an NVIDIA GPU; looked for if None.
    """
    lines = [line for line in text.splitlines() if line.startswith("{")]
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return TorchState(
            False, f"PyTorch ended its process (exit code {code}) while it loaded.", _REINSTALL
        )
    if found.get("missing"):
        return TorchState(False, "PyTorch is not installed.", "Press Apply to install it.")
    if "error" in found:
        return TorchState(False, f"PyTorch does not load ({found['error']}).", _REINSTALL)
    version = str(found["version"])
    if _numbers(version) < _numbers(LEAST_TORCH):
        return TorchState(
            False, f"PyTorch {version} is too old; {LEAST_TORCH} or newer is needed.", _REINSTALL
        )
    if found["cuda"]:
        return TorchState(True, f"PyTorch {version} on {found['device']}.")
    if found["mps"]:
        return TorchState(True, f"PyTorch {version} on the GPU of this Mac.")
    if (has_gpu or _has_nvidia)():
        why = (
            "this PyTorch is a build for CPUs"
            if not found["built"]
            else f"this PyTorch wants CUDA {found['built']}, which the driver does not offer"
        )
        return TorchState(
            True,
            f"PyTorch {version} on the CPU: there is a GPU, but {why}.",
            "For the GPU, update its driver, or install PyTorch again with the PyTorch extension.",
        )
    return TorchState(True, f"PyTorch {version} on the CPU.")


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split("+")[0].split(".")
    return tuple(int(p) for p in parts[:2] if p.isdigit())


def _has_nvidia() -> bool:
    import shutil

    return shutil.which("nvidia-smi") is not None or os.path.exists("/proc/driver/nvidia/version")
