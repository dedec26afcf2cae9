"""Requests, indices and errors as JSON values, the same on both sides.

Knows the protocol; no process, no memory, no torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from napari_unetpp.core.axes import Index
from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.model.cards import resolve
from napari_unetpp.engine.protocol import (
    SCRATCH,
    EngineError,
    LayerSource,
    ModelRequest,
    PaintedSource,
    RunRequest,
    SuggestRequest,
    TuneRequest,
    ViewRequest,
)

Message = dict[str, Any]
Request = ModelRequest | RunRequest | ViewRequest | SuggestRequest | TuneRequest


def from_source(source: LayerSource, number: int = 0) -> Message:
    """Return what the worker must know of a source: all but its pixels.

    Parameters
    ----------
    source : LayerSource
        The source.
    number : int
        Its place among those of its job, by which the worker asks for pixels.

    Raises
    ------
    EngineError
        If its data is no array.
    """
    data = source.data
    try:
        shape = [int(n) for n in data.shape]
        dtype = np.dtype(data.dtype).str
    except (AttributeError, TypeError, ValueError) as error:
        raise EngineError(
            f"{source.name} must be an array of numbers, got {type(data).__name__} "
            f"({error}); give a numpy, dask or zarr array.",
            "input",
        ) from error
    affine = None if source.affine is None else np.asarray(source.affine, np.float64).tolist()
    return {
        "number": number,
        "shape": shape,
        "dtype": dtype,
        "axes": source.axes,
        "spacing": None if source.spacing is None else [float(s) for s in source.spacing],
        "unit": source.unit,
        "affine": affine,
        "name": source.name,
        "key": source.key,
    }


def from_pairs(pairs: Sequence[PaintedSource]) -> tuple[list[Message], list[Any]]:
    """Return images and painted labels as JSON values, and the arrays to serve, by number.

    Raises
    ------
    EngineError
        If the data of one is no array.
    """
    arrays: list[Any] = []

    def described(one: LayerSource | str) -> Message:
        if not isinstance(one, LayerSource):
            return {"path": os.path.abspath(one)}
        arrays.append(one.data)
        return from_source(one, len(arrays) - 1)

    messages = [
        {
            "name": pair.name,
            "channel": plain(pair.channel),
            "image": described(pair.image),
            "painted": described(pair.painted),
        }
        for pair in pairs
    ]
    return messages, arrays


def from_request(request: Request) -> Message:
    """Return a request as JSON values; the model becomes the absolute path of its file.

    Raises
    ------
    EngineError
        If no model has this name.
    """
    message: Message = plain(dataclasses.asdict(request))
    model = message if isinstance(request, ModelRequest) else message["model"]
    if isinstance(request, TuneRequest):
        message["out"] = os.path.abspath(message["out"])
        if model["model"] == SCRATCH:
            return message
    try:
        model["model"] = os.path.abspath(resolve(model["model"]))
    except (UNetPPError, TypeError) as error:
        raise EngineError(str(error), "model") from error
    return message


def plain(value: Any) -> Any:
    """Replace numpy's numbers and tuples, which JSON does not know."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def to_model(message: Mapping[str, Any]) -> ModelRequest:
    """Return the request for a model."""
    return ModelRequest(**message)


def to_run(message: Mapping[str, Any]) -> RunRequest:
    """Return the request for a run."""
    return RunRequest(
        **{**message, "model": to_model(message["model"]), "region": _region(message["region"])}
    )


def to_view(message: Mapping[str, Any]) -> ViewRequest:
    """Return the request for a view."""
    return ViewRequest(
        **{
            **message,
            "model": to_model(message["model"]),
            "region": _region(message["region"]) or (),
            "skip": tuple(message["skip"]),
        }
    )


def to_suggest(message: Mapping[str, Any]) -> SuggestRequest:
    """Return the request for places to paint."""
    return SuggestRequest(
        **{
            **message,
            "model": to_model(message["model"]),
            "region": _region(message["region"]) or (),
        }
    )


def to_tune(message: Mapping[str, Any]) -> TuneRequest:
    """Return the request for a fine-tuning."""
    return TuneRequest(
        **{**message, "model": to_model(message["model"]), "classes": tuple(message["classes"])}
    )


def _region(values: Sequence[Sequence[int]] | None) -> tuple[tuple[int, int], ...] | None:
    return None if values is None else tuple((int(a), int(b)) for a, b in values)


def from_index(index: Index) -> list[Any]:
    """Return an index with spelled-out slices as numbers and lists of three."""
    return [[i.start, i.stop, i.step] if isinstance(i, slice) else i for i in index]


def to_index(values: Sequence[Any]) -> Index:
    """Return the index that was sent."""
    return tuple(slice(*v) if isinstance(v, list) else int(v) for v in values)


def from_error(error: EngineError) -> Message:
    """Return an error as JSON values."""
    return {"message": error.message, "code": error.code, "details": error.details}


def to_error(message: Mapping[str, Any]) -> EngineError:
    """Return the error that was sent."""
    return EngineError(message["message"], message["code"], message.get("details", ""))
