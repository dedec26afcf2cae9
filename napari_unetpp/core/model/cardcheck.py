"""The card inside a model file: text that anybody may have written.

:class:`ModelCard` checks what its values mean; here their types are checked against its
annotations first, so that a card that loads can be trusted everywhere. This module knows no
tensor and opens no file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import InputError, ModelFileError


def parse_card(text: str, path: Path) -> ModelCard:
    """Read the JSON of a card.

    Parameters
    ----------
    text : str
        JSON, as ``ModelCard.to_json`` gives it.
    path : Path
        The file it comes from, for the message.

    Returns
    -------
    ModelCard
        Validated.

    Raises
    ------
    ModelFileError
        If it is no JSON, a field is unknown, missing or of the wrong type, or the card
        contradicts itself.
    """
    try:
        values = json.loads(text)
        wrong = _wrong_field(values, ModelCard)
        if wrong:
            raise InputError(f"field {wrong} is not of the expected type")
        return ModelCard.from_json(values)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ModelFileError(
            f"the model card in {path} is not valid ({str(error)[:300]}); get the file again."
        ) from error


def _wrong_field(values: Any, kind: type) -> str:
    """Return the name of the first field whose value does not fit its annotation, or ""."""
    if not isinstance(values, dict):
        return kind.__name__
    hints = get_type_hints(kind)
    for name, value in values.items():
        hint = hints.get(name, Any)  # an unknown name is found when the card is made
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if wrong := _wrong_field(value, hint):
                return wrong
        elif hint is not Any and not _fits(value, hint):
            return f"{kind.__name__}.{name}"
    return ""


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a JSON value can become what an annotation says."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(_fits(item, args[1]) for item in value.values())
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return not _wrong_field(value, hint)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint is type(None):
        return value is None
    return type(value) is hint
