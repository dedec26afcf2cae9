"""The state of a training on disk: one safetensors file, written atomically, no pickle.

It holds weights, optimiser state, best weights and progress, so that a killed run goes on
with the same result. Knows tensors and files, not how training works.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from napari_unetpp.core.data.io.atomic import replacing
from napari_unetpp.core.errors import FileError

STATE_FILE = "state.safetensors"
FORMAT = "napari-unetpp training state 1"


@dataclass(frozen=True)
class TrainState:
    """Everything that a training needs to go on.

    Attributes
    ----------
    weights, best : dict of str to Tensor
        State of the network now, and of its best moment so far (empty before the first).
    optimiser : dict of str to Tensor
        AdamW's moments and step counts, flattened as ``"<parameter>.<name>"``.
    progress : dict
        JSON values: step, seconds, history, fingerprint of the configuration ...
    """

    weights: dict[str, Tensor]
    best: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    progress: dict[str, Any] = field(default_factory=dict)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's per-parameter tensors under flat names."""
    state: Mapping[int, Mapping[str, Any]] = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    full = optimiser.state_dict()
    full["state"] = state
    optimiser.load_state_dict(full)
    # A fused step pairs weights and moments by their place in memory and does not look at their
    # strides; what comes from a file is contiguous, channels-last weights are not.
    for weight, values in optimiser.state.items():
        for name, value in values.items():
            if value.shape == weight.shape and value.stride() != weight.stride():
                values[name] = torch.empty_like(weight).copy_(value)


def save_state(path: Path, state: TrainState) -> None:
    """Write a training state; the old file stays until the new one is complete.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for group in ("weights", "best", "optimiser"):
        for name, value in getattr(state, group).items():
            tensors[f"{group}/{name}"] = value.detach().cpu().contiguous().clone()
    header = {"format": FORMAT, "progress": json.dumps(state.progress)}
    with replacing(path) as staged:
        try:
            save_file(tensors, staged, metadata=header)
        except SafetensorError as error:  # how a full disk shows there
            raise OSError(str(error)) from error


def load_state(path: Path) -> TrainState:
    """Read a training state.

    Raises
    ------
    FileError
        If it is missing, foreign or truncated.
    """
    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "optimiser": {}}
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise FileError(
                    f"{path} is not a training state of this version; delete it to start anew."
                )
            for key in file.keys():  # noqa: SIM118 - not a mapping
                group, name = key.split("/", 1)
                groups[group][name] = file.get_tensor(key)
            progress = json.loads(header["progress"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"the training state {path} cannot be read ({error}); delete it to start anew."
        ) from error
    return TrainState(groups["weights"], groups["best"], groups["optimiser"], progress)
