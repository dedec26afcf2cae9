"""Drives the page of ``examples/trame_app.py`` as a person would; run in trame's environment.

It starts the server, opens the page in Chromium, moves the slider, segments, paints, fine-tunes
and reverts, and prints what the page said as one line of JSON. No pytest here: the tests' own
environment has neither trame nor Playwright.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0
"""Seconds that a step may take on a machine that is busy with other things."""

STROKES = {
    "mandible": [
        [(0.33, 0.55), (0.33, 0.63)],
        [(0.67, 0.55), (0.67, 0.63)],
        [(0.37, 0.49), (0.43, 0.40)],
        [(0.63, 0.50), (0.57, 0.40)],
    ],
    "background": [
        [(0.42, 0.54), (0.58, 0.54)],
        [(0.32, 0.76), (0.40, 0.86)],
        [(0.68, 0.76), (0.60, 0.86)],
        [(0.44, 0.46), (0.56, 0.46)],
    ],
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(what: str, there: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def text(page: Page, name: str) -> str:
    return page.locator(f".{name}").first.inner_text()


def choose(page: Page, name: str) -> None:
    """Choose a class to paint."""
    page.locator(".paint .v-field").click()
    page.locator(".v-overlay .v-list-item", has_text=name).first.click()
    wait_for(f"painting {name}", lambda: text(page, "status").startswith(f"painting {name}"))


def drag(page: Page, view: Locator, path: list[tuple[float, float]]) -> None:
    """Drag over a view, and wait until it is painted; the path is in parts of width and height."""
    box = view.bounding_box()
    assert box is not None
    points = [(box["x"] + box["width"] * u, box["y"] + box["height"] * v) for u, v in path]
    before = text(page, "painted")
    page.mouse.move(*points[0])
    time.sleep(0.3)
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
        time.sleep(0.2)
    page.mouse.up()
    # On a busy machine the page hears of it late: the next stroke may be of another class.
    wait_for("a stroke", lambda: text(page, "painted") != before)
    last = ""
    while last != text(page, "painted"):
        last = text(page, "painted")
        time.sleep(2)


def drive(page: Page, shot: Path) -> dict[str, Any]:
    """Do what a person does; return what the page said."""
    seen: dict[str, Any] = {}
    views = page.locator("img, canvas, video").filter(visible=True)
    wait_for("the views", lambda: views.count() >= 4)
    largest = max(
        (views.nth(k) for k in range(views.count())),
        key=lambda view: (lambda b: b["width"] * b["height"] if b else 0)(view.bounding_box()),
    )
    thumb = page.locator(".level [role=slider]")
    thumb.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    wait_for("L2", lambda: page.locator(".level").inner_text().strip() == "L2")

    page.locator(".segment").click()
    wait_for("the result", lambda: text(page, "status").startswith("done: "))
    seen["segmented"] = text(page, "status")

    # Places in the sample CT, on the slice that the page shows after the first result.
    for name, paths in STROKES.items():
        choose(page, name)
        for path in paths:
            drag(page, largest, path)
    wait_for("both classes", lambda: "background" in text(page, "painted"))
    seen["painted"] = text(page, "painted")

    page.locator(".finetune").click()
    wait_for("steps", lambda: text(page, "status").startswith(("step ", "fine-tuned")))
    wait_for("the end of fine-tuning", lambda: text(page, "status").startswith("fine-tuned in "))
    seen["tuned"] = text(page, "status")
    seen["report"] = text(page, "report")
    page.locator(".segment").click()
    wait_for("the result", lambda: text(page, "status").startswith("done: "))
    seen["again"] = text(page, "status")
    time.sleep(2)
    page.screenshot(path=str(shot))
    if page.locator(".revert").is_enabled():
        page.locator(".revert").click()
        wait_for("the base", lambda: text(page, "status") == "back to the base model.")
    page.locator(".undo").click()
    wait_for("undo", lambda: "taken back" in text(page, "status"))
    seen["undone"] = text(page, "status")
    return seen


def main() -> None:
    """Serve, drive, tell, and end the server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shot", type=Path, required=True)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--seconds", default="20")
    given = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    app = [sys.executable, str(ROOT / "examples" / "trame_app.py")]
    with subprocess.Popen(
        [*app, "--port", str(port), "--seconds", given.seconds], env={**os.environ, "CI": "1"},
        stdout=sys.stderr,
    ) as server:  # fmt: skip
        try:
            wait_for("the server", lambda: answers(url) or server.poll() is not None)
            if server.poll() is not None:
                raise SystemExit("the server ended at its start")
            with sync_playwright() as tools:
                browser = tools.chromium.launch(
                    executable_path=given.chromium, args=["--no-sandbox", "--disable-gpu"]
                )
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                page.set_default_timeout(PATIENCE * 1000)
                page.goto(url)
                try:
                    seen = drive(page, given.shot)
                except BaseException:
                    page.screenshot(path=str(given.shot))  # what was on screen
                    raise
                finally:
                    browser.close()
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
