"""PythonQt's manners on PySide6, and the few qMRML and ctk widgets that the panel uses.

Written for these tests. In Slicer a Qt property is read and written as an attribute
(``box.checked``), a signal is connected by its C++ signature, and dialogs return a path alone.
:func:`install` puts modules ``qt``, ``ctk``, ``slicer.ScriptedLoadableModule`` and ``slicer.i18n``
where the application has them. Only for a process of its own: PySide6 and PyQt6 do not mix.
"""

from __future__ import annotations

import os
import sys
import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

# Properties that Qt reads through a virtual function, for which PySide looks here again.
_VIRTUAL = ("sizeHint", "minimumSizeHint")
_VIRTUAL_OF_BARS = (*_VIRTUAL, "text")


class PythonQt:
    """Mix-in: properties as attributes, and connect() by signature."""

    def __getattribute__(self, name: str) -> Any:
        plain = super().__getattribute__
        if name.startswith("_"):
            return plain(name)
        if name == "connect":
            return types.MethodType(connect, self)
        if name == "name":
            name = "objectName"
        bar = isinstance(self, QtWidgets.QProgressBar)
        virtual = _VIRTUAL_OF_BARS if bar else _VIRTUAL
        if name not in virtual and plain("metaObject")().indexOfProperty(name) >= 0:
            return plain("property")(name)
        return plain(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "name":
            name = "objectName"
        here = object.__getattribute__(self, "metaObject")()
        if not name.startswith("_") and here.indexOfProperty(name) >= 0:
            self.setProperty(name, value)  # type: ignore[attr-defined]
        else:
            super().__setattr__(name, value)


def connect(self: Any, signature: str, slot: Callable[..., Any]) -> bool:
    """Connect a signal, named with its arguments as in C++."""
    name, _, arguments = signature.partition("(")
    signal = getattr(self, name)
    # A slot of Python gets as many arguments as the signature names.
    if arguments.rstrip(")"):
        signal.connect(lambda *values: slot(*values))
    else:
        signal.connect(lambda *_: slot())
    return True


qt, ctk = types.ModuleType("qt"), types.ModuleType("ctk")
for _module in (QtCore, QtGui, QtWidgets):
    for _name in dir(_module):
        _kind = getattr(_module, _name)
        if not _name.startswith("Q"):
            continue
        if isinstance(_kind, type) and issubclass(_kind, (QtWidgets.QWidget, QtCore.QTimer)):
            _kind = type(_name, (PythonQt, _kind), {})
        setattr(qt, _name, _kind)
qt.Qt = QtCore.Qt  # type: ignore[attr-defined]
# Enumerations are plain attributes of Qt there.
QtCore.Qt.ItemIsEnabled = QtCore.Qt.ItemFlag.ItemIsEnabled  # type: ignore[attr-defined]


class FileDialog:
    """Dialogs that answer what a test has put into `answers`, a path and nothing else."""

    answers: ClassVar[list[str]] = []

    @classmethod
    def _next(cls, *_: Any) -> str:
        return cls.answers.pop(0)

    getOpenFileName = getSaveFileName = getExistingDirectory = _next


qt.QFileDialog = FileDialog  # type: ignore[attr-defined]


class SceneWidget(qt.QWidget):  # type: ignore[misc,name-defined]
    """A widget that is told its scene."""

    mrmlSceneChanged = QtCore.Signal(object)

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return getattr(self, "_scene", None)


class qMRMLWidget(SceneWidget):
    """The panel's outermost widget."""


def _flag(name: str) -> Any:
    attribute = f"_{name}"
    return QtCore.Property(
        bool,
        lambda self: getattr(self, attribute, False),
        lambda self, value: setattr(self, attribute, value),
    )


class qMRMLNodeComboBox(SceneWidget):
    """Nodes of some classes of the real scene."""

    currentNodeChanged = QtCore.Signal(object)
    nodeTypes = QtCore.Property(
        "QStringList", lambda self: self._types, lambda self, value: self._set_types(value)
    )
    noneDisplay = QtCore.Property(
        str, lambda self: self._none_text, lambda self, value: setattr(self, "_none_text", value)
    )
    noneEnabled, addEnabled, removeEnabled = (
        _flag("none"), _flag("add"), _flag("remove"),
    )  # fmt: skip
    renameEnabled, showChildNodeTypes = _flag("rename"), _flag("children")

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._types: list[str] = []
        self._none_text = "None"
        self._node: Any = None
        self._tags: list[tuple[Any, int]] = []
        self._combo = QtWidgets.QComboBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._combo.activated.connect(lambda k: self.setCurrentNode(self._listed[k]))
        self._listed: list[Any] = []

    def _set_types(self, types: list[str]) -> None:
        self._types = list(types)
        self._refresh()

    def setMRMLScene(self, scene: Any) -> None:
        for thing, tag in self._tags:
            thing.RemoveObserver(tag)
        self._tags = []
        super().setMRMLScene(scene)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent):
            self._tags.append((scene, scene.AddObserver(event, self._refresh)))
        self._refresh()

    def _refresh(self, *_: Any) -> None:
        scene = self.mrmlScene()
        if scene is None:
            return
        nodes = [
            scene.GetNthNodeByClass(n, kind)
            for kind in self._types
            for n in range(scene.GetNumberOfNodesByClass(kind))
        ]
        nodes = [
            n
            for k, n in enumerate(nodes)
            if not n.GetHideFromEditors()
            and n not in nodes[:k]
            and (self.property("showChildNodeTypes") or n.GetClassName() in self._types)
        ]
        self._listed = ([None] if self.property("noneEnabled") else []) + nodes
        self._combo.clear()
        for node in self._listed:
            self._combo.addItem(self._none_text if node is None else node.GetName())
        if self._node is not None and self._node not in nodes:
            self.setCurrentNode(None)
        if self._node is None and nodes and not self.property("noneEnabled"):
            self.setCurrentNode(nodes[0])
        self._mark()

    def _mark(self) -> None:
        place = next((k for k, n in enumerate(self._listed) if n is self._node), -1)
        self._combo.setCurrentIndex(place)

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        if node is self._node:
            return
        self._node = node
        self._mark()
        self.currentNodeChanged.emit(node)


