r"""The test in the real application: a made-up CT through the panel's own logic and widgets.

Run it in Slicer's Python console (``slicer.util.selectModule("UNetPP")``, then Reload and Test in
the developer section), or from a terminal::

    Slicer --testing --additional-module-paths /path/to/slicer_module \
        --python-script /path/to/slicer_module/Testing/Python/UNetPPSelfTest.py

It has not been run yet by those who wrote it: there is no Slicer application on their machines.
"""

import sys
import tempfile
import time

import slicer


def made_ct():
    """Return a made-up head: tissue, a jaw of bone, air around; (Z, Y, X), HU."""
    import numpy as np

    z, y, x = np.mgrid[:40, :64, :64]
    head = ((y - 32) / 26) ** 2 + ((x - 32) / 22) ** 2 < 1
    ring = ((y - 26) / 16) ** 2 + ((x - 32) / 15) ** 2
    jaw = (ring < 1) & (ring > 0.6) & (y < 26) & (z > 8) & (z < 18)
    ct = np.where(head, 40, -1000)
    return np.where(jaw, 900, ct).astype(np.int16)


def run(test=None):
    """Segment, undo, save, load and cancel; raises AssertionError where something is wrong."""
    import numpy as np
    from UNetPPLib import Setup
    from UNetPPLib.Logic import UNetPPLogic
    from UNetPPLib.Parameters import Parameters

    missing = Setup.missing()
    assert not missing, f"install first, with Apply in the panel: {', '.join(missing)}"

    volume = slicer.util.addVolumeFromArray(
        made_ct(), np.diag([-4.0, -4.0, 3.0, 1.0]), "made-up CT"
    )
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    logic = UNetPPLogic()
    result = logic.segment(volume, segmentation, model="ct-head-neck", level=1)
    inside = segmentation.GetSegmentation()
    assert inside.GetNumberOfSegments() == len(result["segments"]) == 7
    assert inside.GetSegmentIdBySegmentName("mandible") == result["segments"]["mandible"]
    assert "torch" not in sys.modules, "the network must stay out of Slicer's process"
    assert logic.undo(segmentation)
    assert inside.GetNumberOfSegments() == 0

    slicer.util.selectModule("UNetPP")
    widget = slicer.modules.unetpp.widgetRepresentation().self()
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.outputSelector.setCurrentNode(segmentation)
    widget.ui.levelSlider.value = 1
    widget.ui.applyButton.click()
    end = time.monotonic() + 120
    while widget.segment.running and time.monotonic() < end:
        slicer.app.processEvents()
    assert inside.GetNumberOfSegments() == 7, widget.ui.statusLabel.text

    with tempfile.TemporaryDirectory(prefix="unetpp café ") as folder:
        assert slicer.util.saveScene(f"{folder}/scene.mrb")
        slicer.mrmlScene.Clear()
        slicer.util.loadScene(f"{folder}/scene.mrb")
    assert Parameters.of().level == 1
    assert Parameters.of().output_segmentation is not None
    if test is not None:
        test.delayDisplay("Test passed")


if __name__ == "__main__":
    try:
        run()
    except Exception:
        import traceback

        traceback.print_exc()
        slicer.util.exit(1)
    slicer.util.exit(0)
