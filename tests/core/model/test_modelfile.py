"""Model files: what is written comes back, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from napari_unetpp.core.config import ClassInfo, InstanceRule, ModelCard, NetworkConfig
from napari_unetpp.core.errors import FileError, InputError, ModelFileError
from napari_unetpp.core.model import cards, modelfile
from napari_unetpp.core.model.modelfile import bundled_models, load_model, read_card, save_model
from napari_unetpp.core.model.modelheader import CARD_KEY, FORMAT_KEY, HASH_KEY
from napari_unetpp.core.nn.network import NestedUNet

SMALL = NetworkConfig(filters=(2, 3, 4), out_channels=2, norm="batch")


def card_of(config: NetworkConfig = SMALL, **changes: Any) -> ModelCard:
    values: dict[str, Any] = {
        "name": "toy",
        "network": config,
        "classes": (ClassInfo("nucleus", "#12ab34"),),
        "auxiliary": ("centre",),
        "instances": InstanceRule(min_size=3),
        "spacing": (0.5, 0.25),
        "spacing_unit": "µm",
        "levels_trained": (1, 2),
        "scores": {"2": {"iou_per_image": 0.75}},
        "class_scores": {"nucleus": {"1": {"dice_pooled": 1}}},
    }
    return ModelCard(**{**values, **changes})


def network_of(config: NetworkConfig = SMALL, seed: int = 3) -> NestedUNet:
    torch.manual_seed(seed)
    network = NestedUNet(config)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "running_" in name:
                tensor.uniform_(0.5, 100_000.0)  # beyond float16
            elif "num_batches" in name:
                tensor.fill_(12_345)
    return network


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(
        tmp_path_factory.mktemp("models") / "toy.safetensors", network_of(), card_of()
    )


def edit(path: Path, change: Callable[[dict[str, Any], bytearray], None], *, sign: bool) -> bytes:
    """Return the file's bytes with header and data changed, and the hash made anew or not."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    change(header, data)
    if sign:  # what somebody would do who knows the format
        table = {k: v for k, v in header.items() if k != "__metadata__"}
        canonical = json.dumps(
            [1, header["__metadata__"][CARD_KEY], table], sort_keys=True, separators=(",", ":")
        )
        digest = hashlib.sha256(canonical.encode() + b"\0" + bytes(data)).hexdigest()
        header["__metadata__"][HASH_KEY] = digest
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def edit_card(header: dict[str, Any], **changes: Any) -> None:
    card = json.loads(header["__metadata__"][CARD_KEY])
    network = changes.pop("network", {})
    card.update(changes)
    card["network"].update(network)
    header["__metadata__"][CARD_KEY] = json.dumps(card)


@pytest.mark.parametrize("norm", ["none", "batch", "instance"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_round_trip(tmp_path: Path, norm: Any, dtype: Any, ndim: int) -> None:
    config = dataclasses.replace(SMALL, norm=norm, ndim=ndim)
    axes: dict[str, Any] = {"axes": "YX"}
    if ndim == 3:
        axes = {"axes": "ZYX", "spacing": (2.5, 1.0, 1.0), "orientation": "SPL"}
    card, network = card_of(config, **axes), network_of(config)
    model = load_model(save_model(tmp_path / "a.safetensors", network, card, dtype=dtype))
    assert model.card == card
    assert not model.network.training
    found = model.network.state_dict()
    for name, tensor in network.state_dict().items():
        expected = tensor
        if dtype == "float16" and tensor.is_floating_point() and "running_" not in name:
            expected = tensor.half().float()
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], expected), name
    assert all(p.requires_grad for p in model.network.parameters())


