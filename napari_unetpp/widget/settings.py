"""What the user prefers: device, numbers, threads and live prediction; models used lately.

The preferences live in napari's own settings (File > Preferences > UNet++ segmentation), which
napari makes from the configurations in ``napari.yaml``. The models used lately are no setting;
they lie in a small file of ours. Knows napari's settings and that file; no widget, no model.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from napari_unetpp.core.data.io.atomic import replacing
from napari_unetpp.core.errors import FileError
from napari_unetpp.core.teach.places import config_folder

PLUGIN = "napari-unetpp"
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
MOST_RECENT = 8

_log = logging.getLogger("napari_unetpp")


@dataclass(frozen=True)
class Preferences:
    """How models run and whether the panel predicts by itself.

    Attributes
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
        Where models run.
    precision : {"auto", "float32", "bfloat16", "float16"}
        Numbers they are computed in.
    threads : int
        Processor threads, 0 to 256; 0 leaves the choice to PyTorch.
    live : bool
        Whether what is on screen is predicted as soon as the panel is open.
    live_megabytes : int
        Memory for the kept nodes of a live view, 64 to 1048576 MB; of a larger view the middle
        part is taken.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    live: bool = True
    live_megabytes: int = 2048


# Where a preference stands in napari.yaml, and which values are taken.
_PLACES: dict[str, tuple[str, str, Callable[[Any], bool]]] = {
    "device": ("computing", "device", lambda v: v in DEVICES),
    "precision": ("computing", "precision", lambda v: v in PRECISIONS),
    "threads": ("computing", "threads", lambda v: type(v) is int and 0 <= v <= 256),
    "live": ("live", "on_start", lambda v: isinstance(v, bool)),
    "live_megabytes": ("live", "megabytes", lambda v: type(v) is int and 64 <= v <= 2**20),
}


def read_preferences() -> Preferences:
    """Return the preferences as napari has them now.

    Returns
    -------
    Preferences
        With the default for each value that is out of range, and for all of them where napari
        has no settings for plugins (before 0.9) or does not know this one.
    """
    settings = _settings()
    found = Preferences()
    for name, (section, key, fits) in _PLACES.items():
        value = getattr(getattr(settings, section, None), key, None)
        if value is None:
            continue
        if fits(value):
            found = replace(found, **{name: value})
        else:
            _log.warning("the preference %s is %r, which is out of range; ignored", name, value)
    return found


def watch_preferences(callback: Callable[[Preferences], None]) -> Callable[[], None]:
    """Call back with the preferences whenever the user changes one.

    Parameters
    ----------
    callback : callable
        Gets the new preferences, on the thread that changed them.

    Returns
    -------
    callable
        Ends it; harmless when it is called again.
    """
    settings = _settings()
    sections = [getattr(settings, name, None) for name in ("computing", "live")]

    def changed(event: Any = None) -> None:
        callback(read_preferences())

    emitters = [section.events for section in sections if section is not None]
    for emitter in emitters:
        emitter.connect(changed)

    def end() -> None:
        for emitter in emitters:
            with contextlib.suppress(ValueError):
                emitter.disconnect(changed)

    return end


def _settings() -> Any:
    """Return napari's settings of this plug-in, or None."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:  # napari before 0.9
        return None
    try:
        return get_plugin_settings(PLUGIN)
    except KeyError:  # napari runs without plug-ins, or this one is switched off
        return None


def read_recent() -> list[str]:
    """Return the model files used lately, the latest first; empty if there is no such list."""
    try:
        text = (config_folder() / "recent.json").read_text(encoding="utf-8")
        found = json.loads(text)["models"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("the list of recent models cannot be read (%s); a new one is begun", error)
        return []
    names = found if isinstance(found, list) else []
    return [name for name in names if isinstance(name, str) and name][:MOST_RECENT]


def write_recent(models: Sequence[str]) -> None:
    """Keep the model files used lately; a folder that cannot be written is no reason to stop."""
    text = json.dumps({"models": list(models)[:MOST_RECENT]}, indent=2)
    try:
        with replacing(config_folder() / "recent.json") as staged:
            staged.write_text(text + "\n", encoding="utf-8")
    except FileError as error:
        _log.warning("the list of recent models is not kept: %s", error)
