"""What the UNet++ module of 3D Slicer is made of.

``Logic`` works on MRML nodes and the engine and needs no window, ``Widget`` is the panel.
Importing any of it loads neither torch nor NumPy: those come with the first use.
"""
