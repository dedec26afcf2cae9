"""UNet++ segmentation: the entry of the module, which Slicer loads at its start.

Kept short, for everything here costs start-up time; the rest is in ``UNetPPLib``.
"""

import os

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest
from UNetPPLib.Logic import UNetPPLogic
from UNetPPLib.Widget import UNetPPWidget

__all__ = ["UNetPP", "UNetPPLogic", "UNetPPTest", "UNetPPWidget"]


class UNetPP(ScriptedLoadableModule):  # type: ignore[misc]
    """What the module is called, and who made it."""

    def __init__(self, parent: object) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("UNet++ Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["napari-unetpp contributors"]
        self.parent.helpText = _(
            "Segments a volume with a UNet++ at the level that there is time for, L1 to L4, and "
            "fine-tunes it on a few painted strokes. Not a medical device."
        )
        self.parent.acknowledgementText = _(
            "UNet++: Zhou, Siddiquee, Tajbakhsh and Liang, IEEE TMI 2020. The bundled CT model was "
            "trained on OpenKBP (Babier et al. 2021)."
        )


class UNetPPTest(ScriptedLoadableModuleTest):  # type: ignore[misc]
    """The test in the real application: ``Testing/Python/UNetPPSelfTest.py``."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run it."""
        self.setUp()
        import importlib.util

        path = os.path.join(os.path.dirname(__file__), "Testing", "Python", "UNetPPSelfTest.py")
        spec = importlib.util.spec_from_file_location("UNetPPSelfTest", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.run(self)
