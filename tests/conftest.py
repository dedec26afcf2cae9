"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# Tests compare with PyTorch to the last bit, and write nothing into the user's cache folder; those
# of other backends ask for them. Worker processes inherit it.
os.environ["NAPARI_UNETPP_BACKEND"] = "torch"

# A slow machine is no defect; in CI the same examples run every time.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def repository_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real images beside the checkout; they are not in the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images: there is no folder {folder} (see sample_data/README.md)")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20180720)
