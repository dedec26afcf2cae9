"""SNOMED CT names of classes, as Slicer keeps them with a segment.

A class that is not in the table becomes plain "Tissue", as Slicer's own new segments are.
Knows names alone.
"""

from __future__ import annotations

_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGIONS = "Anatomic codes - DICOM master list"
_ANATOMY = "SCT^123037004^Anatomical Structure"
_NOTHING = "^^"

# code, meaning, and the side's code and meaning where there are two.
_RIGHT, _LEFT = "SCT^24028007^Right", "SCT^7771000^Left"
_KNOWN: dict[str, tuple[str, str]] = {
    "brainstem": ("SCT^15926001^Brainstem", ""),
    "spinal cord": ("SCT^2748008^Spinal cord", ""),
    "right parotid": ("SCT^45289007^Parotid gland", _RIGHT),
    "left parotid": ("SCT^45289007^Parotid gland", _LEFT),
    "oesophagus": ("SCT^32849002^Esophagus", ""),
    "larynx": ("SCT^4596009^Larynx", ""),
    "mandible": ("SCT^91609006^Mandible", ""),
}


def entry(name: str) -> str:
    """Return the terminology entry of a class.

    Parameters
    ----------
    name : str
        Of the class, as a model's card spells it.

    Returns
    -------
    str
        Context, category, type, modifier, and an empty anatomic region, joined by "~".
    """
    kind, side = _KNOWN.get(name.strip().lower(), ("", ""))
    category = _ANATOMY
    if not kind:
        category, kind = "SCT^85756007^Tissue", "SCT^85756007^Tissue"
    return "~".join((_CONTEXT, category, kind, side or _NOTHING, _REGIONS, _NOTHING, _NOTHING))
