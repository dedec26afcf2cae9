"""A model in one file: weights and card as safetensors, and nothing that could run.

What lies where in the file is the business of :mod:`core.model.modelheader`, names and cards
alone that of :mod:`core.model.cards`. A file that does
not fit its own card is refused before memory is taken for a network. This module must not
know images, devices or front ends, and never unpickles.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard, NetworkConfig
from napari_unetpp.core.errors import FileError, InputError, ModelFileError
from napari_unetpp.core.model.cardcheck import parse_card
from napari_unetpp.core.model.cards import SUFFIX, bundled_models, opened, read_card, resolve
from napari_unetpp.core.model.modelheader import Entry, Header, encode, read_header
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.nn.variants import parameter_count

__all__ = ["SUFFIX", "Model", "bundled_models", "load_model", "read_card", "resolve", "save_model"]

_MAX_LEVELS = 16  # an image of 2^16 pixels would shrink to a single one


@dataclass(frozen=True)
class Model:
    """A model that was read from a file, or is about to be written.

    Attributes
    ----------
    card : ModelCard
        Everything but the weights.
    network : NestedUNet
        Float32, on the CPU, in evaluation mode.
    path : Path
        Where it lies.
    sha256 : str
        Hash of card and weights, 64 hexadecimal digits: the model's identity.
    """

    card: ModelCard
    network: NestedUNet
    path: Path
    sha256: str


def load_model(name_or_path: str | os.PathLike[str]) -> Model:
    """Load a bundled model by its name, or a model file.

    Parameters
    ----------
    name_or_path : str or path
        A name from :func:`bundled_models`, or the path of a file.

    Returns
    -------
    Model
        With the network in float32 on the CPU, in evaluation mode.

    Raises
    ------
    InputError
        If a name is not bundled.
    FileError
        If there is no such file or it cannot be read.
    ModelFileError
        If the file is not a model of this package, is cut short, was changed, is of a newer
        format, or its weights do not fit its card. No code of the file runs.
    """
    path = resolve(name_or_path)
    with opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        header = read_header(stream, size, path)
        expected = _expected_network(header, path)
        data = stream.read(size - header.data_at)
    if hashlib.sha256(header.hashed + data).hexdigest() != header.sha256:
        raise ModelFileError(
            f"{path} was changed or damaged after it was saved (its hash does not match); "
            "get the file again."
        )
    state = {name: _tensor(name, entry, data, path) for name, entry in header.table.items()}
    expected.load_state_dict(state, strict=True, assign=True)
    return Model(header.card, expected.eval(), path, header.sha256)


def save_model(
    path: str | os.PathLike[str],
    network: NestedUNet,
    card: ModelCard,
    *,
    dtype: Literal["float16", "float32"] = "float16",
) -> Path:
    """Write a model; the file appears under its name only when it is complete.

    The same weights and card always give the same bytes.

    Parameters
    ----------
    path : str or path
        Must end in ``.safetensors``; an existing file is replaced.
    network : NestedUNet
        Weights of any floating type on any device.
    card : ModelCard
        Its `network` must equal ``network.config``.
    dtype : {"float16", "float32"}
        How weights are stored. Running statistics of batch norm stay in float32.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If card and network differ, a weight is not finite or too large for `dtype`, or the
        name has another suffix.
    FileError
        If the file cannot be written; nothing is left behind then.
    """
    target = Path(path)
    if target.suffix != SUFFIX:
        raise InputError(f"a model file must end in {SUFFIX}, got {target.name!r}; rename it.")
    if dtype not in ("float16", "float32"):
        raise InputError(f"dtype must be float16 or float32, got {dtype!r}; choose one of them.")
    if card.network != network.config:
        raise InputError(
            f"the card describes {card.network}, got a network of {network.config}; "
            "make the card from the network's own config."
        )
    arrays = {
        name: _stored(name, tensor, np.dtype(dtype))
        for name, tensor in network.state_dict().items()
    }
    _write_atomic(target, encode(arrays, _card_text(card)))
    return target


def _expected_network(header: Header, path: Path) -> NestedUNet:
    """Build the card's network and compare it with the file's table."""
    config, table = header.card.network, header.table
    # What the card asks for must be in the file before anything is made from it: every number
    # of channels is the size of some tensor, and the parameters are no more than there are.
    floats = [entry.shape for entry in table.values() if entry.dtype.kind == "f"]
    largest = max((n for shape in floats for n in shape), default=0)
    if (
        config.levels > _MAX_LEVELS
        or max(_numbers(config)) > largest
        or parameter_count(config) > sum(math.prod(shape) for shape in floats)
    ):
        raise ModelFileError(f"the weights in {path} do not fit its card; get the file again.")
    with torch.random.fork_rng(devices=[]):  # loading must not change what training draws
        network = NestedUNet(config)
    expected = {
        name: (tuple(tensor.shape), tensor.is_floating_point())
        for name, tensor in network.state_dict().items()
    }
    found = {name: (entry.shape, entry.dtype.kind == "f") for name, entry in table.items()}
    if found != expected:
        odd = min(name for name, _ in set(found.items()) ^ set(expected.items()))
        raise ModelFileError(
            f"the weights in {path} do not fit its card (first difference: {odd[:80]!r}); "
            "get the file again."
        )
    return network


def _numbers(config: NetworkConfig) -> tuple[int, ...]:
    """Return every number of channels in a config."""
    ups = config.up_filters or ()
    return (config.in_channels, config.out_channels, *config.filters, *ups)


def _tensor(name: str, entry: Entry, data: bytes, path: Path) -> torch.Tensor:
    """Return a copy of one tensor, floating ones in float32."""
    flat = np.frombuffer(data, entry.dtype, math.prod(entry.shape), entry.start)
    array = flat.reshape(entry.shape).astype(np.float32 if entry.dtype.kind == "f" else np.int64)
    if not np.isfinite(array).all():
        raise ModelFileError(f"{path} has weights that are not finite ({name}); train it again.")
    return torch.from_numpy(array)


def _stored(name: str, tensor: torch.Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a tensor of the network as it goes into the file."""
    host = tensor.detach().cpu()
    if not host.is_floating_point():
        return host.to(torch.int64).numpy().astype("<i8")
    exact: NDArray[np.float32] = host.float().numpy()
    # Variances may exceed float16 or vanish in it.
    kept = np.dtype(np.float32) if "running_" in name else dtype
    with np.errstate(over="ignore"):
        array: NDArray[Any] = exact.astype(kept.newbyteorder("<"))
    if not np.isfinite(array).all():
        why = f"is too large for {kept}" if np.isfinite(exact).all() else "is not finite"
        raise InputError(
            f"weights must be finite numbers in {kept}, but {name} {why}; "
            "store float32 or train with a lower learning rate."
        )
    return array


def _card_text(card: ModelCard) -> str:
    """Return the card as JSON, which must come back as it is."""
    try:
        text = json.dumps(card.to_json(), allow_nan=False, ensure_ascii=False)
        parse_card(text, Path(card.name))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the card must hold plain finite JSON values ({error}); correct that field."
        ) from error
    return text


def _write_atomic(target: Path, content: bytes) -> None:
    """Write beside the target, flush to the disk, then rename."""
    staged = target.with_name(f".{target.stem[:40]}.{uuid.uuid4().hex[:8]}.part")
    try:
        with staged.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(staged, target)
    except OSError as error:
        raise FileError(
            f"{target} cannot be written ({error.strerror or error}); check that its folder "
            "exists, may be written to and has room."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            staged.unlink()
