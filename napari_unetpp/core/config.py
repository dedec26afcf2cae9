"""Frozen descriptions: of a network, and of a model (its card).

They are validated when they are made and go to and from plain JSON values. This module
knows no torch and no file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from napari_unetpp.core.errors import InputError

Topology = Literal["unet", "unet-e", "unet+", "unet++"]
Norm = Literal["none", "batch", "instance"]
Activation = Literal["sigmoid", "softmax"]

PAPER_FILTERS = (32, 64, 128, 256, 512)


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        choices = ", ".join(str(a) for a in allowed)
        raise InputError(f"{name} must be one of {choices}, got {value!r}; choose one of them.")


@dataclass(frozen=True)
class NetworkConfig:
    """What is needed to build a network of the family.

    Attributes
    ----------
    topology : {"unet", "unet-e", "unet+", "unet++"}
        Which nodes exist and what each one takes (TMI 2020, Fig. 1).
    ndim : {2, 3}
        Spatial axes: 2 for YX, 3 for ZYX.
    in_channels, out_channels : int
        Channels of the input and of every head.
    filters : tuple of int
        Filters of the nodes X^{i,j} by i; its length less one is the number of levels.
    up_filters : tuple of int, optional
        Filters of the transposed convolutions into level i, by i; ``filters[:-1]`` if None.
    deep_supervision : bool
        Heads on X^{0,1} ... X^{0,L} instead of on X^{0,L} alone.
    norm : {"none", "batch", "instance"}
        Normalisation after each convolution; the papers' networks have none.
    dropout : float
        Probability of dropping an activation after each convolution block.
    activation : {"sigmoid", "softmax"}
        What turns logits into probabilities. With softmax, channel 0 is the background.
    """

    topology: Topology = "unet++"
    ndim: int = 2
    in_channels: int = 1
    out_channels: int = 1
    filters: tuple[int, ...] = PAPER_FILTERS
    up_filters: tuple[int, ...] | None = None
    deep_supervision: bool = True
    norm: Norm = "none"
    dropout: float = 0.0
    activation: Activation = "sigmoid"

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(int(f) for f in self.filters))
        if self.up_filters is not None:
            object.__setattr__(self, "up_filters", tuple(int(f) for f in self.up_filters))
        _one_of("topology", self.topology, get_args(Topology))
        _one_of("ndim", self.ndim, (2, 3))
        _one_of("norm", self.norm, get_args(Norm))
        _one_of("activation", self.activation, get_args(Activation))
        if self.in_channels < 1 or self.out_channels < 1:
            raise InputError(
                "in_channels and out_channels must be at least 1, got "
                f"{self.in_channels} and {self.out_channels}; give positive numbers."
            )
        if self.activation == "softmax" and self.out_channels < 2:
            raise InputError(
                "a softmax needs at least 2 output channels (background first), got 1; "
                "use a sigmoid for one class."
            )
        if len(self.filters) < 2 or min(self.filters) < 1:
            raise InputError(
                f"filters must be at least two positive numbers, got {self.filters}; "
                f"the papers use {PAPER_FILTERS}."
            )
        if self.up_filters is not None and (
            len(self.up_filters) != self.levels or min(self.up_filters) < 1
        ):
            raise InputError(
                f"up_filters must be {self.levels} positive numbers, got {self.up_filters}; "
                "give one less than filters, or leave it out."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout must lie in [0, 1), got {self.dropout}; 0.5 in the paper.")

    @property
    def levels(self) -> int:
        """Number of levels L: down-samplings of the deepest node."""
        return len(self.filters) - 1

    @property
    def head_levels(self) -> tuple[int, ...]:
        """Levels that have a head, in order."""
        if self.topology == "unet" or not self.deep_supervision:
            return (self.levels,)
        return tuple(range(1, self.levels + 1))


CLASS_COLOURS = (
    "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#999999",
)  # fmt: skip
"""Of classes for which nobody chose one; Okabe and Ito's, which colour-blind people tell apart."""


def class_colour(place: int) -> str:
    """Return the colour of the class at a place, 0 being the first; ``#rrggbb``."""
    return CLASS_COLOURS[place % len(CLASS_COLOURS)]