def test_any_safetensors_reader_opens_it_and_bytes_repeat(good: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(good)
    model = load_model(good)
    assert set(tensors) == set(model.network.state_dict())
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensors[name].to(tensor.dtype), tensor)
    weights = [t for name, t in tensors.items() if t.is_floating_point() and "running" not in name]
    assert {t.dtype for t in weights} == {torch.float16}
    with safetensors.safe_open(good, "numpy") as opened:
        assert opened.metadata()[FORMAT_KEY] == "1"
    again = save_model(tmp_path / "again.safetensors", network_of(), card_of())
    assert again.read_bytes() == good.read_bytes()
    assert len(model.sha256) == 64


def test_loading_leaves_random_numbers_alone(good: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(good)
    assert torch.equal(torch.rand(3), expected)


def test_read_card_reads_the_header_alone(good: Path, tmp_path: Path) -> None:
    content = bytearray(good.read_bytes())
    content[-1] ^= 1  # in the weights
    path = tmp_path / "changed.safetensors"
    path.write_bytes(content)
    assert read_card(path) == card_of()
    with pytest.raises(ModelFileError, match="hash"):
        load_model(path)


def foreign() -> dict[str, tuple[bytes, str]]:
    """Return files of other kinds, and what the message must say."""
    archive, checkpoint = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("model.xml", "<x/>")
    torch.save({"weight": torch.ones(3)}, checkpoint)
    other = safetensors.torch.save({"weight": torch.ones(3)}, {"format": "pt"})
    bare = safetensors.torch.save({"weight": torch.ones(3)})
    header = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    return {
        "empty": (b"", "empty"),
        "short": (b"\x08\0\0", "cut short"),
        "zip": (archive.getvalue(), "zip archive"),
        "torch": (checkpoint.getvalue(), "zip archive"),
        "pickle": (pickle.dumps({"a": list(range(99))}), "pickle"),
        "text": (b"These are not the weights you are looking for.", "text"),
        "json": (json.dumps({"name": "toy"}).encode(), "text"),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "another kind"),
        "other safetensors": (other, "another program"),
        "bare safetensors": (bare, "another program"),
        "unknown dtype": (len(header).to_bytes(8, "little") + header + b"\0\0", "header"),
        "header is no JSON": ((16).to_bytes(8, "little") + b"{" * 16 + bytes(8), "header"),
        "header is a list": ((2).to_bytes(8, "little") + b"[]", "header"),
        "header nests": ((200_000).to_bytes(8, "little") + b"[" * 200_000, "header"),
        "giant header": ((2**63).to_bytes(8, "little") + b"{}" * 40, "not a model file"),
    }


