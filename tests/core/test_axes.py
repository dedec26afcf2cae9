"""Axis strings and the walk over planes and volumes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_unetpp.core import axes as ax
from napari_unetpp.core.errors import InputError


@pytest.mark.parametrize(
    ("text", "shape", "axes"),
    [
        ("zyx", (2, 3, 4), "ZYX"),
        (" T C Y X ", (2, 3, 4, 5), "TCYX"),
        ("YXS", (4, 5, 3), "YXS"),
        ("XY", (4, 5), "XY"),
        ("PTCZYX", (1, 2, 3, 4, 5, 6), "PTCZYX"),
    ],
)
def test_axes_are_normalised(text: str, shape: tuple[int, ...], axes: str) -> None:
    assert ax.parse_axes(text, shape) == axes


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("ZYX", (4, 5), r"has 2 axes \(4x5\) but 3 are named \('ZYX'\)"),
        ("QYX", (3, 4, 5), "letters of PTCZYXS, got 'QYX' with Q"),
        ("Z,Y", (4, 5), "with ,"),
        ("YY", (4, 5), "may come once, got 'YY'"),
        ("ZY", (4, 5), "must contain Y and X"),
        ("", (4, 5), "0 are named"),
        ("SYX", (3, 4, 5), r"must be the last axis, got 'SYX'"),
        ("YXS", (4, 5, 2), "must have 3 or 4 entries, got 2 in 4x5x2"),
        ("CYXS", (2, 4, 5, 3), "not both, got 'CYXS'"),
    ],
)
def test_axes_that_do_not_fit(text: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ax.parse_axes(text, shape)


@pytest.mark.parametrize(
    ("shape", "rgb", "axes"),
    [
        ((8, 9), False, "YX"),
        ((5, 8, 9), False, "ZYX"),
        ((8, 9, 3), False, "ZYX"),
        ((8, 9, 3), True, "YXS"),
        ((5, 8, 9, 4), True, "ZYXS"),
        ((2, 5, 8, 9), False, "CZYX"),
        ((7, 2, 8, 9), False, "ZCYX"),
        ((7, 5, 8, 9), False, "TZYX"),
        ((7, 2, 5, 8, 9), False, "TCZYX"),
        ((7, 5, 2, 8, 9), False, "TZCYX"),
        ((1, 7, 2, 5, 8, 9), False, "PTCZYX"),
    ],
)
def test_guesses(shape: tuple[int, ...], rgb: bool, axes: str) -> None:
    assert ax.guess_axes(shape, rgb=rgb) == axes


@pytest.mark.parametrize("shape", [(), (5,), (1,) * 7])
def test_shapes_that_are_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="2 to 6 axes"):
        ax.guess_axes(shape)


def test_bytes_with_three_last_are_a_picture() -> None:
    assert ax.looks_rgb((8, 9, 3), np.uint8)
    assert ax.looks_rgb((8, 9, 4), "u1")
    assert not ax.looks_rgb((8, 9, 3), np.uint16)
    assert not ax.looks_rgb((8, 9, 5), np.uint8)
    assert not ax.looks_rgb((8, 3), np.uint8)


def test_helpers() -> None:
    assert ax.spatial("XTZYC") == "ZYX"
    assert ax.spatial("YXS") == "YX"
    assert ax.sizes("TYX", (3, 4, 5)) == {"T": 3, "Y": 4, "X": 5}
    assert ax.canonical("YXCT") == "TCYX"
    block = np.arange(24).reshape(2, 3, 4)
    arranged = ax.arrange(block, "XCY", "TCYX")
    assert arranged.shape == (1, 3, 4, 2)
    assert arranged[0, 2, 3, 1] == block[1, 2, 3]
    with pytest.raises(InputError, match="cannot become 'YX'"):
        ax.arrange(block, "XCY", "YX")
    assert ax.index_of("CTYX", {"T": 4, "C": slice(0, 2)}) == (
        slice(0, 2), 4, slice(None), slice(None),
    )  # fmt: skip


def test_planes_in_order() -> None:
    found = list(ax.planes("TCZYX", (2, 3, 2, 4, 5)))
    assert [p.position for p in found] == [
        {"T": 0, "Z": 0}, {"T": 0, "Z": 1}, {"T": 1, "Z": 0}, {"T": 1, "Z": 1},
    ]  # fmt: skip
    assert {p.axes for p in found} == {"CYX"}
    whole = slice(None)
    assert found[1].index == (0, whole, 1, whole, whole)


def test_volumes_with_a_channel() -> None:
    found = list(ax.volumes("ZCYXP", (6, 3, 4, 5, 2), channel=2))
    whole = slice(None)
    assert [p.index for p in found] == [(whole, 2, whole, whole, k) for k in (0, 1)]
    assert {p.axes for p in found} == {"ZYX"}


def test_a_sample_of_rgb_can_be_chosen() -> None:
    (one,) = ax.planes("YXS", (4, 5, 3), channel=1)
    assert one.axes == "YX"
    assert one.index == (slice(None), slice(None), 1)
    (one,) = ax.planes("YXS", (4, 5, 3))
    assert one.axes == "YXS"


@pytest.mark.parametrize(
    ("axes", "shape", "channel", "words"),
    [
        ("CYX", (3, 4, 5), 3, "has channels 0 to 2, got channel 3"),
        ("CYX", (3, 4, 5), -1, "got channel -1"),
        ("YX", (4, 5), 1, "has one channel, got channel 1"),
    ],
)
def test_channels_that_do_not_exist(
    axes: str, shape: tuple[int, ...], channel: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        list(ax.planes(axes, shape, channel))


def test_the_only_channel_of_a_plain_image_is_0() -> None:
    assert len(list(ax.planes("YX", (4, 5), 0))) == 1


def test_a_volume_needs_depth() -> None:
    with pytest.raises(InputError, match="3D model needs an image with a Z axis, got axes TYX"):
        list(ax.volumes("TYX", (3, 4, 5)))


@given(
    st.permutations("PTCZYX"),
    st.integers(2, 6),
    st.sampled_from([2, 3]),
    st.data(),
)
def test_parts_cover_every_pixel_once(
    letters: list[str], count: int, ndim: int, data: st.DataObject
) -> None:
    kept = [a for a in letters if a in "YX" + ("Z" if ndim == 3 else "")]
    extra = [a for a in letters if a not in kept][: max(0, count - len(kept))]
    axes = "".join(a for a in letters if a in kept + extra)
    shape = tuple(data.draw(st.integers(1, 3)) for _ in axes)
    seen = np.zeros(shape, int)
    for part in ax.parts(axes, shape, ndim):
        block = seen[part.index]
        assert block.ndim == len(part.axes)
        seen[part.index] += 1
    assert (seen == 1).all()
    assert seen.size == math.prod(shape)
