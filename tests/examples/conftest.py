"""The marker of tests that need trame's own environment."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker, which strict markers ask for."""
    config.addinivalue_line("markers", "trame: drives examples/trame_app.py in a browser")
