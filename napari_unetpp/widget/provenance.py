"""How a result layer came about: kept in its metadata as plain JSON values.

Knows nothing of layers but that they have a ``metadata`` dictionary.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

KEY = "napari_unetpp"


@dataclass(frozen=True)
class Provenance:
    """What made a result.

    Attributes
    ----------
    model, model_sha : str
        Name of the model and the hash of its file (empty where unknown).
    level : int or "ensemble"
        Where the network stopped.
    threshold : float
        Probability above which a pixel belongs to a class.
    kind : {"labels", "probabilities", "instances"}
        What was written.
    version : str
        Of this package.
    live : bool
        Whether it shows what was on screen alone.
    """

    model: str
    model_sha: str
    level: int | str
    threshold: float | None
    kind: str
    version: str
    live: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    def continues(self, before: Any) -> bool:
        """Whether results of this and of an earlier run may stand in one layer.

        Objects may not: each run numbers them from 1.
        """
        return (
            self.kind != "instances"
            and isinstance(before, dict)
            and {name: before.get(name) for name in self.to_json()} == self.to_json()
        )