@dataclass(frozen=True)
class ClassInfo:
    """A class of a model: its name and its colour as ``#rrggbb``."""

    name: str
    color: str = "#3fb27f"

    def __post_init__(self) -> None:
        digits = self.color.removeprefix("#")
        if len(digits) != 6 or any(d not in "0123456789abcdefABCDEF" for d in digits):
            raise InputError(
                f"the colour of class {self.name!r} must look like #3fb27f, got {self.color!r}."
            )


@dataclass(frozen=True)
class Normalisation:
    """How intensities become the network's input; the statistics are of the whole image.

    Attributes
    ----------
    kind : {"percentile", "window"}
        ``percentile``: ``low`` and ``high`` are percentiles of the image that become 0 and 1.
        ``window``: they are intensities (HU for a CT) that become 0 and 1.
    low, high : float
        See `kind`.
    polarity : {"keep", "bright-objects"}
        ``bright-objects``: an image whose background is bright is inverted.
    ct_offset : bool
        A CT stored as HU + 1024 (no value below zero) is recognised and shifted back.
    rgb : {"luminance", "nuclear-stain"}
        How a model of one channel sees an RGB image. ``nuclear-stain``: in transmitted light
        its red channel, which haematoxylin and other blue stains absorb most and eosin and
        DAB least; in fluorescence its luminance.
    """

    kind: Literal["percentile", "window"] = "percentile"
    low: float = 1.0
    high: float = 99.8
    polarity: Literal["keep", "bright-objects"] = "keep"
    ct_offset: bool = False
    rgb: Literal["luminance", "nuclear-stain"] = "luminance"

    def __post_init__(self) -> None:
        _one_of("rgb", self.rgb, ("luminance", "nuclear-stain"))
        _one_of("normalisation kind", self.kind, ("percentile", "window"))
        _one_of("polarity", self.polarity, ("keep", "bright-objects"))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(
                f"normalisation needs low < high, got {self.low} and {self.high}; swap them."
            )