class ctkSliderWidget(qt.QWidget):  # type: ignore[misc,name-defined]
    """A slider with a box for its number."""

    valueChanged = QtCore.Signal(float)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._box = QtWidgets.QDoubleSpinBox()
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._slider.valueChanged.connect(lambda k: self._box.setValue(k * self._box.singleStep()))
        self._box.valueChanged.connect(self._changed)

    def _changed(self, value: float) -> None:
        self._slider.blockSignals(True)
        self._slider.setValue(round(value / self._box.singleStep()))
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _bound(self) -> None:
        step = self._box.singleStep()
        self._slider.setRange(round(self._box.minimum() / step), round(self._box.maximum() / step))

    value = QtCore.Property(
        float, lambda self: self._box.value(), lambda self, v: self._box.setValue(v)
    )
    minimum = QtCore.Property(
        float,
        lambda self: self._box.minimum(),
        lambda self, v: (self._box.setMinimum(v), self._bound()),
    )
    maximum = QtCore.Property(
        float,
        lambda self: self._box.maximum(),
        lambda self, v: (self._box.setMaximum(v), self._bound()),
    )
    singleStep = QtCore.Property(
        float,
        lambda self: self._box.singleStep(),
        lambda self, v: (self._box.setSingleStep(v), self._bound()),
    )
    decimals = QtCore.Property(
        int, lambda self: self._box.decimals(), lambda self, v: self._box.setDecimals(v)
    )


class ctkCollapsibleButton(qt.QGroupBox):  # type: ignore[misc,name-defined]
    """A titled group that folds."""

    text = QtCore.Property(
        str,
        lambda self: QtWidgets.QGroupBox.title(self),
        lambda self, value: QtWidgets.QGroupBox.setTitle(self, value),
    )
    collapsed = QtCore.Property(
        bool,
        lambda self: getattr(self, "_collapsed", False),
        lambda self, value: setattr(self, "_collapsed", value),
    )


CUSTOM = {
    kind.__name__: kind
    for kind in (qMRMLWidget, qMRMLNodeComboBox, ctkSliderWidget, ctkCollapsibleButton)
}


class UiLoader(QtUiTools.QUiLoader):
    """Loads a ``.ui`` with the widgets above, and wires its own connections."""

    def createWidget(self, kind: str, parent: Any = None, name: str = "") -> Any:
        found = CUSTOM.get(kind) or getattr(qt, kind, None)
        if found is None:
            raise LookupError(f"there is no stand-in for {kind}")
        widget = found(parent)
        widget.setObjectName(name)
        return widget


def load_ui(path: str) -> Any:
    """Return the widget of a ``.ui`` file."""
    top = UiLoader().load(path)

    def part(element: Any) -> Any:
        return (
            top if element.text == top.objectName else top.findChild(QtCore.QObject, element.text)
        )

    for connection in ElementTree.parse(path).iter("connection"):
        sender, receiver = part(connection.find("sender")), part(connection.find("receiver"))
        signal = connection.find("signal").text.partition("(")[0]  # type: ignore[union-attr]
        slot = connection.find("slot").text.partition("(")[0]  # type: ignore[union-attr]
        getattr(sender, signal).connect(getattr(receiver, slot))
    return top


def child_widgets(top: Any) -> Any:
    """Return a namespace of all widgets that have a name, as slicer.util gives it."""
    found = types.SimpleNamespace()
    for widget in top.findChildren(QtWidgets.QWidget):
        name = QtCore.QObject.objectName(widget)
        if name and not name.startswith("qt_"):
            setattr(found, name, widget)
    return found


class ScriptedLoadableModule:
    """Base of a module's entry."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    """Base of a module's panel."""

    def __init__(self, parent: Any = None) -> None:
        self.parent = parent or qt.QWidget()  # type: ignore[attr-defined]
        self.layout = QtWidgets.QVBoxLayout(self.parent)
        self.resources = Path(__file__).resolve().parents[3] / "slicer_module" / "Resources"

    def setup(self) -> None:
        """Do nothing: Slicer adds its reload buttons here."""

    def resourcePath(self, name: str) -> str:
        """Return where a resource lies."""
        return str(self.resources / name)


class ScriptedLoadableModuleTest:
    """Base of a module's test."""


def install() -> QtWidgets.QApplication:
    """Put everything where the application has it; return the Qt application."""
    import slicer
    import slicer.util

    app = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["slicer-test"])
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    base = types.ModuleType("slicer.ScriptedLoadableModule")
    for kind in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleTest,
    ):
        setattr(base, kind.__name__, kind)
    sys.modules["slicer.ScriptedLoadableModule"] = base
    words = types.ModuleType("slicer.i18n")
    words.tr = lambda text: text  # type: ignore[attr-defined]
    words.translate = lambda context, text: text  # type: ignore[attr-defined]
    sys.modules["slicer.i18n"] = words
    slicer.util.loadUI = load_ui
    slicer.util.childWidgetVariables = child_widgets
    return app
