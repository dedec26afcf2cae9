"""Volume nodes to arrays and back: the one place where IJK, RAS and ZYX meet.

An array is (Z, Y, X), which is VTK's K, J, I; a vector volume has its components last. The
affine leads from array indices (z, y, x) to RAS in mm, through linear parent transforms as
well: hardening a transform changes no result. Knows MRML and arrays; no engine, no window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import slicer
import vtk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_unetpp.engine.protocol import LayerSource

# One volume node that holds many volumes.
_MANY = {
    "vtkMRMLMultiVolumeNode": "a multi-volume of several time points",
    "vtkMRMLDiffusionWeightedVolumeNode": "a diffusion series of several volumes",
    "vtkMRMLDiffusionTensorVolumeNode": "a tensor at each voxel",
}
_COLOURS = (3, 4)


def refusal(sentence: str) -> Exception:
    """Return the package's error for what cannot be taken as it is."""
    from napari_unetpp.core.errors import InputError

    return InputError(sentence)


@dataclass(frozen=True, eq=False)
class VolumeImage:
    """The voxels of a volume node, and where they lie.

    Attributes
    ----------
    array : ndarray
        (Z, Y, X), or (Z, Y, X, components) of a vector volume. The node's own memory: it is
        read while a run goes on, and never written.
    axes : str
        "ZYX", "ZYXS" for colours, "ZYXC" for other vectors.
    affine : ndarray
        4x4, array index (z, y, x, 1) to RAS in mm.
    name : str
        Of the node.
    key : str
        Another one for other voxels or another place.
    notes : tuple of str
        Sentences that the user should read.
    """

    array: NDArray[Any]
    axes: str
    affine: NDArray[np.float64]
    name: str
    key: str
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        z, y, x = (int(n) for n in self.array.shape[:3])
        return z, y, x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel in mm, (Z, Y, X)."""
        import numpy as np

        z, y, x = (float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))
        return z, y, x

    def source(self) -> LayerSource:
        """Return the image as the engine takes it."""
        from napari_unetpp.engine.protocol import LayerSource

        return LayerSource(
            self.array, self.axes, self.spacing, "mm", self.affine, self.name, self.key
        )


def read(volume: Any) -> VolumeImage:
    """Return the voxels of a volume node.

    Parameters
    ----------
    volume : vtkMRMLVolumeNode
        Scalar, vector or labelmap volume.

    Returns
    -------
    VolumeImage
        Its array is a view of the node's memory.

    Raises
    ------
    InputError
        If there is no volume, it is empty, or it is a series of volumes.
    """
    import numpy as np

    problem = problem_of(volume)
    if problem:
        raise refusal(problem)
    name, image = volume.GetName() or "volume", volume.GetImageData()
    array = image_array(image)
    components = array.shape[3] if array.ndim == 4 else 1
    colours = components in _COLOURS and array.dtype == np.uint8
    axes = "ZYX" if array.ndim == 3 else "ZYXS" if colours else "ZYXC"
    affine, notes = affine_of(volume)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise refusal(
            f"{name} has no volume in space (its axes lie in one plane, or a spacing is 0); "
            "correct it in the Volumes module."
        )
    place = ",".join(f"{v:.6g}" for v in affine[:3].ravel())
    key = f"{volume.GetID()} {image.GetMTime()} {place}"
    return VolumeImage(array, axes, affine, name, key, notes)


def problem_of(volume: Any) -> str:
    """Return why a node cannot be taken as a volume, in one sentence; empty if it can."""
    if volume is None:
        return "There is no volume: load a CT, or choose one."
    name = volume.GetName() or "the node"
    if volume.IsA("vtkMRMLSequenceNode"):
        return (
            f"{name} is a 4D sequence, and one volume is segmented at a time; choose a time "
            "point in the Sequences module, clone that volume and choose the clone."
        )
    if not volume.IsA("vtkMRMLVolumeNode"):
        return f"{name} is no volume; choose a scalar, vector or labelmap volume."
    many = _MANY.get(volume.GetClassName())
    if many:
        return f"{name} holds {many}, and one volume is segmented at a time; extract one of them."
    if _shows_sequence(volume):
        return (
            f"{name} shows one time point of a 4D sequence and would change under the result; "
            "clone the volume in the Data module and choose the clone."
        )
    image = volume.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or 0 in image.GetDimensions():
        return f"{name} has no voxels; load its image first."
    return ""


def _shows_sequence(volume: Any) -> bool:
    scene = volume.GetScene()
    if scene is None:
        return False
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(n, "vtkMRMLSequenceBrowserNode")
        if browser.GetSequenceNode(volume) is not None:
            return True
    return False


def image_array(image: Any) -> NDArray[Any]:
    """Return VTK's voxels as (Z, Y, X) or (Z, Y, X, components), without copying them."""
    from vtk.util.numpy_support import vtk_to_numpy

    # The array holds on to the scalars, so VTK gives a volume that changes new ones.
    flat = vtk_to_numpy(image.GetPointData().GetScalars())
    x, y, z = image.GetDimensions()
    array: NDArray[Any] = flat.reshape(z, y, x, *flat.shape[1:])
    return array