@dataclass(frozen=True)
class InstanceRule:
    """How probabilities become objects (see ``core.run.instances``).

    Attributes
    ----------
    seed_channel : str
        Name of the output channel that is high at the centre of an object.
    seed_threshold : float
        Height above which the smoothed channel can seed an object, in [0, 1].
    seed_smoothing : float
        Standard deviation of the Gaussian on the seed channel, in pixels.
    seed_prominence : float
        Least height of a seed's peak over the saddle to a higher one, in [0, 1].
    min_size : int
        Objects with fewer pixels (voxels) are dropped.
    """

    seed_channel: str = "centre"
    seed_threshold: float = 0.3
    seed_smoothing: float = 1.0
    seed_prominence: float = 0.05
    min_size: int = 10


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model that is not a weight.

    Attributes
    ----------
    name, description, version : str
        For people. `version` is the package version that trained it.
    network : NetworkConfig
        The architecture.
    classes : tuple of ClassInfo
        Foreground classes in the order of their label values 1, 2, ...
    auxiliary : tuple of str
        Names of further output channels after the classes (``"centre"``); sigmoid only.
    input_channels : tuple of str
        What each input channel should show.
    axes : str
        ``"YX"`` or ``"ZYX"``.
    spacing : tuple of float, optional
        Size of a pixel or voxel that the network expects, in the order of `axes`.
    spacing_unit : str
        Unit of `spacing`.
    orientation : str, optional
        Anatomical direction in which each array axis grows, for example ``"SPL"`` for ZYX:
        Z to superior, Y to posterior, X to left.
    normalisation : Normalisation
        Intensity rule.
    threshold : float
        Probability above which a pixel belongs to a class.
    instances : InstanceRule, optional
        How to separate objects; None where there is no rule.
    levels_trained : tuple of int
        Levels whose heads were trained.
    scores : mapping of str to mapping of str to float
        Held-out metrics per level ("1" ... "4", "ensemble").
    class_scores : mapping
        ``{class: {level: {metric: value}}}``.
    timings : mapping of str to mapping of str to float
        Per level: ``seconds_per_megapixel`` and ``peak_memory_mb``, on `timing_device`.
    timing_device : str
        Where `timings` were measured, in words.
    data, split, licence, citation : str
        Training data and what follows from them.
    parent : str
        Name and hash of the model that this one was fine-tuned from, or empty.
    auto_tolerance : float, optional
        Share of the foreground on which the first two levels may disagree before the level
        "auto" goes to the deepest; calibrated on held-out images.
    """

    name: str
    network: NetworkConfig
    classes: tuple[ClassInfo, ...]
    axes: str = "YX"
    description: str = ""
    version: str = ""
    auxiliary: tuple[str, ...] = ()
    input_channels: tuple[str, ...] = ("intensity",)
    spacing: tuple[float, ...] | None = None
    spacing_unit: str = "mm"
    orientation: str | None = None
    normalisation: Normalisation = field(default_factory=Normalisation)
    threshold: float = 0.5
    instances: InstanceRule | None = None
    levels_trained: tuple[int, ...] = (1, 2, 3, 4)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    class_scores: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    timings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    timing_device: str = ""
    data: str = ""
    split: str = ""
    licence: str = ""
    citation: str = ""
    parent: str = ""
    auto_tolerance: float | None = None

    def __post_init__(self) -> None:
        net = self.network
        _one_of("axes", self.axes, ("YX", "ZYX"))
        if len(self.axes) != net.ndim:
            raise InputError(f"a card with axes {self.axes} needs a {len(self.axes)}D network.")
        if len(self.input_channels) != net.in_channels:
            raise InputError(
                f"the network takes {net.in_channels} channel(s) but the card names "
                f"{len(self.input_channels)}; name each of them."
            )
        names = [c.name for c in self.classes]
        if len(set(names + list(self.auxiliary))) != len(names) + len(self.auxiliary):
            raise InputError(f"class and channel names must differ, got {names}; rename one.")
        if net.activation == "softmax" and self.auxiliary:
            raise InputError("auxiliary channels need a sigmoid network; this one has a softmax.")
        background = 1 if net.activation == "softmax" else 0
        expected = background + len(names) + len(self.auxiliary)
        if not names or expected != net.out_channels:
            raise InputError(
                f"the network has {net.out_channels} output channel(s) but the card describes "
                f"{expected}; list every class once."
            )
        if self.spacing is not None and (
            len(self.spacing) != net.ndim or not all(s > 0 for s in self.spacing)
        ):
            raise InputError(
                f"spacing must be {net.ndim} positive numbers ({self.axes}), got {self.spacing}."
            )
        if self.orientation is not None:
            groups = sorted("RLAPSI".index(o) // 2 for o in self.orientation if o in "RLAPSI")
            if net.ndim != 3 or groups != [0, 1, 2] or len(self.orientation) != 3:
                raise InputError(
                    "orientation must name three directions such as SPL (for ZYX), got "
                    f"{self.orientation!r}."
                )
        if not 0.0 < self.threshold < 1.0:
            raise InputError(f"threshold must lie between 0 and 1, got {self.threshold}.")
        if self.auto_tolerance is not None and not 0.0 <= self.auto_tolerance <= 1.0:
            raise InputError(f"auto_tolerance must lie between 0 and 1, got {self.auto_tolerance}.")
        known = set(net.head_levels)
        if not self.levels_trained or not set(self.levels_trained) <= known:
            raise InputError(
                f"levels_trained must be some of {sorted(known)}, got {self.levels_trained}."
            )

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the network's output channels, in order."""
        background = ("background",) if self.network.activation == "softmax" else ()
        return background + tuple(c.name for c in self.classes) + self.auxiliary

    @property
    def class_channels(self) -> slice:
        """Output channels that are the foreground classes."""
        first = 1 if self.network.activation == "softmax" else 0
        return slice(first, first + len(self.classes))

    def replace(self, **changes: Any) -> ModelCard:
        """Return a validated copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelCard:
        """Make a card from plain JSON values; unknown keys are an error.

        Raises
        ------
        InputError
            If a key is unknown or missing, or a value is not valid.
        """
        data = dict(values)
        try:
            data["network"] = NetworkConfig(**data["network"])
            data["classes"] = tuple(ClassInfo(**c) for c in data["classes"])
            if "normalisation" in data:
                data["normalisation"] = Normalisation(**data["normalisation"])
            if data.get("instances") is not None:
                data["instances"] = InstanceRule(**data["instances"])
            for key in ("auxiliary", "input_channels", "spacing", "levels_trained"):
                if data.get(key) is not None:
                    data[key] = tuple(data[key])
            return cls(**data)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the model card cannot be read ({error}); expected the fields of ModelCard."
            ) from error
