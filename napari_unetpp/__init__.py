"""UNet++ for napari, 3D Slicer and the command line. Importing this imports nothing heavy."""

__version__ = "0.1.0"
