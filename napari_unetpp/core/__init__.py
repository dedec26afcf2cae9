"""The shared core: network, data, running. Never napari, Qt, Slicer or VTK."""
