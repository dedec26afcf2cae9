"""Errors that a person can act on.

Every error of the package is a :class:`UNetPPError` and a builtin, so that both
``except UNetPPError`` and ``except ValueError`` work. A message is one sentence that says
what was expected, what came, and what to do. None of them is a bare ``RuntimeError``:
thread workers of viewers swallow those. This module knows nothing of the others.
"""

from __future__ import annotations


class UNetPPError(Exception):
    """Base of all errors that the package raises on purpose."""


class InputError(UNetPPError, ValueError):
    """An argument, image or label array is not what was expected."""


class FileError(UNetPPError, OSError):
    """A file or folder cannot be found, read or written."""


class ModelFileError(UNetPPError, ValueError):
    """A model file is foreign, truncated, tampered with, or of an unknown version."""


class DeviceError(UNetPPError, ValueError):
    """The device or the precision that was asked for is not available here."""


class OutOfMemory(UNetPPError, MemoryError):
    """Even the smallest tile does not fit into the memory of any device."""


class MissingPackageError(UNetPPError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""
