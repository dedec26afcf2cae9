"""The engine: a small client without torch, and a worker process that computes.

A viewer imports :mod:`napari_unetpp.engine.client` and :mod:`napari_unetpp.engine.protocol`;
the core, torch and the warm model live in the worker (:mod:`napari_unetpp.engine.worker`).
Knows no napari, no Qt and no 3D Slicer.
"""
