"""What the panel is set to, kept in a script node and so saved with the scene.

A small typed wrapper: each parameter is an attribute of :class:`Parameters` that reads and
writes the node. A value that a scene file got wrong counts as the default. Nodes are kept as
references, which follow them through saving, loading and importing. Knows MRML; no widget.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import slicer

MODULE = "UNetPP"
REGIONS = ("whole", "roi", "slab")
BACKGROUND = "background"

_log = logging.getLogger("napari_unetpp")
V = TypeVar("V")


class Value(Generic[V]):
    """A parameter as text in the node.

    Parameters
    ----------
    default : object
        Where the node says nothing, or nothing that is valid.
    read : callable
        Text to value; raises ValueError for what is not valid.
    write : callable
        Value to text.
    """

    def __init__(
        self, default: V, read: Callable[[str], V], write: Callable[[V], str] = str
    ) -> None:
        self.default, self._read, self._write = default, read, write

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, kind: type | None = None) -> V:
        if owner is None:
            return self  # type: ignore[return-value]
        text = owner.node.GetParameter(self.name)
        if not text:
            return self.default
        try:
            return self._read(text)
        except (ValueError, TypeError, KeyError):
            _log.warning("the parameter %s of the scene is %r, which is not valid", self.name, text)
            return self.default

    def __set__(self, owner: Any, value: V) -> None:
        text = self._write(value)
        self._read(text)  # refuse what could not be read again
        if owner.node.GetParameter(self.name) != text:
            owner.node.SetParameter(self.name, text)


class NodeValue:
    """A reference to a node of the scene; None if it is not there."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        if owner is None:
            return self
        node = owner.node.GetNodeReference(self.name)
        return node if node is not None and node.IsA(self.kind) else None

    def __set__(self, owner: Any, node: Any) -> None:
        if node is not None and not node.IsA(self.kind):
            raise ValueError(f"{self.name} must be a {self.kind}, got a {node.GetClassName()}.")
        new = None if node is None else node.GetID()
        if owner.node.GetNodeReferenceID(self.name) != new:
            owner.node.SetNodeReferenceID(self.name, new)


def choice(default: str, *allowed: str) -> Value[str]:
    """Return a parameter that is one of some words."""

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(text)
        return text

    return Value(default, read)


def number(default: float, low: float, high: float) -> Value[float]:
    """Return a number within bounds."""

    def read(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(text)
        return value

    return Value(default, read, lambda v: f"{v:.6g}")


def whole(default: int, low: int, high: int) -> Value[int]:
    """Return a whole number within bounds."""

    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Value(default, read)


def switch(default: bool) -> Value[bool]:
    """Return a parameter that is on or off."""
    words = {"true": True, "false": False}
    return Value(default, lambda text: words[text], lambda v: "true" if v else "false")


def table() -> Value[dict[str, Any]]:
    """Return a mapping, kept as JSON."""

    def read(text: str) -> dict[str, Any]:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("not a mapping")
        return found

    return Value({}, read, lambda v: json.dumps(v, sort_keys=True))


class Parameters:
    """The module's parameters in a scene.

    Parameters
    ----------
    node : vtkMRMLScriptedModuleNode
        Where they are kept.
    """

    input_volume = NodeValue("vtkMRMLVolumeNode")
    output_segmentation = NodeValue("vtkMRMLSegmentationNode")
    roi = NodeValue("vtkMRMLNode")
    painted = NodeValue("vtkMRMLSegmentationNode")

    model = Value("ct-head-neck", str)
    level = whole(4, 1, 4)
    ensemble = switch(False)
    #: Each tile at the level that it needs; never together with the ensemble.
    auto = switch(False)
    threshold = number(0.5, 0.01, 0.99)
    own_threshold = switch(False)
    region = choice("whole", *REGIONS)
    slab = number(10.0, 0.1, 1000.0)
    protect = switch(True)
    live = switch(False)

    #: Segment id to class name; "background" is a class.
    classes = table()
    budget = number(30.0, 1.0, 86400.0)
    #: Which painted voxel is on which side, of the last fine-tuning.
    split = table()
    #: What a fine-tuning began with; empty if there was none.
    base = Value("", str)

    def __init__(self, node: Any) -> None:
        self.node = node

    @classmethod
    def of(cls, scene: Any = None) -> Parameters:
        """Return the parameters of a scene, with a node made if there is none."""
        scene = scene or slicer.mrmlScene
        found = scene.GetSingletonNode(MODULE, "vtkMRMLScriptedModuleNode")
        if found is None:
            found = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            found.UnRegister(None)
            found.SetName(MODULE)
            found.SetSingletonTag(MODULE)
            found.SetAttribute("ModuleName", MODULE)
            found.SetModuleName(MODULE)
            found = scene.AddNode(found)
        return cls(found)

    @contextmanager
    def changing(self) -> Any:
        """Make several changes that observers hear as one."""
        modified = self.node.StartModify()
        try:
            yield self
        finally:
            self.node.EndModify(modified)

    def values(self) -> Mapping[str, Any]:
        """Return all of them, nodes as their ids."""
        found: dict[str, Any] = {}
        for name, kind in vars(type(self)).items():
            if isinstance(kind, Value):
                found[name] = getattr(self, name)
            elif isinstance(kind, NodeValue):
                node = getattr(self, name)
                found[name] = None if node is None else node.GetID()
        return found