@pytest.mark.parametrize("kind", sorted(foreign()))
def test_foreign_files_are_refused(kind: str, tmp_path: Path) -> None:
    content, word = foreign()[kind]
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    for read in (load_model, read_card):
        with pytest.raises(ModelFileError, match=word) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    for name, write in (
        ("a.pt", torch.save),
        ("b.pkl", lambda o, p: p.write_bytes(pickle.dumps(o))),
    ):
        write(Trap(), tmp_path / name)
        with pytest.raises(ModelFileError):
            load_model(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def drop_tensor(header: dict[str, Any], data: bytearray) -> None:
    """Take out the tensor that lies last."""
    name = max((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"])
    start, stop = header.pop(name)["data_offsets"]
    del data[start:stop]


def rename_tensor(header: dict[str, Any], data: bytearray) -> None:
    header["surprise"] = header.pop("heads.1.weight")


def reshape_tensor(header: dict[str, Any], data: bytearray) -> None:
    header["heads.1.weight"]["shape"].reverse()


def retype_tensor(header: dict[str, Any], data: bytearray) -> None:
    entry = next(v for v in header.values() if v.get("dtype") == "I64")
    entry["dtype"], entry["shape"] = "F16", [4]


def overlap(header: dict[str, Any], data: bytearray) -> None:
    header["heads.1.bias"]["data_offsets"] = [0, 4]


def grow_shape(header: dict[str, Any], data: bytearray) -> None:
    header["heads.1.weight"]["shape"] = [10**9, 10**9, 1, 1]


def negative_shape(header: dict[str, Any], data: bytearray) -> None:
    header["heads.1.weight"]["shape"] = [-2, -2, 1, 1]


def infinite_weight(header: dict[str, Any], data: bytearray) -> None:
    start, _ = header["heads.1.weight"]["data_offsets"]
    data[start : start + 2] = np.array(np.inf, np.float16).tobytes()


def card(**changes: Any) -> Callable[[dict[str, Any], bytearray], None]:
    return lambda header, data: edit_card(header, **changes)


def meta(**changes: Any) -> Callable[[dict[str, Any], bytearray], None]:
    def change(header: dict[str, Any], data: bytearray) -> None:
        header["__metadata__"].update({f"napari_unetpp.{k}": v for k, v in changes.items()})

    return change


# What somebody might write who knows the format and signs it correctly.
HOSTILE: dict[str, tuple[Callable[[dict[str, Any], bytearray], None], str]] = {
    "a tensor missing": (drop_tensor, "do not fit"),
    "a tensor renamed": (rename_tensor, "first difference"),
    "a tensor reshaped": (reshape_tensor, "first difference: 'heads.1.weight'"),
    "a tensor of another type": (retype_tensor, "first difference"),
    "tensors overlap": (overlap, "overlap"),
    "a giant shape": (grow_shape, "shape does not fit"),
    "a negative shape": (negative_shape, "whole number"),
    "infinite weights": (infinite_weight, "finite"),
    "extra bytes": (lambda header, data: data.extend(b"12"), "extra bytes"),
    "giant filters": (card(network={"filters": [2, 3, 10**9]}), "do not fit"),
    "filters beyond 64 bits": (card(network={"filters": [10**30] * 3}), "do not fit"),
    "many levels": (card(network={"filters": [2] * 100_000}), "do not fit"),
    "sixteen levels": (card(network={"filters": [2] * 17}), "do not fit"),
    "giant input": (
        card(network={"in_channels": 3}, input_channels=["a", "b", "c"]),
        "first difference: 'nodes.x0_0",
    ),
    "other topology": (card(network={"topology": "unet+"}), "do not fit"),
    "filters as text": (card(network={"filters": "ab"}), "NetworkConfig.filters"),
    "filters as floats": (card(network={"filters": [2.5, 3, 4]}), "NetworkConfig.filters"),
    "true is no number": (card(network={"ndim": True}), "NetworkConfig.ndim"),
    "unknown topology": (card(network={"topology": "resnet"}), "NetworkConfig.topology"),
    "unknown field": (card(run="rm -rf /"), "run"),
    "name is a number": (card(name=5), "ModelCard.name"),
    "threshold out of range": (card(threshold=2.0), "threshold"),
    "scores are text": (card(scores={"1": {"iou": "good"}}), "ModelCard.scores"),
    "no network": (card(network={}, classes={}), "ModelCard.classes"),
    "card is a list": (meta(card="[1, 2]"), "ModelCard"),
    "card is no JSON": (meta(card="{"), "not valid"),
    "card nests": (meta(card="[" * 100_000), "not valid"),
    "infinite threshold": (meta(card='{"name": "a", "threshold": 1e999}'), "ModelCard.threshold"),
    "a field missing": (meta(card='{"name": "a"}'), "network"),
    "future version": (meta(format="2"), "format version '2'.*update"),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_files_are_refused_even_when_signed(kind: str, good: Path, tmp_path: Path) -> None:
    change, word = HOSTILE[kind]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(edit(good, change, sign=True))
    with pytest.raises(ModelFileError, match=word) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_signed_but_unchanged_file_is_accepted(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.safetensors"
    path.write_bytes(edit(good, lambda header, data: None, sign=True))
    assert load_model(path).sha256 == load_model(good).sha256


def test_a_changed_card_is_noticed(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.safetensors"
    path.write_bytes(edit(good, card(licence="public domain"), sign=False))
    with pytest.raises(ModelFileError, match="changed or damaged"):
        load_model(path)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_damage_is_an_error_or_harmless(data: st.DataObject, good: Path) -> None:
    content = bytearray(good.read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), "length")]
    for _ in range(data.draw(st.integers(0, 3), "flips")):
        # Half of the flips go into the header, where damage can do most.
        last = data.draw(st.sampled_from([header, len(content)]), "part")
        at = data.draw(st.integers(0, max(min(last, len(content)) - 1, 0)), "at")
        if content:
            content[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path = good.with_name("damaged.safetensors")
    path.write_bytes(content)
    reference = load_model(good)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = load_model(path)
    except ModelFileError:
        return
    assert model.card == reference.card
    assert model.sha256 == reference.sha256
    for name, tensor in reference.network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200))
@example(content=(2).to_bytes(8, "little") + b"{}")
def test_random_bytes_are_refused(content: bytes, good: Path) -> None:
    path = good.with_name("random.safetensors")
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        load_model(path)


def test_names(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "bundled_models", lambda: {"nuclei": good})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei").mkdir()  # a folder of that name changes nothing
    assert load_model("nuclei").path == good
    assert read_card("nuclei") == card_of()
    with pytest.raises(InputError, match=r"'nuclie'; bundled are: nuclei; did you mean nuclei\?"):
        load_model("nuclie")
    with pytest.raises(InputError, match="named ''"):
        load_model("")
    with pytest.raises(FileError, match=r"no model file .*missing\.safetensors.*nuclei"):
        load_model("missing.safetensors")
    with pytest.raises(FileError, match="folder"):
        load_model(Path("nuclei"))
    with pytest.raises(FileError, match="cannot be read"):
        load_model("a/b\0.safetensors")


def test_bundled_models_are_files_by_name() -> None:
    for name, path in bundled_models().items():
        assert path.name == f"{name}.safetensors"
        assert read_card(name).name == name


@pytest.mark.parametrize(
    ("target", "word"),
    [("missing/a.safetensors", "cannot be written"), ("a.safetensors/b.safetensors", "written")],
)
def test_a_file_that_cannot_be_written(target: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("old")
    with pytest.raises(FileError, match=word):
        save_model(tmp_path / target, network_of(), card_of())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_failed_save_leaves_the_old_file(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.safetensors"
    path.write_bytes(good.read_bytes())

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(modelfile.os, "fsync", full)
    with pytest.raises(FileError, match="No space left on device"):
        save_model(path, network_of(seed=9), card_of())
    assert path.read_bytes() == good.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["kept.safetensors"]


@pytest.mark.parametrize(
    ("value", "dtype", "word"),
    [
        (float("nan"), "float32", "heads.1.bias is not finite"),
        (1e5, "float16", "heads.1.bias is too large for float16"),
    ],
)
def test_bad_weights_are_not_saved(value: float, dtype: Any, word: str, tmp_path: Path) -> None:
    network = network_of()
    with torch.no_grad():
        network.state_dict()["heads.1.bias"].fill_(value)
    with pytest.raises(InputError, match=word):
        save_model(tmp_path / "a.safetensors", network, card_of(), dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_what_save_refuses(tmp_path: Path) -> None:
    network = network_of()
    other = dataclasses.replace(SMALL, filters=(2, 3, 5))
    with pytest.raises(InputError, match=r"must end in \.safetensors, got 'a\.pt'"):
        save_model(tmp_path / "a.pt", network, card_of())
    with pytest.raises(InputError, match="card describes"):
        save_model(tmp_path / "a.safetensors", network, card_of(other))
    with pytest.raises(InputError, match="float64"):
        save_model(tmp_path / "a.safetensors", network, card_of(), dtype="float64")  # type: ignore[arg-type]
    for score in (float("nan"), np.float32(0.5)):
        with pytest.raises(InputError, match="plain finite JSON"):
            save_model(tmp_path / "a.safetensors", network, card_of(scores={"1": {"iou": score}}))
    assert not list(tmp_path.iterdir())
