"""Make the pictures of the 3D Slicer module for the docs, without Slicer and without a screen.

    .venv/bin/python scripts/slicer_pictures.py views docs/images/slicer-views.png
    QT_API=pyside6 .venv/bin/python scripts/slicer_pictures.py panel docs/images/slicer-panel.png

``views`` runs the shipped logic on Slicer's MRML libraries and draws three slices and the surfaces
with VTK; ``panel`` loads the shipped ``.ui`` on the tests' stand-in for PythonQt. The CT is the
made-up one of ``sample_data``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [
    str(ROOT / "slicer_module"),
    str(ROOT / "tests" / "slicer"),
    str(ROOT / "tests" / "slicer" / "standin"),
]

SIDE = 360


def sample(name: str = "ct_head_neck") -> Any:
    """Return the made-up CT as a volume node."""
    import slicer

    from napari_unetpp.core.data.geometry import grid_of
    from napari_unetpp.core.data.io import read_image
    from napari_unetpp.core.model.cards import read_card

    image = read_image(ROOT / "sample_data" / f"{name}.nii.gz")
    grid, _ = grid_of(image, read_card("ct-head-neck"))
    array = np.ascontiguousarray(image.data[...])
    return slicer.util.addVolumeFromArray(array, grid.affine[:, [2, 1, 0, 3]], "CT head and neck")


def views(target: Path) -> None:
    """Draw axial, coronal and sagittal slices and the surfaces."""
    import slicer
    import vtk
    from slicer_helpers import bootstrap
    from UNetPPLib import Segments, Volumes
    from UNetPPLib.Logic import UNetPPLogic

    scene = bootstrap()
    volume = sample()
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    logic = UNetPPLogic()
    result = logic.segment(volume, segmentation, level=4, progress=print)
    print({k: v for k, v in result["voxels"].items() if v})
    segmentation.CreateClosedSurfaceRepresentation()
    logic.close()

    surfaces = []
    for found in Segments.ids_of(segmentation):
        poly = vtk.vtkPolyData()
        segmentation.GetClosedSurfaceRepresentation(found, poly)
        colour = segmentation.GetSegmentation().GetSegment(found).GetColor()
        surfaces.append((poly, colour))
    middle = Volumes.read(volume)
    labels = np.zeros(middle.shape, bool)
    for found in Segments.ids_of(segmentation):
        labels |= Segments.segment_array(segmentation, found, volume)
    centre = [int(np.median(axis)) for axis in np.nonzero(labels)]
    point = (middle.affine @ (*centre, 1))[:3]

    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(2 * SIDE, 2 * SIDE)
    corners = {"axial": (0, 0.5), "coronal": (0.5, 0.5), "sagittal": (0, 0), "3d": (0.5, 0)}
    # Normal, and the direction that is up on the screen; seen as Slicer shows them.
    planes = {
        "axial": ((0, 0, 1), (0, 1, 0), (0, 0, -1)),
        "coronal": ((0, 1, 0), (0, 0, 1), (0, 1, 0)),
        "sagittal": ((1, 0, 0), (0, 0, 1), (-1, 0, 0)),
    }
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    for name, (left, bottom) in corners.items():
        renderer = vtk.vtkRenderer()
        renderer.SetViewport(left, bottom, left + 0.5, bottom + 0.5)
        renderer.SetBackground(*((0, 0, 0) if name != "3d" else (0.62, 0.65, 0.83)))
        window.AddRenderer(renderer)
        if name == "3d":
            for poly, colour in surfaces:
                renderer.AddActor(actor(poly, colour))
            camera = renderer.GetActiveCamera()
            camera.SetPosition(point[0] - 250, point[1] + 420, point[2] + 120)
            camera.SetFocalPoint(*point)
            camera.SetViewUp(0, 0, 1)
            renderer.ResetCamera()
            camera.Zoom(1.2)
            continue
        normal, up, look = planes[name]
        renderer.AddActor(slice_actor(volume, point, normal))
        for poly, colour in surfaces:
            plane = vtk.vtkPlane()
            plane.SetOrigin(*point)
            plane.SetNormal(*normal)
            cut = vtk.vtkCutter()
            cut.SetInputData(poly)
            cut.SetCutFunction(plane)
            cut.Update()
            line = actor(cut.GetOutput(), colour)
            line.GetProperty().SetLineWidth(3)
            line.GetProperty().LightingOff()
            line.AddPosition(*(-3.0 * np.array(look)))  # in front of the slice
            renderer.AddActor(line)
        camera = renderer.GetActiveCamera()
        camera.ParallelProjectionOn()
        whole = np.array([(bounds[2 * k] + bounds[2 * k + 1]) / 2 for k in range(3)])
        whole[np.abs(normal).astype(bool)] = point[np.abs(normal).astype(bool)]
        camera.SetFocalPoint(*whole)
        camera.SetPosition(*(whole - 500 * np.array(look)))
        camera.SetViewUp(*up)
        camera.SetParallelScale(115)
        renderer.ResetCameraClippingRange()
    window.Render()
    shot = vtk.vtkWindowToImageFilter()
    shot.SetInput(window)
    shot.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(target))
    writer.SetInputConnection(shot.GetOutputPort())
    writer.Write()
    slicer.mrmlScene.Clear(0)


def actor(poly: Any, colour: tuple[float, ...]) -> Any:
    """Return a surface or a line as something to draw."""
    import vtk

    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputData(poly)
    mapper.ScalarVisibilityOff()
    found = vtk.vtkActor()
    found.SetMapper(mapper)
    found.GetProperty().SetColor(*colour)
    return found


def slice_actor(volume: Any, point: Any, normal: tuple[int, ...]) -> Any:
    """Return a slice of a volume through a point, in a window for soft tissue."""
    import vtk

    mapper = vtk.vtkImageResliceMapper()
    image = vtk.vtkImageData()
    image.ShallowCopy(volume.GetImageData())
    mapper.SetInputData(image)
    plane = vtk.vtkPlane()
    plane.SetOrigin(*point)
    plane.SetNormal(*normal)
    mapper.SetSlicePlane(plane)
    found = vtk.vtkImageSlice()
    found.SetMapper(mapper)
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    found.SetUserMatrix(matrix)
    low, high = np.percentile(np.asarray(volume.GetImageData().GetScalarRange()), (0, 100))
    found.GetProperty().SetColorWindow(500 if high > 1500 else high - low)
    found.GetProperty().SetColorLevel(1090 if low >= 0 else 60)
    return found


def panel(target: Path) -> None:
    """Show the panel with a CT and painted segments, after a run."""
    import pythonqt

    app = pythonqt.install()
    from slicer_helpers import bootstrap, paint
    from UNetPPLib import Segments
    from UNetPPLib.Widget import UNetPPWidget

    scene = bootstrap()
    red = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    red.SetOrientationToAxial()
    volume = sample()
    widget = UNetPPWidget()
    widget.setup()
    painted = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "painted")
    Segments.make_ready(painted, volume)
    stroke = np.zeros(volume.GetImageData().GetDimensions()[::-1], bool)
    stroke[5, 5:9, 5:9] = True
    for name in ("background", "mandible", "tumour"):
        paint(painted, painted.GetSegmentation().AddEmptySegment("", name), volume, stroke)
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.paintedSelector.setCurrentNode(painted)

    def pump(until: Any) -> None:
        while not until():
            app.processEvents()
            time.sleep(0.01)

    pump(lambda: widget.torch is not None)
    widget.ui.applyButton.click()
    pump(lambda: not widget.segment.running)
    widget.ui.classTable.setColumnWidth(0, 140)
    widget.ui.classTable.setColumnWidth(1, 190)
    widget.parent.setFixedWidth(430)
    widget.parent.show()
    app.processEvents()
    widget.parent.adjustSize()
    app.processEvents()
    widget.parent.grab().save(str(target))
    print(widget.ui.statusLabel.text)
    widget.cleanup()


def main() -> None:
    """Make the picture that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("views", "panel"))
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    {"views": views, "panel": panel}[args.what](args.target)


if __name__ == "__main__":
    main()
