"""The napari plug-in: the dock widget, its parts and its settings.

Nothing is imported here, so that napari's manifest can name a module of this package without
loading the others. No module of this package imports torch: the network runs in a worker.
"""