def matrix_array(matrix: Any) -> NDArray[np.float64]:
    """Return a vtkMatrix4x4 as an array of its own."""
    import numpy as np

    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def array_matrix(array: NDArray[Any]) -> Any:
    """Return a 4x4 array as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    for r in range(4):
        for c in range(4):
            matrix.SetElement(r, c, float(array[r, c]))
    return matrix


def affine_of(volume: Any) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return array index (z, y, x, 1) to RAS in mm, and notes.

    Linear parent transforms are in it; one that bends is left out and said so.
    """
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    affine = matrix_array(matrix)
    notes: tuple[str, ...] = ()
    parent = volume.GetParentTransformNode()
    if parent is not None:
        if parent.IsTransformToWorldLinear():
            parent.GetMatrixTransformToWorld(matrix)
            affine = matrix_array(matrix) @ affine
        else:
            notes = (
                f"{volume.GetName()} is under {parent.GetName()}, which bends space; it was "
                "segmented as it is without the transform, and the result is under it too.",
            )
    return affine[:, [2, 1, 0, 3]], notes  # I, J, K -> Z, Y, X


def local_affine(volume: Any) -> NDArray[np.float64]:
    """Return array index (z, y, x, 1) to the volume's own RAS, without parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix_array(matrix)[:, [2, 1, 0, 3]]


def oriented_image(
    volume: Any, array: NDArray[Any], start: tuple[int, int, int] = (0, 0, 0)
) -> Any:
    """Return an array as a vtkOrientedImageData on the grid of a volume.

    Parameters
    ----------
    volume : vtkMRMLVolumeNode
        Whose grid it is; parent transforms are not in it.
    array : ndarray of uint8, (Z, Y, X)
        Values, copied.
    start : tuple of int
        Where the array's first voxel lies in the volume, (Z, Y, X).
    """
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*extent_of(start, array.shape))
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image_array(image)[:] = array
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    image.SetImageToWorldMatrix(matrix)
    return image


def extent_of(start: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return VTK's extent (i0, i1, j0, j1, k0, k1) of a block given in Z, Y, X."""
    z, y, x = ((int(a), int(a) + int(n) - 1) for a, n in zip(start, shape, strict=True))
    return (*x, *y, *z)


def add_volume(array: NDArray[Any], like: Any, name: str, labels: bool = False) -> Any:
    """Add a volume node on the grid of another one, under the same transform.

    Parameters
    ----------
    array : ndarray, (Z, Y, X)
        Voxels, copied.
    like : vtkMRMLVolumeNode
        Whose grid and parent transform are taken.
    name : str
        Of the new node.
    labels : bool
        Make a labelmap volume.
    """
    if array.shape[:3] != image_array(like.GetImageData()).shape[:3]:
        raise refusal(
            f"an array of the shape of {like.GetName()} was expected, got "
            f"{'x'.join(map(str, array.shape))}; give one voxel for each of the volume's."
        )
    kind = "vtkMRMLLabelMapVolumeNode" if labels else "vtkMRMLScalarVolumeNode"
    node = like.GetScene().AddNewNodeByClass(kind, name)
    matrix = vtk.vtkMatrix4x4()
    like.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    slicer.util.updateVolumeFromArray(node, array)
    node.SetAndObserveTransformNodeID(like.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    return node
